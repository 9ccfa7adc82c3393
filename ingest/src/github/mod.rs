//! GitHub webhooks: verify, find the tenant, store, answer.
//!
//! A request is refused, or its body is stored unchanged. `verify` decides who may sign what, `envelope` checks the
//! headers, and `recovery` asks GitHub for deliveries that did not arrive.

mod denial_log;
mod denied;
mod digest;
mod envelope;
mod media_type;
pub mod recovery;
mod stored;
pub mod tenant;
mod verify;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
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

use crate::config::Tenants;
use crate::receive::body::discard;
use crate::receive::reply::Refusal;
use crate::receive::{Shared, body};

use self::denial_log::DenialLog;
pub use self::denied::Denied;
use self::envelope::Envelope;
pub use self::media_type::{MediaType, form_payload};
pub use self::verify::{Claim, Keys, parse_signature};

/// Hashing this many bytes takes about half a millisecond. Longer work leaves the reactor.
const INLINE_MAX_BYTES: usize = 512 << 10;

/// The metrics of the data path, looked up once.
struct Signals {
    accepted: Counter,
    duplicate: Counter,
    verified: Counter,
    stored_bytes: Counter,
    in_flight: Gauge,
    store_seconds: Histogram,
}

impl Signals {
    fn new() -> Self {
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

/// Counts a request as under way until it is dropped. When the sender goes away, the request ends without an answer.
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

/// What the requests of this source share.
struct Source {
    shared: Arc<Shared>,
    keys: Keys,
    signals: Signals,
    denials: DenialLog,
}

/// GitHub's webhooks, as the server sees them.
pub(crate) struct Webhooks(Arc<Source>);

impl Webhooks {
    pub(crate) fn new(shared: &Arc<Shared>, tenants: &Tenants) -> Self {
        let keys = Keys::new(&shared.config.github, tenants);
        let (signals, denials) = (Signals::new(), DenialLog::default());
        Self(Arc::new(Source { shared: Arc::clone(shared), keys, signals, denials }))
    }

    /// The routes: `POST /webhooks/github` takes every kind, `/webhooks/github/{family}` those of one family.
    pub(crate) fn routes(&self) -> Router {
        let any = |State(source), request| receive(source, None, request);
        let mut routes = Router::new().route("/webhooks/github", post(any));
        for family in Family::ALL {
            let path = format!("/webhooks/github/{}", family.as_str());
            routes = routes.route(&path, post(move |State(source), request| receive(source, Some(family), request)));
        }
        routes.with_state(Arc::clone(&self.0))
    }

    /// Runs `serving`, the server of the routes, to its end, and what belongs to no single request beside it.
    pub(crate) async fn beside<T>(&self, serving: impl Future<Output = T>) -> T {
        self.0.denials.beside(serving).await
    }
}

async fn receive(source: Arc<Source>, family: Option<Family>, request: Request) -> Response {
    let received_at = Timestamp::now();
    let deadline = Instant::now() + source.shared.config.answer_max();
    let (Parts { headers, extensions, .. }, mut body) = request.into_parts();
    let connection = extensions.get::<Connection>();
    let traceparent = headers.get(header::TRACEPARENT).and_then(|value| TraceParent::parse(value.to_str().ok()?));
    let traceparent = traceparent.map_or_else(TraceParent::generate, |parent| parent.child());
    let span = tracing::debug_span!("receive", trace_id = traceparent.trace_id());
    let _under_way = InFlight::begin(&source.signals.in_flight);
    let incoming = IncomingRequest { headers: &headers, connection, deadline, received_at };
    let stored = store(&source, family, &incoming, &mut body, &traceparent);
    match stored.instrument(span).await {
        Ok(answer) => answer,
        Err(refusal) => {
            if let Refusal::Denied { code, status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, .. } = refusal {
                source.denials.add(code, &headers, connection.map(Connection::peer));
            }
            discard(&mut body, &headers, deadline).await;
            refusal.into_response()
        }
    }
}

/// A request whose head has arrived.
struct IncomingRequest<'a> {
    headers: &'a HeaderMap,
    connection: Option<&'a Connection>,
    deadline: Instant,
    received_at: Timestamp,
}

async fn store(
    source: &Source,
    family: Option<Family>,
    incoming: &IncomingRequest<'_>,
    body: &mut Body,
    traceparent: &TraceParent,
) -> Result<Response, Refusal> {
    let IncomingRequest { headers, connection, deadline, received_at } = *incoming;
    let envelope = Envelope::read(headers, family)?;
    let length = body::announced_length(headers, source.shared.config.body_max_bytes)?;
    let mut reservation = source.shared.admission.reserve(connection);
    let body = body::read(body, length, &mut reservation, &source.shared.config, deadline).await?;
    let tenant = authorize(source, &envelope, &body).await?;
    source.signals.verified.increment(1);
    if let Some(connection) = connection {
        connection.prove();
    }
    // Not earlier: a sender that cannot sign must not take a place from those that can.
    let _slot = source.shared.admission.slot(deadline).await?;
    let time_left = deadline.saturating_duration_since(Instant::now());
    let stored = timeout_at(deadline, publish(source, &envelope, &tenant, received_at, traceparent, body));
    let stored = stored.await.unwrap_or(Err(Refusal::BrokerAway));
    match &stored {
        Ok(_) => source.shared.stores.stored(),
        // The sender took nearly all the time, so this failure says nothing about the broker.
        Err(_) if time_left < source.shared.broker.timeout().min(source.shared.config.answer_max()) / 2 => {}
        Err(refusal) => source.shared.stores.failed(&format!("the last delivery was not stored ({})", refusal.code())),
    }
    let stored = stored?;
    source.signals.store_seconds.record(seconds_since(received_at));
    Ok(accepted(source, &envelope, stored))
}

/// Checks the signature and returns the delivery's tenant.
async fn authorize(source: &Source, envelope: &Envelope<'_>, body: &Bytes) -> Result<String, Refusal> {
    let Envelope { hook_id, signature, media_type, .. } = *envelope;
    if body.len().saturating_mul(source.keys.tried(hook_id)) <= INLINE_MAX_BYTES {
        return Ok(source.keys.authorize(&Claim { body, hook_id, signature, media_type })?);
    }
    let (keys, body) = (source.keys.clone(), body.clone());
    let search = move || keys.authorize(&Claim { body: &body, hook_id, signature, media_type });
    Ok(tokio::task::spawn_blocking(search).await.map_err(|_| Refusal::Saturated)??)
}

async fn publish(
    source: &Source,
    envelope: &Envelope<'_>,
    tenant: &str,
    received_at: Timestamp,
    traceparent: &TraceParent,
    body: Bytes,
) -> Result<Stored, Refusal> {
    let away = |fault: headrace_runtime::fault::Fault| {
        // Do not log each one: this lasts as long as a sink is away, and the runtime's retention reports it.
        if publish::is_full(&fault) {
            return Refusal::StreamFull;
        }
        source.denials.unstored(&fault, envelope.id.as_str());
        Refusal::BrokerAway
    };
    let sha256 = digest::sha256(&body).await;
    let mut outgoing = envelope.outgoing(tenant, received_at, &sha256);
    let length = body.len() as u64;
    if body.len() > source.shared.broker.payload_max() {
        // Claim check. Store the object first: a reference in RAW must never point at nothing.
        let name = envelope.id.body_object(tenant, &sha256);
        if !source.shared.broker.is_connected() {
            return Err(Refusal::BrokerAway);
        }
        source.shared.publisher.store_body(&name, &body).await.map_err(away)?;
        outgoing.headers.insert(header::BODY_OBJECT, name.as_str());
        outgoing.headers.insert(header::BODY_BYTES, length.to_string());
    } else {
        outgoing.payload = body;
    }
    crash::pass(Point::BeforeStore);
    let sent = source.shared.publisher.send(outgoing, Some(traceparent.as_str())).await.map_err(away)?;
    crash::pass(Point::BeforeStoreAck);
    let stored = sent.confirmed().await.map_err(away)?;
    crash::pass(Point::AfterStoreAck);
    source.signals.stored_bytes.increment(length);
    Ok(stored)
}

fn accepted(source: &Source, envelope: &Envelope<'_>, stored: Stored) -> Response {
    let (status, word) = if stored.duplicate {
        source.signals.duplicate.increment(1);
        (StatusCode::OK, "duplicate")
    } else {
        source.signals.accepted.increment(1);
        (StatusCode::ACCEPTED, "stored")
    };
    tracing::debug!(id = envelope.id.as_str(), sequence = stored.sequence, status = word, "event stored");
    (status, Json(json!({ "status": word, "id": envelope.id.as_str() }))).into_response()
}
