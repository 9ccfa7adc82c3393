//! The way of a request: check its head, read its body, verify, split, store, answer.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::FutureExt as _;
use headrace_runtime::http::connections::Connection;
use headrace_runtime::observe::metrics::seconds_since;
use headrace_runtime::observe::trace::TraceParent;
use headrace_schemas::header;
use headrace_schemas::time::Timestamp;
use metrics::Gauge;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument as _;

use super::admission::Reservation;
use super::body::{self, Encoding, discard};
use super::{Shared, unpack};
use crate::source::Refusal;
use crate::source::{Push, Receipt, Record};
use crate::store::{Arrival, NotStored, Store};

/// Hashing or splitting this many bytes takes about half a millisecond. Longer work leaves the reactor.
const INLINE_MAX_BYTES: usize = 512 << 10;

/// Takes the requests of one source.
pub(super) struct Receiver<P> {
    source: Arc<P>,
    shared: Arc<Shared>,
    store: Store,
}

/// A request whose head has arrived.
struct Incoming<'a> {
    path: &'a str,
    headers: &'a HeaderMap,
    connection: Option<&'a Connection>,
    deadline: Instant,
    arrival: Arrival<'a>,
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

impl<P: Push> Receiver<P> {
    pub(super) fn new(source: &Arc<P>, shared: &Arc<Shared>) -> Self {
        let store = Store::new(P::NAME, &shared.broker);
        Self { source: Arc::clone(source), shared: Arc::clone(shared), store }
    }

    /// Answers a request to `path`.
    pub(super) async fn receive(&self, path: &str, request: Request) -> Response {
        let received_at = Timestamp::now();
        let deadline = Instant::now() + self.shared.config.answer_max();
        let (Parts { headers, extensions, .. }, mut body) = request.into_parts();
        let connection = extensions.get::<Connection>();
        let traceparent = headers.get(header::TRACEPARENT).and_then(|value| TraceParent::parse(value.to_str().ok()?));
        let traceparent = traceparent.map_or_else(TraceParent::generate, |parent| parent.child());
        let span = tracing::debug_span!("receive", trace_id = traceparent.trace_id());
        let _under_way = InFlight::begin(&self.shared.signals.in_flight);
        let arrival = Arrival { received_at, traceparent: &traceparent };
        let incoming = Incoming { path, headers: &headers, connection, deadline, arrival };
        let taken = if span.is_disabled() {
            self.take(&incoming, &mut body).await
        } else {
            self.take(&incoming, &mut body).instrument(span).boxed().await
        };
        match taken {
            Ok(receipts) => {
                self.count(&receipts);
                self.source.answer(&receipts)
            }
            Err(refusal) => {
                if let Refusal::Denied { code, status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, .. } = refusal
                {
                    let name = self.source.name(&headers);
                    self.shared.denials.add(P::NAME, code, name, connection.map(Connection::peer));
                }
                discard(&mut body, &headers, deadline).boxed().await;
                refusal.into_response()
            }
        }
    }

    /// Stores all that a request brings, or refuses it.
    async fn take(&self, incoming: &Incoming<'_>, body: &mut Body) -> Result<Vec<Receipt>, Refusal> {
        let Incoming { headers, connection, deadline, arrival, .. } = *incoming;
        let head = self.source.head(incoming.path, headers)?;
        let encoding = Encoding::of(headers, P::TAKES_GZIP)?;
        let length = body::announced_length(headers, self.shared.config.body_max_bytes)?;
        let mut reservation = self.shared.admission.reserve(connection);
        let body = body::read(body, length, &mut reservation, &self.shared.config, deadline).await?;
        let (head, sender) = self.verify(head, &body).await?;
        self.shared.signals.verified.increment(1);
        if let Some(connection) = connection {
            connection.prove();
        }
        // Not earlier: a sender that cannot sign must not take a place from those that can.
        let _slot = self.shared.admission.slot(deadline).await?;
        let body = match encoding {
            Encoding::Identity => body,
            // Boxed, as all that is rare: it would make every request's future large.
            Encoding::Gzip => unpack::gzip(body, &mut reservation, &self.shared.config, deadline).boxed().await?,
        };
        let records = self.split(head, sender, body, &mut reservation, deadline).await?;
        self.store(records, arrival, deadline).await
    }

