//! [`Delivered`]: a message that JetStream handed us and that we have to settle.

pub(crate) mod body;
pub mod incarnation;
#[cfg(test)]
mod measured;
pub mod payload;
mod raw_headers;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::message::Acker;
use async_nats::jetstream::{self, AckKind};
use async_nats::{HeaderMap, HeaderName, Message, Subject};
use bytes::Bytes;
use headrace_schemas::header;
use headrace_schemas::id;
use headrace_schemas::time::Timestamp;

use crate::broker::{Broker, Stream};
use crate::message::incarnation::Forgotten;
use crate::message::payload::Payload;
use crate::moment::Moment;
use crate::retry::Attempt;

/// The size to assume of a body whose message does not tell it, in bytes: the largest that GitHub sends.
const BODY_BYTES_UNTOLD: usize = 25 << 20;

/// A message, with what JetStream says about its delivery.
pub struct Delivered {
    /// Boxed, because a delivery is moved from list to list.
    message: Box<Message>,
    broker: Arc<Broker>,
    /// Which delivery this is.
    pub attempt: Attempt,
    /// The message's sequence in its stream.
    pub sequence: u64,
    /// When the broker stored it, by the broker's clock.
    pub stored_at: Timestamp,
    stream: Stream,
    refers_to_body: bool,
    is_redriven: bool,
    forgotten: Forgotten,
    /// No later than the moment from which JetStream counts `ack_wait`.
    held_since: Mutex<Moment>,
}

/// Takes over the messages of a stream.
pub(crate) struct Intake {
    stream: Stream,
    /// What answers a message. The client library gives each message a context of its own, whose dozen reference counts
    /// all threads share.
    broker: Arc<Broker>,
    /// Reads the reply subject of the message that is in it.
    reader: jetstream::Message,
}

impl Intake {
    pub(crate) fn new(stream: Stream, broker: &Broker) -> Self {
        let reader = jetstream::Message { message: nothing(), context: broker.jetstream().clone() };
        Self { stream, broker: Arc::new(broker.clone()), reader }
    }

    /// Takes a message over. `requested_at` is when we asked for it: JetStream cannot have delivered it earlier. The
    /// time of reading would not do, because a process that was stopped may read it much later.
    ///
    /// # Errors
    /// When its reply subject is not JetStream's.
    pub(crate) fn take(
        &mut self,
        message: Message,
        requested_at: Moment,
        forgotten: Forgotten,
    ) -> anyhow::Result<Delivered> {
        self.reader.message = message;
        let info = self.reader.info();
        let info = info.map_err(|error| anyhow::anyhow!("a message without JetStream's reply subject: {error}"))?;
        let attempt = Attempt(u32::try_from(info.delivered).unwrap_or(u32::MAX));
        let sequence = info.stream_sequence;
        let stored_at = Timestamp::from_unix_nanos(info.published.unix_timestamp_nanos());
        let message = std::mem::replace(&mut self.reader.message, nothing());
        // One look at all of them costs less than one look-up.
        let names = message.headers.iter().flat_map(HeaderMap::iter).map(|(name, _)| -> &str { name.as_ref() });
        let (mut refers_to_body, mut is_redriven) = (false, false);
        for name in names {
            refers_to_body |= name == header::BODY_OBJECT;
            is_redriven |= name == header::REDRIVES;
        }
        Ok(Delivered {
            message: Box::new(message),
            broker: Arc::clone(&self.broker),
            attempt,
            sequence,
            stored_at,
            stream: self.stream,
            refers_to_body,
            is_redriven,
            forgotten,
            held_since: Mutex::new(requested_at),
        })
    }
}

/// A message without anything.
const fn nothing() -> Message {
    let subject = Subject::from_static("");
    Message { subject, reply: None, payload: Bytes::new(), headers: None, status: None, description: None, length: 0 }
}

/// The first value of a header. A name that is not static would be copied for the look-up.
fn header_of<'m>(message: &'m Message, name: &'static str) -> Option<&'m str> {
    message.headers.as_ref()?.get(HeaderName::from_static(name)).map(async_nats::HeaderValue::as_str)
}

impl Delivered {
    /// The message's subject.
    #[must_use]
    pub const fn subject(&self) -> &Subject {
        &self.message.subject
    }

    /// The message's payload.
    #[must_use]
    pub const fn payload(&self) -> &Bytes {
        &self.message.payload
    }

    /// The same with a payload of its own. As it came, it keeps all in memory that was read from the connection with it.
    #[must_use]
    pub(crate) fn apart(mut self) -> Self {
        self.message.payload = Bytes::copy_from_slice(&self.message.payload);
        self
    }

    /// All headers, when there are any.
    #[must_use]
    pub const fn headers(&self) -> Option<&HeaderMap> {
        self.message.headers.as_ref()
    }

    /// One header's first value.
    #[must_use]
    pub fn header(&self, name: &'static str) -> Option<&str> {
        header_of(&self.message, name)
    }

