//! What travels in messages, as typed values: read from a [`Delivered`], written as an [`Outgoing`].

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt as _;
use headrace_schemas::alert::Alert;
use headrace_schemas::codec;
use headrace_schemas::event::Event;
use headrace_schemas::header;
use headrace_schemas::id::EventId;
use headrace_schemas::subject;
use headrace_schemas::time::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::broker::{Broker, Stream};
use crate::fault::{DeadReason, Fault};
use crate::message::Delivered;
use crate::message::body;
use crate::message::raw_headers::RawHeaders;

/// A value that a message carries.
#[async_trait]
pub trait Payload: Send + Sync + Sized + 'static {
    /// The stream it is read from.
    const STREAM: Stream;

    /// Reads it from a message.
    ///
    /// # Errors
    /// Poison when the message can never be read, transient when the broker is away.
    async fn read(message: &Delivered, broker: &Broker) -> Result<Self, Fault>;

    /// The stable id of its event, or its own.
    fn id(&self) -> &str;

    /// Its identity: effects happen once for each identity.
    fn identity(&self) -> Identity<&str>;

    /// Whether two messages of one identity are at least the broker's duplicate window apart in their stream. They have
    /// the same `Nats-Msg-Id`, so within the window the broker drops the second one. Redriven messages are an
    /// exception.
    const DUPLICATES_APART: bool = true;

    /// When the gateway received the event behind it.
    fn received_at(&self) -> Timestamp;

    /// The time that the event's source gave with its id; `None` if it gave none.
    fn event_time(&self) -> Option<Timestamp>;

    /// About how many bytes it takes in memory.
    fn size(&self) -> usize;

    /// The most bytes that a value takes in memory that is decoded from a payload of `bytes` bytes. A text of one letter
    /// takes sixteen times what it has on the way, a long one as much; a large value has long texts. `measured.rs`
    /// checks it.
    #[must_use]
    fn decoded_bytes(bytes: usize) -> usize {
        let (short, long) = (bytes.saturating_mul(16), bytes.saturating_mul(4).saturating_add(48 << 10));
        short.min(long).saturating_add(2 << 10)
    }
}

/// What effects happen once for. The id alone is not enough: tenants choose their ids independently, and the id is
/// outside the signature ([`headrace_schemas::id`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity<S> {
    /// The tenant.
    pub tenant: S,
    /// The id.
    pub id: S,
    /// The kind and the body, for values of which several are kept under one id; empty for all others.
    pub content: Content<S>,
}

/// What a delivery contains. Two deliveries under one id are the same only when their contents are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Content<S> {
    /// The source's name of the kind.
    pub kind: S,
    /// SHA-256 of the body, hex.
    pub sha256: S,
}

/// A value that a stage makes.
pub trait Product: Send + Sized + 'static {
    /// The stream that it goes to.
    const TO: Stream;

    /// What the delivery behind it contained. `None` when products with its deduplication key are all made of the same
    /// content.
    fn content(&self) -> Option<Content<String>> {
        None
    }

    /// As [`Self::content`], for a product that the broker has stored; `None` also when it cannot be read.
    fn content_of(_stored: &[u8]) -> Option<Content<String>> {
        None
    }

    /// Writes it as a message of the hand-over `handover` (`normalized`, `scored`, …).
    ///
    /// # Errors
    /// Poison when it does not fit its schema.
    fn write(&self, handover: &str) -> Result<Outgoing, Fault>;
}

/// A message to publish.
pub struct Outgoing {
    /// Where to.
    pub subject: String,
    /// Deduplication key.
    pub message_id: String,
    /// Payload.
    pub payload: Bytes,
    /// Headers besides the deduplication key and the trace.
    pub headers: HeaderMap,
}

/// A body as it came, with its headers: what RAW holds.
#[derive(Clone, Debug)]
pub struct RawDelivery {
    /// The event's id.
    pub id: EventId,
    /// Whose it is, as a subject token.
    pub tenant: String,
    /// The source that took it in: `github`, `ndjson`.
    pub source: String,
    /// The source's name of the kind.
    pub event: String,
    /// When the gateway received it.
    pub received_at: Timestamp,
    /// The time that the source gave with the id; `None` if it gave none.
    pub event_time: Option<Timestamp>,
    /// The headers that came with it, `X-GitHub-*`, `X-Hub-Signature-256`, `Content-Type`.
    pub headers: Vec<(String, String)>,
    /// The body, byte for byte.
    pub body: Bytes,
    /// SHA-256 of the body, hex.
    pub sha256: String,
    /// Sequence in RAW.
    pub sequence: u64,
}

impl RawDelivery {
    /// SHA-256 of a body, in hexadecimal digits.
    #[must_use]
    pub fn sha256_of(body: &[u8]) -> String {
        hex::encode(Sha256::digest(body))
    }

    /// Its kind, and the hash of its body.
    #[must_use]
    pub fn content(&self) -> Content<&str> {
        Content { kind: &self.event, sha256: &self.sha256 }
    }

    /// One of the original headers, whatever its letter case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

#[async_trait]
impl Payload for RawDelivery {
    const STREAM: Stream = Stream::Raw;

