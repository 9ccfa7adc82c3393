//! The registry of sources.

use std::sync::Arc;

use axum::Router;

use crate::config::Tenants;
use crate::github;
use crate::receive::Shared;

/// The routes of every source; a new source is a line here.
pub(super) fn routes(shared: &Arc<Shared>, tenants: &Tenants) -> Router {
    Router::new().merge(github::routes(shared, tenants))
}
