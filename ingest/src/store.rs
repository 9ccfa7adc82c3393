//! Stores records in RAW. A record counts as stored only after its PubAck.

use std::collections::VecDeque;

use async_nats::header::{HeaderMap, HeaderName};
use bytes::Bytes;
use futures::FutureExt as _;
use headrace_runtime::broker::Broker;
use headrace_runtime::crash::{self, Point};
use headrace_runtime::fault::Fault;
use headrace_runtime::message::payload::Outgoing;
use headrace_runtime::observe::metrics::{RECORDS, STORED_BYTES};
use headrace_runtime::observe::trace::TraceParent;
use headrace_runtime::publish::{self, Publisher, Unconfirmed};
use headrace_schemas::id::EventId;
use headrace_schemas::time::Timestamp;
use headrace_schemas::{header, subject};
use metrics::{Counter, counter};

use crate::digest;
use crate::source::{Receipt, Record};

/// The most records on their way at once, of one request or page. It bounds what a slow broker makes us hold.
const ON_THEIR_WAY_MAX: usize = 256;
/// The most characters of a record that a message shows.
const SHOWN_MAX: usize = 64;

/// Stores the records of one source.
pub(crate) struct Store {
    source: &'static str,
    broker: Broker,
    publisher: Publisher,
    stored: Counter,
    duplicate: Counter,
    stored_bytes: Counter,
}

/// Why records are not all stored. Those that are do no harm: they come again and are recognized.
#[derive(Debug)]
pub(crate) enum NotStored {
    /// RAW has no room.
    Full,
    /// The source made a record that no message can hold. None of the records was sent.
    Unfit(Unfit),
    /// The broker did not confirm the record `id`.
    Away { id: EventId, fault: Fault },
}

/// What no message can hold, in a record. The client library panics at it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// A text that goes into a header.
    #[error("expected {what} of one line in each record, found a line break in `{found}`")]
    Value { what: &'static str, found: String },
    /// The name of a header.
    #[error("expected printable ASCII without `:` as the name of a header in each record, found `{found}`")]
    Name { found: String },
}

impl Unfit {
    /// What is unfit in `record`, if anything is.
    fn of(record: &Record) -> Option<Self> {
        let Record { id, kind, headers, .. } = record;
        if let Some((name, _)) = headers.iter().find(|(name, _)| !is_name(name)) {
            return Some(Self::Name { found: shown(name) });
        }
        let values = headers.iter().map(|(_, value)| ("a header", value.as_str()));
        let mut texts = [("an id", id.as_str()), ("a kind", kind.as_str())].into_iter().chain(values);
        let (what, found) = texts.find(|(_, text)| !is_value(text))?;
        Some(Self::Value { what, found: shown(found) })
    }
}

/// Whether it can be the name of a header. Parsing it would copy it.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':')
}

/// Whether it can be the value of a header.
fn is_value(text: &str) -> bool {
    memchr::memchr2(b'\r', b'\n', text.as_bytes()).is_none()
}

/// The beginning of a text, for a message.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN_MAX).flat_map(char::escape_debug).collect()
}

/// How records came in.
#[derive(Clone, Copy)]
pub(crate) struct Arrival<'a> {
    pub(crate) received_at: Timestamp,
    pub(crate) traceparent: &'a TraceParent,
}

/// A record that was sent to the broker.
struct Sent {
    id: EventId,
    bytes: u64,
    unconfirmed: Unconfirmed,
}

impl Store {
    pub(crate) fn new(source: &'static str, broker: &Broker) -> Self {
        Self {
            source,
            broker: broker.clone(),
            publisher: Publisher::new(broker),
            stored: counter!(RECORDS, "source" => source, "outcome" => "stored"),
            duplicate: counter!(RECORDS, "source" => source, "outcome" => "duplicate"),
            stored_bytes: counter!(STORED_BYTES),
        }
    }

    /// Stores `records`, in their order. Returns when the broker has confirmed all of them.
    pub(crate) async fn store(&self, records: Vec<Record>, arrival: Arrival<'_>) -> Result<Vec<Receipt>, NotStored> {
        // Check all before the first is sent: records are stored all or none.
        if let Some(unfit) = records.iter().find_map(Unfit::of) {
            return Err(NotStored::Unfit(unfit));
        }
        let mut receipts = Vec::with_capacity(records.len());
        let mut on_their_way = VecDeque::with_capacity(records.len().min(ON_THEIR_WAY_MAX));
        for record in records {
            if on_their_way.len() >= ON_THEIR_WAY_MAX
                && let Some(first) = on_their_way.pop_front()
            {
                receipts.push(self.confirm(first).await?);
            }
            on_their_way.push_back(self.send(record, arrival).await?);
        }
        for sent in on_their_way {
            receipts.push(self.confirm(sent).await?);
        }
        Ok(receipts)
    }

