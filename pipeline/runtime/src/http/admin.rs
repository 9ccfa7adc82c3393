//! `/healthz`, `/readyz` and `/metrics` on the port for operators. None of it is for the public.

use std::time::Duration;

use axum::Router;
use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use metrics::gauge;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::component::subscription::Subscription;
use crate::consume::Subscriber;
use crate::every::every;
use crate::http;
use crate::http::connections::Connections;
use crate::observe::health::Health;
use crate::observe::metrics::{LAG, PENDING};
use crate::publish::store_health::StoreHealth;

/// What the routes report on.
#[derive(Clone)]
pub struct Admin {
    /// The process's metrics.
    pub metrics: PrometheusHandle,
    /// The process's components.
    pub health: Health,
    /// The broker.
    pub broker: Broker,
    /// How the gateway's last attempts to store went, when the process has a gateway.
    pub stores: Option<StoreHealth>,
}

/// The most connections at once. A scraper and a probe need a handful, but every account of the machine can reach
/// loopback.
const CONNECTIONS_MAX: usize = 64;
/// Longest time for the head of a request.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// Longest time to wait for the broker's answer to a readiness probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often to measure the backlog.
const LAG_PERIOD: Duration = Duration::from_secs(5);

impl Admin {
    /// The three routes.
    pub fn routes(&self) -> Router {
        Router::new()
            .route("/healthz", get(async || "alive\n"))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .with_state(self.clone())
    }

    /// Serves the routes until `stop`.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> anyhow::Result<()> {
        let connections = Connections::new("admin", CONNECTIONS_MAX);
        http::serve(listener, self.routes(), &connections, HEAD_MAX, stop).await
    }
}

async fn ready(Shared(admin): Shared<Admin>) -> Response {
    let stores = async {
        match &admin.stores {
            Some(stores) => stores.check(&admin.broker).await,
            None => Ok(()),
        }
    };
    let (broker, gateway) = tokio::join!(within(admin.broker.ready()), within(stores));
    let ready = broker.is_ok() && gateway.is_ok();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    // A sink whose receiver is away does not make the process unready, because it delays nobody else.
    let body = json!({
        "ready": ready,
        "broker": broker.err(),
        "gateway": gateway.err(),
        "components": admin.health.snapshot(),
    });
    (status, Json(body)).into_response()
}

async fn within(probe: impl Future<Output = anyhow::Result<()>>) -> Result<(), String> {
    match timeout(PROBE_TIMEOUT, probe).await {
        Ok(outcome) => outcome.map_err(|error| format!("{error:#}")),
        Err(_) => Err("NATS does not answer".to_owned()),
    }
}

async fn metrics(Shared(admin): Shared<Admin>) -> Response {
    let text = admin.metrics.render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// Measures the backlog of `subscriptions` until `stop`, each over the connection of its role, and does the recorder's
/// upkeep.
///
/// # Errors
/// When the broker does not answer.
pub async fn measure_lag(
    subscriptions: Vec<(Broker, Subscription)>,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut subscribers = Vec::new();
    for (broker, subscription) in &subscriptions {
        subscribers.push((subscription.component.clone(), Subscriber::open(broker, subscription).await?));
    }
    let mut turns = every(LAG_PERIOD, &stop);
    while turns.next().await {
        for (component, subscriber) in &mut subscribers {
            let (waiting, unsettled) = subscriber.backlog().await?;
            gauge!(LAG, "component" => component.clone()).set(waiting as f64);
            gauge!(PENDING, "component" => component.clone()).set(unsettled as f64);
        }
        metrics.run_upkeep();
    }
    Ok(())
}