    async fn read(message: &Delivered, broker: &Broker) -> Result<Self, Fault> {
        let RawHeaders { id, source, event, event_time, received_at, sha256, object, original } =
            RawHeaders::of(message);
        let received_at = required(header::RECEIVED_AT, received_at)?;
        let received_at = received_at.parse().map(Timestamp::from_micros).map_err(|_| {
            let problem =
                anyhow::anyhow!("expected microseconds in the header {}, found `{received_at}`", header::RECEIVED_AT);
            Fault::poison(DeadReason::MissingHeader, problem)
        })?;
        let id = EventId::from_stored(required(header::ID, id)?.to_owned());
        let event_time = event_time.and_then(|micros| micros.parse().ok()).map(Timestamp::from_micros);
        let event_time = event_time.or_else(|| id.created_at());
        let body = match object {
            // Boxed, because it is rare and would make every message's future large.
            Some(object) => body::fetch(broker, object).boxed().await?,
            None => message.payload().clone(),
        };
        // The gateway computes the hash. A message of another writer, or of an earlier release, may lack it.
        let sha256 = sha256.filter(|text| is_sha256(text)).map_or_else(|| Self::sha256_of(&body), str::to_owned);
        Ok(Self {
            id,
            tenant: subject::tenant_of(message.subject()).to_owned(),
            source: required(header::SOURCE, source)?.to_owned(),
            event: required(header::EVENT, event)?.to_owned(),
            received_at,
            event_time,
            headers: original,
            body,
            sha256,
            sequence: message.sequence,
        })
    }

    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn identity(&self) -> Identity<&str> {
        Identity { tenant: &self.tenant, id: self.id.as_str(), content: self.content() }
    }

    fn received_at(&self) -> Timestamp {
        self.received_at
    }

    fn event_time(&self) -> Option<Timestamp> {
        // An earlier release did not write the time.
        self.event_time.or_else(|| self.id.created_at())
    }

    fn size(&self) -> usize {
        self.body.len() + 1_024
    }

    /// The body is not copied, so there are only the headers.
    fn decoded_bytes(_: usize) -> usize {
        4 << 10
    }
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn required<'h>(name: &'static str, value: Option<&'h str>) -> Result<&'h str, Fault> {
    value.ok_or_else(|| {
        let problem = anyhow::anyhow!("expected the header {name} on every message of RAW, found none");
        Fault::poison(DeadReason::MissingHeader, problem)
    })
}

#[async_trait]
impl Payload for Event {
    const STREAM: Stream = Stream::Events;

    async fn read(message: &Delivered, _: &Broker) -> Result<Self, Fault> {
        codec::decode(message.payload()).map_err(|error| Fault::poison(DeadReason::Malformed, error))
    }

    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn identity(&self) -> Identity<&str> {
        Identity { tenant: &self.tenant, id: self.id.as_str(), content: Content::default() }
    }

    fn received_at(&self) -> Timestamp {
        self.received_at
    }

    fn event_time(&self) -> Option<Timestamp> {
        // An earlier release did not write the time.
        self.event_time.or_else(|| self.id.created_at())
    }

    fn size(&self) -> usize {
        1_536
    }
}

impl Product for Event {
    const TO: Stream = Stream::Events;

    fn content(&self) -> Option<Content<String>> {
        Some(Content { kind: self.kind.clone(), sha256: self.raw.sha256.clone() })
    }

    fn content_of(stored: &[u8]) -> Option<Content<String>> {
        codec::decode::<Self>(stored).ok()?.content()
    }

    fn write(&self, handover: &str) -> Result<Outgoing, Fault> {
        let subject = if handover == "scored" {
            subject::scored(&self.tenant, self.category, self.severity())
        } else {
            subject::handover(handover, &self.tenant, self.category)
        };
        let headers = id_header(self.id.as_str())?;
        let message_id = self.id.event_key(&self.tenant, handover);
        Ok(Outgoing { subject, message_id, payload: encode(self)?, headers })
    }
}

#[async_trait]
impl Payload for Alert {
    const STREAM: Stream = Stream::Alerts;

    async fn read(message: &Delivered, _: &Broker) -> Result<Self, Fault> {
        codec::decode(message.payload()).map_err(|error| Fault::poison(DeadReason::Malformed, error))
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn identity(&self) -> Identity<&str> {
        Identity { tenant: &self.tenant, id: &self.id, content: Content::default() }
    }

    // Each new count of an alert is a message of its own.
    const DUPLICATES_APART: bool = false;

    fn received_at(&self) -> Timestamp {
        self.updated_at
    }

    fn event_time(&self) -> Option<Timestamp> {
        None
    }

    fn size(&self) -> usize {
        4_096
    }
}

impl Product for Alert {
    const TO: Stream = Stream::Alerts;

    fn write(&self, _: &str) -> Result<Outgoing, Fault> {
        let headers = id_header(&self.id)?;
        Ok(Outgoing {
            subject: subject::alert(&self.tenant, self.severity, &self.rule),
            // The id is derived from the tenant too. The count tells one state of the alert from the next.
            message_id: format!("{}/{}", self.id, self.count),
            payload: encode(self)?,
            headers,
        })
    }
}

/// The header with an id. An id from a record may hold anything, and the client library panics at a line break in a
/// header.
fn id_header(id: &str) -> Result<HeaderMap, Fault> {
    let problem = |error| {
        Fault::poison(
            DeadReason::Malformed,
            anyhow::Error::new(error).context("expected an id of one line, found several"),
        )
    };
    let mut headers = HeaderMap::new();
    headers.insert(HeaderName::from_static(header::ID), id.parse::<HeaderValue>().map_err(problem)?);
    Ok(headers)
}

fn encode<R: codec::Record>(record: &R) -> Result<Bytes, Fault> {
    codec::encode(record).map(Bytes::from).map_err(|error| Fault::poison(DeadReason::Malformed, error))
}
