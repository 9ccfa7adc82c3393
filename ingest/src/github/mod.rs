//! GitHub webhooks: verify, find the tenant, store, answer.

mod body;
mod digest;
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
use headrace_runtime::http::connections::Connection;
use headrace_runtime::observe::metrics::{IN_FLIGHT, REQUESTS, STORE_SECONDS, STORED_BYTES, VERIFIED, seconds_since};
use headrace_runtime::observe::trace::TraceParent;
use headrace_runtime::publish::{self, Stored};
use headrace_schemas::catalog::Family;
use headrace_schemas::header;
use headrace_schemas::time::Timestamp;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use serde_json::json;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument as _;

use crate::gateway::Shared;
use crate::reply::Refusal;

pub(crate) use self::body::discard;
pub use self::body::{MediaType, form_payload};
use self::envelope::Envelope;
pub use self::verify::{Claim, Denied, Keys, parse_signature};

/// Hashing this many bytes takes about half a millisecond: what takes longer leaves the reactor.
const INLINE_MAX_BYTES: usize = 512 << 10;

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
    let (Parts { headers, extensions, .. }, mut body) = request.into_parts();
    let connection = extensions.get::<Connection>();
    let traceparent = headers.get(header::TRACEPARENT).and_then(|value| TraceParent::parse(value.to_str().ok()?));
    let traceparent = traceparent.map_or_else(TraceParent::generate, |parent| parent.child());
    let span = tracing::debug_span!("receive", trace_id = traceparent.trace_id());
    let _under_way = InFlight::begin(&shared.signals.in_flight);
    let incoming = IncomingRequest { headers: &headers, connection, deadline, received_at };
    let stored = store(&shared, family, &incoming, &mut body, &traceparent);
    match stored.instrument(span).await {
        Ok(answer) => answer,
        Err(refusal) => {
            discard(&mut body, &headers, deadline).await;
            refusal.into_response()
        }
    }
}

/// A request of which the head has come.
struct IncomingRequest<'a> {
    headers: &'a HeaderMap,
    connection: Option<&'a Connection>,
    deadline: Instant,
    received_at: Timestamp,
}

async fn store(
    shared: &Shared,
    family: Option<Family>,
    incoming: &IncomingRequest<'_>,
    body: &mut Body,
    traceparent: &TraceParent,
) -> Result<Response, Refusal> {
    let IncomingRequest { headers, connection, deadline, received_at } = *incoming;
    let envelope = Envelope::read(headers, family)?;
    let length = body::announced_length(headers, shared.config.body_max_bytes)?;
    let mut reservation = shared.admission.reserve(connection);
    let body = body::read(body, length, &mut reservation, &shared.config, deadline).await?;
    let tenant = authorize(shared, &envelope, &body).await?;
    shared.signals.verified.increment(1);
    if let Some(connection) = connection {
        connection.prove();
    }
    // Only now: who cannot sign takes no place of those who can.
    let _slot = shared.admission.slot(deadline).await?;
    let time_left = deadline.saturating_duration_since(Instant::now());
    let stored = timeout_at(deadline, publish(shared, &envelope, &tenant, received_at, traceparent, body));
    let stored = stored.await.unwrap_or(Err(Refusal::BrokerAway));
    match &stored {
        Ok(_) => shared.stores.stored(),
        // A sender that took all the time says nothing of the broker.
        Err(_) if time_left < shared.broker.timeout().min(shared.config.answer_max()) / 2 => {}
        Err(refusal) => shared.stores.failed(&format!("the last delivery was not stored ({})", refusal.code())),
    }
    let stored = stored?;
    shared.signals.store_seconds.record(seconds_since(received_at));
    Ok(accepted(shared, &envelope, stored))
}

/// The tenant of a delivery that may come in.
async fn authorize(shared: &Shared, envelope: &Envelope<'_>, body: &Bytes) -> Result<String, Refusal> {
    let Envelope { hook_id, signature, media_type, .. } = *envelope;
    if body.len().saturating_mul(shared.keys.tried(hook_id)) <= INLINE_MAX_BYTES {
        return Ok(shared.keys.authorize(&Claim { body, hook_id, signature, media_type })?);
    }
    let (keys, body) = (shared.keys.clone(), body.clone());
    let search = move || keys.authorize(&Claim { body: &body, hook_id, signature, media_type });
    Ok(tokio::task::spawn_blocking(search).await.map_err(|_| Refusal::Saturated)??)
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
        if publish::is_full(&fault) {
            return Refusal::StreamFull;
        }
        tracing::warn!(%fault, id = envelope.id.as_str(), "event not stored; the sender is asked to send it again");
        Refusal::BrokerAway
    };
    let sha256 = digest::sha256(&body).await;
    let mut outgoing = envelope.outgoing(tenant, received_at, &sha256);
    let length = body.len() as u64;
    if body.len() > shared.broker.payload_max() {
        // Claim check. The object first: a reference in RAW must never point at nothing.
        let name = envelope.id.body_object(tenant, &sha256);
        if !shared.broker.is_connected() {
            return Err(Refusal::BrokerAway);
        }
        shared.publisher.store_body(&name, &body).await.map_err(away)?;
        outgoing.headers.insert(header::BODY_OBJECT, name.as_str());
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
