//! The gateway as a whole: its routes and what they share.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::routing::{get, post};
use headrace_runtime::broker::Broker;
use headrace_runtime::http;
use headrace_runtime::http::connections::Connections;
use headrace_runtime::publish::Publisher;
use headrace_runtime::publish::store_health::StoreHealth;
use headrace_schemas::catalog::Family;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::admission::Admission;
use crate::config::{Config, Tenants};
use crate::github;
use crate::reply::Refusal;

/// What all sources share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) admission: Admission,
    pub(crate) stores: StoreHealth,
    pub(crate) broker: Broker,
    pub(crate) publisher: Publisher,
    pub(crate) keys: github::Keys,
    pub(crate) signals: github::Signals,
}

/// The gateway, ready to serve.
#[derive(Clone)]
pub struct Gateway {
    shared: Arc<Shared>,
    connections: Connections,
}

impl Gateway {
    /// A gateway as configured; `config` must have been validated. It tells `stores` what its deliveries meet.
    #[must_use]
    pub fn new(config: &Config, tenants: &Tenants, broker: &Broker, stores: StoreHealth) -> Self {
        let connections = Connections::new("gateway", config.connections_max);
        let shared = Shared {
            admission: Admission::new(config, &connections),
            stores,
            broker: broker.clone(),
            publisher: Publisher::new(broker),
            keys: github::Keys::new(&config.github, tenants),
            signals: github::Signals::new(),
            config: config.clone(),
        };
        Self { shared: Arc::new(shared), connections }
    }

    /// Serves on `listener` until `stop`, then finishes the requests under way.
    ///
    /// # Errors
    /// When the listener fails for good.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> anyhow::Result<()> {
        http::serve(listener, self.routes(), &self.connections, self.shared.config.head_max(), stop).await
    }

    /// Every route; a new source is a line here. What the public need not see is on the port for operators.
    fn routes(&self) -> Router {
        let answer_max = self.shared.config.answer_max();
        let mut sources = Router::new().route("/webhooks/github", post(github::receive_any));
        for family in Family::ALL {
            let path = format!("/webhooks/github/{}", family.as_str());
            let receive = move |shared, request| github::receive(shared, Some(family), request);
            sources = sources.route(&path, post(receive));
        }
        sources
            .with_state(Arc::clone(&self.shared))
            .route("/healthz", get(async || "alive\n"))
            .method_not_allowed_fallback(move |request: Request| {
                let refusal = Refusal::MethodNotAllowed(request.method().to_string());
                refuse(request, answer_max, refusal)
            })
            .fallback(move |request| refuse(request, answer_max, Refusal::UnknownPath))
    }
}

async fn refuse(request: Request, answer_max: Duration, refusal: Refusal) -> Refusal {
    let (parts, mut body) = request.into_parts();
    github::discard(&mut body, &parts.headers, Instant::now() + answer_max).await;
    refusal
}
