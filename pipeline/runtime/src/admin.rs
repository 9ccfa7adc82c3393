//! `/healthz`, `/readyz` and `/metrics`: the same routes on the gateway and on the port for operators.

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
use crate::consumer::{Lane, Subscription};
use crate::health::Health;
use crate::metrics::{LAG, PENDING};

/// What the routes tell of.
#[derive(Clone)]
pub struct Admin {
    /// The process's metrics.
    pub metrics: PrometheusHandle,
    /// The process's components.
    pub health: Health,
    /// The broker.
    pub broker: Broker,
}

/// Longest time to wait for the broker's answer to a readiness probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

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
        let server = axum::serve(listener, self.routes());
        Ok(server.with_graceful_shutdown(stop.cancelled_owned()).await?)
    }
}

async fn ready(Shared(admin): Shared<Admin>) -> Response {
    let broker = match timeout(PROBE_TIMEOUT, admin.broker.ready()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(_) => Err("NATS does not answer".to_owned()),
    };
    let status = if broker.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    // A sink whose receiver is away does not make the process unready: it delays nobody else.
    let body = json!({ "ready": broker.is_ok(), "broker": broker.err(), "components": admin.health.snapshot() });
    (status, Json(body)).into_response()
}

async fn metrics(Shared(admin): Shared<Admin>) -> Response {
    let text = admin.metrics.render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// Measures the backlog of `subscriptions`, each by the connection of its role, until `stop`, and does the recorder's
/// upkeep.
///
/// # Errors
/// When the broker does not answer.
pub async fn measure_lag(
    subscriptions: Vec<(Broker, Subscription)>,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut lanes = Vec::new();
    for (broker, subscription) in &subscriptions {
        lanes.push((subscription.component.clone(), Lane::open(broker, subscription).await?));
    }
    let mut ticks = tokio::time::interval(Duration::from_secs(5));
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return Ok(()),
        }
        for (component, lane) in &mut lanes {
            let (waiting, unsettled) = lane.backlog().await?;
            gauge!(LAG, "component" => component.clone()).set(waiting as f64);
            gauge!(PENDING, "component" => component.clone()).set(unsettled as f64);
        }
        metrics.run_upkeep();
    }
}
