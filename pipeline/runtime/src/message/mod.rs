//! [`Delivered`]: a message that JetStream handed us and that we have to settle.

pub(crate) mod body;
pub mod incarnation;
#[cfg(test)]
mod measured;
pub mod payload;

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use async_nats::jetstream::{self, AckKind};
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use headrace_schemas::header;
use headrace_schemas::id;
use headrace_schemas::time::Timestamp;

use crate::broker::Stream;
use crate::message::incarnation::Forgotten;
use crate::message::payload::Payload;
use crate::moment::Moment;
use crate::retry::Attempt;

/// The size to assume of a body whose message does not tell it, in bytes: the largest that GitHub sends.
const BODY_BYTES_UNTOLD: usize = 25 << 20;

/// A message, with what JetStream says about its delivery.
pub struct Delivered {
    message: async_nats::Message,
    acker: jetstream::message::Acker,
    /// Which delivery this is.
    pub attempt: Attempt,
    /// The message's sequence in its stream.
    pub sequence: u64,
    /// When the broker stored it, by the broker's clock.
    pub stored_at: Timestamp,
    stream: String,
    forgotten: Forgotten,
    /// No later than the moment from which JetStream counts `ack_wait`.
    held_since: Mutex<Moment>,
}

impl Delivered {
    /// Takes a message over. `requested_at` is when we asked for it: JetStream cannot have delivered it earlier. The
    /// time of reading would not do, because a process that was stopped may read it much later.
    ///
    /// # Errors
    /// When its reply subject is not JetStream's.
    pub(crate) fn new(message: jetstream::Message, requested_at: Moment, forgotten: Forgotten) -> anyhow::Result<Self> {
        let info =
            message.info().map_err(|error| anyhow::anyhow!("a message without JetStream's reply subject: {error}"))?;
        let attempt = Attempt(u32::try_from(info.delivered).unwrap_or(u32::MAX));
        let sequence = info.stream_sequence;
        let stream = info.stream.to_owned();
        let stored_at = Timestamp::from_unix_nanos(info.published.unix_timestamp_nanos());
        let (message, acker) = message.split();
        Ok(Self {
            message,
            acker,
            attempt,
            sequence,
            stored_at,
            stream,
            forgotten,
            held_since: Mutex::new(requested_at),
        })
    }

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

    /// All headers, when there are any.
    #[must_use]
    pub const fn headers(&self) -> Option<&HeaderMap> {
        self.message.headers.as_ref()
    }

    /// One header's first value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers()?.get(name).map(async_nats::HeaderValue::as_str)
    }

    /// Whether the message refers to a body in the bucket `bodies`.
    pub(crate) fn refers_to_body(&self) -> bool {
        self.header(header::BODY_OBJECT).is_some()
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
        format!("{}:{}", self.stream, self.sequence)
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
    pub(crate) fn is_redriven(&self) -> bool {
        self.header(header::REDRIVES).is_some()
    }

    /// Whether somebody may have worked on this message before: in an earlier delivery or, when it was redriven, on the
    /// message that the dead letter was made from.
    #[must_use]
    pub fn may_be_redelivered(&self) -> bool {
        self.attempt.is_repeat()
            || self.is_of_earlier_incarnation()
            || self.is_redriven()
            || self.stream == Stream::CatchUp.name()
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
        if let Err(error) = self.acker.ack_with(kind).await {
            tracing::debug!(%error, origin = self.origin(), "acknowledgement not sent; the message comes again");
        }
    }

    /// Sends an acknowledgement, and waits until the server has taken it and all those sent before. Returns whether it
    /// has.
    pub(crate) async fn answer_confirmed(&self, kind: AckKind) -> bool {
        self.acker.double_ack_with(kind).await.is_ok()
    }

    /// The `traceparent` that came with it.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.header(header::TRACEPARENT)
    }
}