    async fn send(&self, record: Record, arrival: Arrival<'_>) -> Result<Sent, NotStored> {
        let id = record.id.clone();
        let away = |fault: Fault| not_stored(&id, fault);
        let sha256 = digest::sha256(&record.body).await;
        let bytes = record.body.len() as u64;
        let is_large = record.body.len() > self.broker.payload_max();
        let object = is_large.then(|| record.id.body_object(&record.tenant, &sha256));
        let (mut outgoing, body) = self.outgoing(record, arrival.received_at, &sha256);
        if let Some(object) = object {
            // Claim check. Store the object first: a reference in RAW must never point at nothing.
            if !self.broker.is_connected() {
                return Err(away(Fault::transient(anyhow::anyhow!("no connection to NATS"))));
            }
            // Boxed, because it is rare and would make every request's future large.
            self.publisher.store_body(&object, &body).boxed().await.map_err(away)?;
            outgoing.headers.insert(header::BODY_OBJECT, object);
            outgoing.headers.insert(header::BODY_BYTES, bytes.to_string());
        } else {
            outgoing.payload = body;
        }
        crash::pass(Point::BeforeStore);
        let unconfirmed = self.publisher.send(outgoing, Some(arrival.traceparent.as_str())).await.map_err(away)?;
        crash::pass(Point::BeforeStoreAck);
        Ok(Sent { id, bytes, unconfirmed })
    }

    async fn confirm(&self, Sent { id, bytes, unconfirmed }: Sent) -> Result<Receipt, NotStored> {
        let stored = unconfirmed.confirmed().await.map_err(|fault| not_stored(&id, fault))?;
        crash::pass(Point::AfterStoreAck);
        if stored.duplicate { &self.duplicate } else { &self.stored }.increment(1);
        self.stored_bytes.increment(bytes);
        tracing::debug!(id = id.as_str(), sequence = stored.sequence, duplicate = stored.duplicate, "event stored");
        Ok(Receipt { id, duplicate: stored.duplicate })
    }

    /// The message for RAW without its body, and the body. `record` is no unfit one.
    fn outgoing(&self, record: Record, received_at: Timestamp, sha256: &str) -> (Outgoing, Bytes) {
        let Record { id, event_time, kind, tenant, headers: kept, body } = record;
        let mut headers = HeaderMap::new();
        // A name that is not static would be copied.
        let mut insert = |name, value: String| headers.insert(HeaderName::from_static(name), value);
        insert(header::ID, id.as_str().to_owned());
        insert(header::SOURCE, self.source.to_owned());
        insert(header::EVENT, kind.clone());
        insert(header::RECEIVED_AT, received_at.as_micros().to_string());
        // An id may tell it itself.
        if let Some(event_time) = event_time.filter(|time| Some(*time) != id.created_at()) {
            insert(header::EVENT_TIME, event_time.as_micros().to_string());
        }
        insert(header::BODY_SHA256, sha256.to_owned());
        for (name, value) in kept {
            headers.insert(name, value);
        }
        let subject = subject::raw(&tenant, self.source, &kind);
        let message_id = id.delivery_key(&tenant, &kind, sha256);
        (Outgoing { subject, message_id, payload: Bytes::new(), headers }, body)
    }
}

fn not_stored(id: &EventId, fault: Fault) -> NotStored {
    if publish::is_full(&fault) { NotStored::Full } else { NotStored::Away { id: id.clone(), fault } }
}

#[cfg(test)]
mod tests {
    use async_nats::header::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn what_the_client_library_refuses_is_refused_before_it_panics() {
        for char in ('\0'..='\u{17f}').chain(['\u{2028}', '😀']) {
            let text = format!("a{char}b");
            assert_eq!(is_name(&text), text.parse::<HeaderName>().is_ok(), "a name with {char:?}");
            assert_eq!(is_value(&text), text.parse::<HeaderValue>().is_ok(), "a value with {char:?}");
        }
        assert!(!is_name("") && is_value(""));
    }
}