    async fn verify(&self, head: P::Head, body: &Bytes) -> Result<(P::Head, P::Sender), Refusal> {
        if self.source.work(&head, body.len()) <= INLINE_MAX_BYTES {
            let sender = self.source.verify(&head, body)?;
            return Ok((head, sender));
        }
        let (source, body) = (Arc::clone(&self.source), body.clone());
        let verify = move || source.verify(&head, &body).map(|sender| (head, sender));
        spawn_blocking(verify).await.map_err(|_| Refusal::Saturated)?
    }

    /// Makes room for a body and its records. Records that need more than the gateway may hold get all of it, or they
    /// would be refused for ever.
    async fn make_room(&self, bytes: usize, room: &mut Reservation<'_>, deadline: Instant) -> Result<(), Refusal> {
        let bytes = bytes.min(self.shared.config.in_flight_max_bytes);
        room.grow(bytes, bytes, deadline).await
    }

    /// Splits a body, after it took room for the records.
    async fn split(
        &self,
        head: P::Head,
        sender: P::Sender,
        body: Bytes,
        reservation: &mut Reservation<'_>,
        deadline: Instant,
    ) -> Result<Vec<Record>, Refusal> {
        if body.len() <= INLINE_MAX_BYTES {
            self.make_room(body.len() + self.source.record_bytes(&body), reservation, deadline).await?;
            return self.source.split(head, sender, body);
        }
        let (source, counted) = (Arc::clone(&self.source), body.clone());
        let bytes = spawn_blocking(move || counted.len() + source.record_bytes(&counted)).await;
        self.make_room(bytes.map_err(|_| Refusal::Saturated)?, reservation, deadline).await?;
        let source = Arc::clone(&self.source);
        spawn_blocking(move || source.split(head, sender, body)).await.map_err(|_| Refusal::Saturated)?
    }

    async fn store(
        &self,
        records: Vec<Record>,
        arrival: Arrival<'_>,
        deadline: Instant,
    ) -> Result<Vec<Receipt>, Refusal> {
        let Shared { config, stores, broker, signals, denials, .. } = &*self.shared;
        let time_left = deadline.saturating_duration_since(Instant::now());
        let stored = timeout_at(deadline, self.store.store(records, arrival)).await;
        let stored = match stored {
            Ok(stored) => stored.map_err(|why| match why {
                // Do not log each one: this lasts as long as a sink is away, and the runtime's retention reports it.
                NotStored::Full => Refusal::StreamFull,
                NotStored::Unfit(unfit) => Refusal::RecordUnfit { source_name: P::NAME, problem: unfit.to_string() },
                NotStored::Away { id, fault } => {
                    denials.unstored(&fault, id.as_str());
                    Refusal::BrokerAway
                }
            }),
            Err(_) => Err(Refusal::BrokerAway),
        };
        match &stored {
            Ok(_) => stores.stored(),
            // The broker was not asked.
            Err(Refusal::RecordUnfit { .. }) => {}
            // The sender took nearly all the time, so this failure says nothing about the broker.
            Err(_) if time_left < broker.timeout().min(config.answer_max()) / 2 => {}
            Err(refusal) => stores.failed(&format!("the last delivery was not stored ({})", refusal.code())),
        }
        let receipts = stored?;
        signals.store_seconds.record(seconds_since(arrival.received_at));
        Ok(receipts)
    }

    /// Counts a request whose records are stored.
    fn count(&self, receipts: &[Receipt]) {
        let is_duplicate = receipts.iter().all(|receipt| receipt.duplicate);
        let signals = &self.shared.signals;
        if is_duplicate { &signals.duplicate } else { &signals.accepted }.increment(1);
    }
}
