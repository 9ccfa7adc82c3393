//! The registry of sources: the server learns of them here alone. To add a source, add a field, and a call in each
//! function.

use std::sync::Arc;

use axum::Router;

use crate::config::Tenants;
use crate::github;
use crate::receive::Shared;

/// Every source.
pub(super) struct Sources {
    github: github::Webhooks,
}

impl Sources {
    pub(super) fn new(shared: &Arc<Shared>, tenants: &Tenants) -> Self {
        Self { github: github::Webhooks::new(shared, tenants) }
    }

    /// The routes of every source.
    pub(super) fn routes(&self) -> Router {
        Router::new().merge(self.github.routes())
    }

    /// Runs `serving`, the server of the routes, to its end, and what belongs to no single request beside it.
    pub(super) async fn beside<T>(&self, serving: impl Future<Output = T>) -> T {
        self.github.beside(serving).await
    }
}
