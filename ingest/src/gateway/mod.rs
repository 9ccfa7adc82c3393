//! The gateway's server: it binds the routes of all sources and serves them.
//!
//! It knows no source by name: [`crate::sources`] is their registry. Read `receive` next for what happens to every
//! request.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::routing::get;
use headrace_runtime::broker::Broker;
use headrace_runtime::http;
use headrace_runtime::http::connections::Connections;
use headrace_runtime::publish::store_health::StoreHealth;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
pub use crate::receive::Mount;
use crate::receive::admission::Admission;
use crate::receive::body::discard;
use crate::receive::denial_log::DenialLog;
use crate::receive::{Shared, Signals};
use crate::source::Common;
use crate::source::Refusal;
use crate::sources;
use crate::tenant::Tenants;

/// The gateway, ready to serve.
#[derive(Clone)]
pub struct Gateway {
    shared: Arc<Shared>,
    mounts: Vec<Mount>,
    connections: Connections,
}

impl Gateway {
    /// Builds the gateway from `config`, which must have been validated, with every source that it asks for. The gateway
    /// reports to `stores` whether its deliveries are stored.
    #[must_use]
    pub fn new(config: &Config, tenants: &Tenants, broker: &Broker, stores: StoreHealth) -> Self {
        let common = Common { tenants, duplicate_window: broker.duplicate_window() };
        Self::with(sources::mounts(config, common), config, broker, stores)
    }

    /// As [`Self::new`], with `mounts` for sources.
    #[must_use]
    pub fn with(mounts: Vec<Mount>, config: &Config, broker: &Broker, stores: StoreHealth) -> Self {
        let connections = Connections::new("gateway", config.connections_max);
        let shared = Shared {
            admission: Admission::new(config, &connections),
            stores,
            broker: broker.clone(),
            denials: DenialLog::default(),
            signals: Signals::new(),
            config: config.clone(),
        };
        Self { shared: Arc::new(shared), mounts, connections }
    }

    /// Serves on `listener` until `stop`, then finishes the requests under way.
    ///
    /// # Errors
    /// When the listener fails for good.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> anyhow::Result<()> {
        let (routes, head_max) = (self.routes(), self.shared.config.head_max());
        self.shared.denials.beside(http::serve(listener, routes, &self.connections, head_max, stop)).await
    }

    /// The routes of all sources, and `/healthz`. Everything that the public need not see is on the operators' port.
    fn routes(&self) -> Router {
        let answer_max = self.shared.config.answer_max();
        let first_paths = self.mounts.iter().filter_map(|mount| mount.paths().into_iter().next());
        let paths: Arc<str> = first_paths.collect::<Vec<_>>().join(", ").into();
        let routes = self.mounts.iter().map(|mount| mount.routes(&self.shared)).fold(Router::new(), Router::merge);
        routes
            .route("/healthz", get(async || "alive\n"))
            .method_not_allowed_fallback(move |request: Request| {
                let refusal = Refusal::MethodNotAllowed(request.method().to_string());
                refuse(request, answer_max, refusal)
            })
            .fallback(move |request| refuse(request, answer_max, Refusal::UnknownPath(paths.to_string())))
    }
}

async fn refuse(request: Request, answer_max: Duration, refusal: Refusal) -> Refusal {
    let (parts, mut body) = request.into_parts();
    discard(&mut body, &parts.headers, Instant::now() + answer_max).await;
    refusal
}
