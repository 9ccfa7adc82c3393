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
/// One that cannot be measured keeps no other from it.
///
/// # Errors
/// Never: what could not be measured is tried again.
pub async fn measure_lag(
    subscriptions: Vec<(Broker, Subscription)>,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let measured = |(broker, subscription)| Measured { broker, subscription, subscriber: None, has_failed: false };
    let mut all: Vec<Measured> = subscriptions.into_iter().map(measured).collect();
    let mut turns = every(LAG_PERIOD, &stop);
    while turns.next().await {
        let mut failed: Option<(Vec<&str>, anyhow::Error)> = None;
        for one in &mut all {
            let error = one.measure().await.err();
            let had_failed = std::mem::replace(&mut one.has_failed, error.is_some());
            if let Some(error) = error.filter(|_| !had_failed) {
                failed.get_or_insert_with(|| (Vec::new(), error)).0.push(&one.subscription.component);
            }
        }
        if let Some((components, error)) = failed {
            let (components, error) = (components.join(", "), format!("{error:#}"));
            tracing::warn!(components, error, "cannot measure what waits for these; their metrics stay as they are");
        }
        metrics.run_upkeep();
    }
    Ok(())
}

/// A consumer whose backlog is measured.
struct Measured {
    broker: Broker,
    subscription: Subscription,
    /// `None` until it could be opened.
    subscriber: Option<Subscriber>,
    has_failed: bool,
}

impl Measured {
    async fn measure(&mut self) -> anyhow::Result<()> {
        let mut subscriber = match self.subscriber.take() {
            Some(subscriber) => subscriber,
            None => Subscriber::open(&self.broker, &self.subscription).await?,
        };
        let (waiting, unsettled) = subscriber.backlog().await?;
        // Only one that answers is kept: a consumer that is gone must be made anew.
        self.subscriber = Some(subscriber);
        let component = || self.subscription.component.clone();
        gauge!(LAG, "component" => component()).set(waiting as f64);
        gauge!(PENDING, "component" => component()).set(unsettled as f64);
        Ok(())
    }
}