    /// Whether the message refers to a body in the bucket `bodies`.
    pub(crate) const fn refers_to_body(&self) -> bool {
        self.refers_to_body
    }

    /// How many bytes are held once the message is read: its payload, or the body that it refers to.
    #[must_use]
    pub fn bytes_when_read(&self) -> usize {
        if !self.refers_to_body() {
            return self.payload().len();
        }
        self.header(header::BODY_BYTES).and_then(|bytes| bytes.parse().ok()).unwrap_or(BODY_BYTES_UNTOLD)
    }

    /// Stream and sequence, as `RAW:42`.
    #[must_use]
    pub fn origin(&self) -> String {
        format!("{}:{}", self.stream.name(), self.sequence)
    }

    /// Whether an effect of this message may exist already, so that it must be looked up first.
    ///
    /// An effect may exist for one of seven reasons:
    ///
    /// * JetStream delivers the message again.
    /// * JetStream delivers it again and has forgotten that it did before ([`crate::message::incarnation`]).
    /// * The sender delivers it again after the broker's duplicate window. Its event time was then far from its
    ///   reception.
    /// * A process that was stopped publishes late. The message is then stored long after its reception.
    /// * A person redrives a dead letter that one component gave up and others did not
    ///   ([`crate::settle::dead_letters`]).
    /// * The stream was deleted and made anew ([`crate::broker::recreate`]).
    /// * The message is brought once more to a sink that was set aside ([`crate::aside`]).
    #[must_use]
    pub fn is_suspect(&self, item: &impl Payload, window: Duration) -> bool {
        self.may_be_redelivered() || self.may_be_duplicate(item, window)
    }

    /// Whether an earlier message of the stream may be of the same event.
    pub(crate) fn may_be_duplicate(&self, item: &impl Payload, window: Duration) -> bool {
        let received_at = item.received_at();
        self.is_redriven()
            || self.may_duplicate_lost()
            || id::may_repeat(item.event_time(), received_at, window)
            // A quarter of the window, for the reason that `may_repeat` tells.
            || self.stored_at.since(received_at) >= window / 4
    }

    /// Whether it was redriven from DEAD.
    pub(crate) const fn is_redriven(&self) -> bool {
        self.is_redriven
    }

    /// Whether somebody may have worked on this message before: in an earlier delivery or, when it was redriven, on the
    /// message that the dead letter was made from.
    #[must_use]
    pub fn may_be_redelivered(&self) -> bool {
        self.attempt.is_repeat()
            || self.is_of_earlier_incarnation()
            || self.is_redriven()
            || self.stream == Stream::CatchUp
    }

    /// Whether it was stored before the consumer's present incarnation.
    pub(crate) fn is_of_earlier_incarnation(&self) -> bool {
        self.stored_at <= self.forgotten.deliveries_until
    }

    /// Whether it may duplicate a message of a deleted stream, which the present stream cannot know.
    pub(crate) fn may_duplicate_lost(&self) -> bool {
        self.stored_at < self.forgotten.duplicates_until
    }

    /// How many times it has been tried, this time included. Attempts before its last stay in DEAD count too.
    #[must_use]
    pub fn attempts_in_all(&self) -> u64 {
        let before = self.header(header::ATTEMPTS_BEFORE).and_then(|count| count.parse::<u64>().ok());
        before.unwrap_or(0).saturating_add(u64::from(self.attempt.0))
    }

    /// Nobody else is given this message before this time.
    pub(crate) fn held_until(&self, ack_wait: Duration) -> Moment {
        *self.held_since.lock().unwrap_or_else(PoisonError::into_inner) + ack_wait
    }

    /// Whether it is certain that nobody else is given this message at this moment.
    pub(crate) fn is_held(&self, ack_wait: Duration) -> bool {
        !self.held_until(ack_wait).is_over()
    }

    /// Notes that JetStream counts `ack_wait` from `since` or later.
    pub(crate) fn extend_hold(&self, since: Moment) {
        *self.held_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// Sends an acknowledgement of any kind without waiting for the server. A lost one costs a redelivery.
    pub(crate) async fn answer(&self, kind: AckKind) {
        let Some(reply) = self.message.reply.clone() else { return };
        if let Err(error) = self.broker.client().publish(reply, kind.into()).await {
            tracing::debug!(%error, origin = self.origin(), "acknowledgement not sent; the message comes again");
        }
    }

    /// Sends an acknowledgement, and waits until the server has taken it and all those sent before. Returns whether it
    /// has.
    pub(crate) async fn answer_confirmed(&self, kind: AckKind) -> bool {
        let acker = Acker::new(self.broker.jetstream().clone(), self.message.reply.clone());
        acker.double_ack_with(kind).await.is_ok()
    }

    /// The `traceparent` that came with it.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.header(header::TRACEPARENT)
    }
}
