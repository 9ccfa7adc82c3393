//! GitHub webhooks: verify, find the tenant, store, answer.

mod body;
mod envelope;
mod stored;
mod verify;

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use headrace_runtime::crash::{self, Point};
use headrace_runtime::metrics::{IN_FLIGHT, REQUESTS, STORE_SECONDS, STORED_BYTES, VERIFIED, seconds_since};
use headrace_runtime::publisher::{self, Stored};
use headrace_runtime::trace::TraceParent;
use headrace_schemas::catalog::Family;
use headrace_schemas::header;
use headrace_schemas::time::Timestamp;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use serde_json::json;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument as _;

use crate::gateway::Shared;
use crate::reply::Refusal;
use crate::tenant::login_of;

use self::body::MediaType;
pub(crate) use self::body::discard;
pub use self::body::form_payload;
use self::envelope::Envelope;
pub use self::verify::{KeyIndex, Keys, parse_signature};

/// The signals of the data path, looked up once.
pub(crate) struct Signals {
    accepted: Counter,
    duplicate: Counter,
    verified: Counter,
    stored_bytes: Counter,
    in_flight: Gauge,
    store_seconds: Histogram,
}

impl Signals {
    pub(crate) fn new() -> Self {
        Self {
            accepted: counter!(REQUESTS, "reason" => "accepted"),
            duplicate: counter!(REQUESTS, "reason" => "duplicate"),
            verified: counter!(VERIFIED),
            stored_bytes: counter!(STORED_BYTES),
            in_flight: gauge!(IN_FLIGHT),
            store_seconds: histogram!(STORE_SECONDS),
        }
    }
}

/// Counts a request as under way until it is dropped: one whose sender goes away ends without an answer.
struct InFlight<'a>(&'a Gauge);

impl<'a> InFlight<'a> {
    fn begin(gauge: &'a Gauge) -> Self {
        gauge.increment(1);
        Self(gauge)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

/// `POST /webhooks/github`: every family.
pub(crate) async fn receive_any(shared: State<Arc<Shared>>, request: Request) -> Response {
    receive(shared, None, request).await
}

/// `POST /webhooks/github/{family}`: the kinds of one family, or of all.
pub(crate) async fn receive(State(shared): State<Arc<Shared>>, family: Option<Family>, request: Request) -> Response {
    let received_at = Timestamp::now();
    let deadline = Instant::now() + shared.config.answer_max();
    let (Parts { headers, .. }, mut body) = request.into_parts();
    let traceparent = headers.get(header::TRACEPARENT).and_then(|value| TraceParent::parse(value.to_str().ok()?));
    let traceparent = traceparent.map_or_else(TraceParent::generate, |parent| parent.child());
    let span = tracing::debug_span!("receive", trace_id = traceparent.trace_id());
    let _under_way = InFlight::begin(&shared.signals.in_flight);
    let stored = store(&shared, family, &headers, &mut body, deadline, received_at, &traceparent);
    match stored.instrument(span).await {
        Ok(answer) => answer,
        Err(refusal) => {
            discard(&mut body, &headers, deadline).await;
            refusal.into_response()
        }
    }
}

async fn store(
    shared: &Shared,
    family: Option<Family>,
    headers: &HeaderMap,
    body: &mut Body,
    deadline: Instant,
    received_at: Timestamp,
    traceparent: &TraceParent,
) -> Result<Response, Refusal> {
    let envelope = Envelope::read(headers, family)?;
    let length = body::announced_length(headers, shared.config.body_max_bytes)?;
    let mut admission = shared.limits.admit(length.unwrap_or(shared.config.body_max_bytes), deadline).await?;
    let body = body::read(body, length, &mut admission, &shared.config, deadline).await?;
    let key = shared.keys.verify(&body, &envelope).await?;
    shared.signals.verified.increment(1);

    let login = match envelope.media_type {
        MediaType::Json => login_of(&body),
        MediaType::Form => login_of(form_payload(&body).ok_or(Refusal::MissingPayload)?.as_bytes()),
    };
    shared.keys.check_scope(key, login.as_deref())?;
    let tenant = shared.tenants.tenant(login.as_deref());
    let stored = timeout_at(deadline, publish(shared, &envelope, &tenant, received_at, traceparent, body))
        .await
        .map_err(|_| Refusal::BrokerAway)??;
    shared.signals.store_seconds.record(seconds_since(received_at));
    Ok(accepted(shared, &envelope, stored))
}

async fn publish(
    shared: &Shared,
    envelope: &Envelope<'_>,
    tenant: &str,
    received_at: Timestamp,
    traceparent: &TraceParent,
    body: Bytes,
) -> Result<Stored, Refusal> {
    let away = |fault: headrace_runtime::fault::Fault| {
        // Not logged for each: it goes on for as long as a sink is away, and retention tells of it.
        if publisher::is_full(&fault) {
            return Refusal::StreamFull;
        }
        tracing::warn!(%fault, id = envelope.id.as_str(), "event not stored; the sender is asked to send it again");
        Refusal::BrokerAway
    };
    let mut outgoing = envelope.outgoing(tenant, received_at);
    let length = body.len() as u64;
    if body.len() > shared.broker.payload_max() {
        // Claim check. The object first: a reference in RAW must never point at nothing.
        let name = envelope.id.as_str();
        if !shared.broker.is_connected() {
            return Err(Refusal::BrokerAway);
        }
        shared.publisher.store_body(name, &body).await.map_err(away)?;
        outgoing.headers.insert(header::BODY_OBJECT, name);
        outgoing.headers.insert(header::BODY_BYTES, length.to_string());
    } else {
        outgoing.payload = body;
    }
    crash::pass(Point::BeforeStore);
    let sent = shared.publisher.send(outgoing, Some(traceparent.as_str())).await.map_err(away)?;
    crash::pass(Point::BeforeStoreAck);
    let stored = sent.confirmed().await.map_err(away)?;
    crash::pass(Point::AfterStoreAck);
    shared.signals.stored_bytes.increment(length);
    Ok(stored)
}

fn accepted(shared: &Shared, envelope: &Envelope<'_>, stored: Stored) -> Response {
    let (status, word) = if stored.duplicate {
        shared.signals.duplicate.increment(1);
        (StatusCode::OK, "duplicate")
    } else {
        shared.signals.accepted.increment(1);
        (StatusCode::ACCEPTED, "stored")
    };
    tracing::debug!(id = envelope.id.as_str(), sequence = stored.sequence, status = word, "event stored");
    (status, Json(json!({ "status": word, "id": envelope.id.as_str() }))).into_response()
}
