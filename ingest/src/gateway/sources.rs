//! The registry of sources: the server learns of them here alone. To add a source, add a line to [`routes`].

use std::sync::Arc;

use axum::Router;

use crate::config::Tenants;
use crate::github;
use crate::receive::Shared;

/// The routes of every source.
pub(super) fn routes(shared: &Arc<Shared>, tenants: &Tenants) -> Router {
    Router::new().merge(github::routes(shared, tenants))
}
