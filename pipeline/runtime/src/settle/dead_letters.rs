//! Dead letters: listed, redriven, removed.
//!
//! Nothing here decides; a person does, with `headrace dead`. A dead letter leaves DEAD only when the broker has
//! confirmed the message that was made from it. That message is always a suspect
//! ([`crate::message::Delivered::is_suspect`]), so it makes no second row where the first message got through.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::HeaderMap;
use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy};
use async_nats::jetstream::object_store::InfoErrorKind;
use async_nats::jetstream::stream::{self, DirectGetErrorKind};
use bytes::Bytes;
use futures::StreamExt as _;
use headrace_schemas::time::Timestamp;
use headrace_schemas::{header, subject};

use crate::broker::{Broker, Stream};
use crate::message::payload;
use crate::publish::Publisher;

/// How many dead letters are read at once, without their payloads: about 1 KiB each.
const PAGE: usize = 256;
/// The broker forgets a reader that was killed after this time.
const READER_KEPT: Duration = Duration::from_secs(30);
/// The broker's header with the size of a payload that it left out.
const PAYLOAD_BYTES: &str = "Nats-Msg-Size";

/// A message of DEAD, without its payload.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Its sequence in DEAD, by which it is named.
    pub sequence: u64,
    /// When it was given up, by the broker's clock.
    pub died_at: Timestamp,
    /// The tenant, as a subject token.
    pub tenant: String,
    /// Size of the payload; a body in the bucket `bodies` does not count.
    pub payload_bytes: u64,
    /// All headers.
    pub headers: HeaderMap,
}

impl DeadLetter {
    fn new(subject: &str, sequence: u64, died_at_nanos: i128, payload_bytes: u64, headers: HeaderMap) -> Self {
        let died_at = Timestamp::from_micros(i64::try_from(died_at_nanos / 1_000).unwrap_or_default());
        Self { sequence, died_at, tenant: subject::tenant_of(subject).to_owned(), payload_bytes, headers }
    }

    /// A header's first value; empty when there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", async_nats::HeaderValue::as_str)
    }

    /// How many times it has been redriven.
    #[must_use]
    pub fn redrives(&self) -> u64 {
        self.header(header::REDRIVES).parse().unwrap_or(0)
    }
}

/// Which dead letters are meant; all when nothing is set.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// With this sequence in DEAD.
    pub sequence: Option<u64>,
    /// Given up by this component.
    pub component: Option<String>,
    /// Of this tenant.
    pub tenant: Option<String>,
    /// For the reason with this code.
    pub reason: Option<String>,
    /// Of this event.
    pub event_id: Option<String>,
    /// Given up then or later.
    pub since: Option<Timestamp>,
    /// Given up before then.
    pub until: Option<Timestamp>,
}

impl Filter {
    /// Checks all but component and tenant: these are in the subject, by which the broker has chosen already.
    fn takes(&self, dead_letter: &DeadLetter) -> bool {
        let is =
            |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|own| own == dead_letter.header(name));
        self.sequence.is_none_or(|sequence| sequence == dead_letter.sequence)
            && is(&self.reason, header::DEAD_REASON)
            && is(&self.event_id, header::ID)
            && self.since.is_none_or(|since| dead_letter.died_at >= since)
            && self.until.is_none_or(|until| dead_letter.died_at < until)
    }
}

/// What became of a dead letter that was to be redriven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redriven {
    /// It is stored under its subject again, and the dead letter is removed.
    Sent {
        /// The broker had it already: from an earlier try that was interrupted, or from another component's dead letter
        /// of the same message.
        known: bool,
    },
    /// It is not in DEAD, or not any more.
    Gone,
    /// It cannot be sent, so it was left in DEAD. The text says why.
    Kept(String),
}

/// The stream DEAD.
pub struct DeadLetters {
    broker: Broker,
    publisher: Publisher,
    stream: stream::Stream,
}

impl DeadLetters {
    /// Opens DEAD.
    ///
    /// # Errors
    /// When the broker does not answer or has no such stream.
    pub async fn open(broker: &Broker) -> anyhow::Result<Self> {
        let name = Stream::Dead.name();
        let stream = broker.jetstream().get_stream(name).await.with_context(|| {
            format!("cannot open the stream {name}; `headrace run` and `headrace up` create it at their first start")
        })?;
        Ok(Self { broker: broker.clone(), publisher: Publisher::new(broker), stream })
    }

    /// A reader of the dead letters that are there now. It does not read later ones, such as a redriven message that
    /// failed again.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn read(&self, filter: Filter) -> anyhow::Result<Reader> {
        let state = self.stream.get_info().await.context("cannot read the state of DEAD")?.state;
        let config = Config {
            // Sequences begin at 1.
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: filter.sequence.unwrap_or(1).max(1) },
            ack_policy: AckPolicy::None,
            filter_subject: subject::dead_of(filter.component.as_deref(), filter.tenant.as_deref()),
            headers_only: true,
            memory_storage: true,
            inactive_threshold: READER_KEPT,
            ..Config::default()
        };
        let consumer = self.stream.create_consumer(config).await.context("cannot read DEAD")?;
        let last = filter.sequence.unwrap_or(u64::MAX).min(state.last_sequence);
        Ok(Reader { stream: self.stream.clone(), consumer, filter, last })
    }

    /// One dead letter with its payload; `None` when it is not there.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn get(&self, sequence: u64) -> anyhow::Result<Option<(DeadLetter, Bytes)>> {
        // Sequences begin at 1. The client takes 0 for a wrong request.
        if sequence == 0 {
            return Ok(None);
        }
        let message = match self.stream.direct_get(sequence).await {
            Ok(message) => message,
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read dead letter {sequence}")),
        };
        let (nanos, bytes) = (message.time.unix_timestamp_nanos(), message.payload.len() as u64);
        Ok(Some((DeadLetter::new(&message.subject, sequence, nanos, bytes, message.headers), message.payload)))
    }

    /// The body of a dead letter with the payload `payload`: the payload itself, or the object in the bucket `bodies`
    /// that the dead letter refers to.
    ///
    /// # Errors
    /// When the object is gone or the broker does not answer.
    pub async fn body(&self, dead_letter: &DeadLetter, payload: Bytes) -> anyhow::Result<Bytes> {
        match dead_letter.headers.get(header::BODY_OBJECT) {
            Some(object) => payload::fetch_body(&self.broker, object.as_str()).await.map_err(|fault| fault.source),
            None => Ok(payload),
        }
    }

    /// Redrives a dead letter: publishes it to the subject that it had, waits until the broker has confirmed it, and
    /// only then removes it. When it was interrupted, the next call does the rest. Dead letters that several components
    /// made of one message become one message again, if no more than the duplicate window lies between the calls.
    ///
    /// # Errors
    /// When the broker does not answer or does not store the message. The dead letter is then still there.
    pub async fn redrive(&self, sequence: u64) -> anyhow::Result<Redriven> {
        let Some((dead_letter, payload)) = self.get(sequence).await? else { return Ok(Redriven::Gone) };
        if let Some(problem) = self.unfit(&dead_letter).await? {
            return Ok(Redriven::Kept(problem));
        }
        let subject = dead_letter.header(header::DEAD_SUBJECT).to_owned();
        let sent = self.publisher.send_headers(subject, live_headers(&dead_letter), payload).await;
        let stored = match sent {
            Ok(unconfirmed) => unconfirmed.confirmed().await,
            Err(fault) => Err(fault),
        };
        let stored = stored.map_err(|fault| fault.source.context(format!("cannot publish dead letter {sequence}")))?;
        // Remove only after the broker has stored it: a crash between the two costs a duplicate, the other order loses
        // the event.
        self.remove(sequence).await?;
        Ok(Redriven::Sent { known: stored.duplicate })
    }

    /// Why a dead letter cannot be redriven, in words.
    async fn unfit(&self, dead_letter: &DeadLetter) -> anyhow::Result<Option<String>> {
        let own = dead_letter.header(header::DEAD_SUBJECT);
        if !subject::is_live(own) {
            let name = header::DEAD_SUBJECT;
            return Ok(Some(format!("expected the subject that it had in the header {name}, found `{own}`")));
        }
        let Some(object) = dead_letter.headers.get(header::BODY_OBJECT) else { return Ok(None) };
        let bodies = self.broker.bodies().await?;
        match bodies.info(object.as_str()).await {
            Ok(_) => Ok(None),
            Err(error) if error.kind() == InfoErrorKind::NotFound => {
                Ok(Some(format!("its body `{object}` is no longer in the bucket `bodies`")))
            }
            Err(error) => Err(error).with_context(|| format!("cannot look for the body `{object}`")),
        }
    }

    /// Removes a dead letter for good; false when it is not there.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn remove(&self, sequence: u64) -> anyhow::Result<bool> {
        match self.stream.delete_message(sequence).await {
            Ok(removed) => Ok(removed),
            // Somebody else may have removed it meanwhile; anything else is an error.
            Err(error) => match self.get(sequence).await {
                Ok(None) => Ok(false),
                _ => Err(error).with_context(|| format!("cannot remove dead letter {sequence}")),
            },
        }
    }
}

/// Reads dead letters page by page, in the order of their sequence.
pub struct Reader {
    stream: stream::Stream,
    consumer: Consumer<Config>,
    filter: Filter,
    last: u64,
}

impl Reader {
    /// The next dead letters that the filter takes. The page is empty when it takes none of them; `None` at the end.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn page(&mut self) -> anyhow::Result<Option<Vec<DeadLetter>>> {
        let mut messages = self.consumer.fetch().max_messages(PAGE).messages().await.context("cannot read DEAD")?;
        let (mut dead_letters, mut read) = (Vec::new(), 0_usize);
        while let Some(message) = messages.next().await {
            let message = message.map_err(|error| anyhow::anyhow!("reading DEAD broke off: {error}"))?;
            let (sequence, nanos) = {
                let info = message.info().map_err(|error| anyhow::anyhow!("cannot read DEAD: {error}"))?;
                (info.stream_sequence, info.published.unix_timestamp_nanos())
            };
            if sequence > self.last {
                break;
            }
            read += 1;
            let headers = message.headers.clone().unwrap_or_default();
            let bytes = headers.get(PAYLOAD_BYTES).and_then(|bytes| bytes.as_str().parse().ok()).unwrap_or(0);
            let dead_letter = DeadLetter::new(&message.subject, sequence, nanos, bytes, headers);
            if self.filter.takes(&dead_letter) {
                dead_letters.push(dead_letter);
            }
        }
        Ok((read > 0).then_some(dead_letters))
    }

    /// Ends reading. Without this call the broker keeps the reader for half a minute.
    pub async fn close(self) {
        let name = self.consumer.cached_info().name.clone();
        if let Err(error) = self.stream.delete_consumer(&name).await {
            tracing::debug!(%error, "the reader of DEAD is left to the broker");
        }
    }
}

/// The headers of the redriven message: those that the message had, and its history.
fn live_headers(dead_letter: &DeadLetter) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, values) in dead_letter.headers.iter() {
        let text: &str = name.as_ref();
        if !text.starts_with("Nats-") && !text.starts_with(header::DEAD_PREFIX) {
            values.iter().for_each(|value| headers.append(name.clone(), value.clone()));
        }
    }
    headers.insert(header::MESSAGE_ID, deduplication_key(dead_letter));
    headers.insert(header::REDRIVES, dead_letter.redrives().saturating_add(1).to_string());
    let attempts: u64 = dead_letter.header(header::DEAD_ATTEMPTS).parse().unwrap_or(0);
    headers.insert(header::ATTEMPTS_BEFORE, attempts.to_string());
    headers
}

/// A new deduplication key: within the duplicate window the broker would drop a message with the old one.
///
/// It names the message that was given up, so every try at a dead letter has the same key, and so have the dead letters
/// that other components made of that message. One message serves them all, because every component reads it. Without
/// this, a message that two components refuse would be two after a redrive, then four, then eight.
///
/// A stream that was made anew gives out the same sequences again, but has forgotten the keys.
fn deduplication_key(dead_letter: &DeadLetter) -> String {
    let origin = dead_letter.header(header::DEAD_ORIGIN);
    let place = if origin.is_empty() {
        format!("{}@{}", dead_letter.sequence, dead_letter.died_at.as_micros())
    } else {
        origin.to_owned()
    };
    format!("{}/redrive/{place}", dead_letter.header(header::ID))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dead_letter(headers: &[(&str, &str)]) -> DeadLetter {
        let headers = headers.iter().map(|&(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        DeadLetter::new("dead.normalize.acme", 7, 1_700_000_000_123_456_789, 2, headers)
    }

    #[test]
    fn a_copy_has_the_messages_own_headers_and_its_history() {
        let dead_letter = dead_letter(&[
            ("Nats-Msg-Id", "normalize/RAW:42"),
            (header::ID, "github:1"),
            (header::GITHUB_SIGNATURE, "sha256=00"),
            (header::DEAD_SUBJECT, "raw.acme.github.push"),
            (header::DEAD_ATTEMPTS, "5"),
            (header::DEAD_ORIGIN, "RAW:42"),
            (header::REDRIVES, "1"),
            (header::ATTEMPTS_BEFORE, "4"),
        ]);
        let headers = live_headers(&dead_letter);
        let mut found: Vec<String> = headers.iter().map(|(name, values)| format!("{name}: {}", values[0])).collect();
        found.sort();
        let expected = [
            "Headrace-Attempts-Before: 5",
            "Headrace-Id: github:1",
            "Headrace-Redrives: 2",
            "Nats-Msg-Id: github:1/redrive/RAW:42",
            "X-Hub-Signature-256: sha256=00",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_dead_letter_without_an_origin_has_a_key_of_its_own() {
        let key = deduplication_key(&dead_letter(&[(header::ID, "github:1")]));
        assert_eq!(key, "github:1/redrive/7@1700000000123456");
    }

    #[test]
    fn every_condition_of_a_filter_must_hold() {
        let dead_letter = dead_letter(&[(header::DEAD_REASON, "malformed"), (header::ID, "github:1")]);
        assert_eq!(dead_letter.tenant, "acme");
        let at = |micros| Some(Timestamp::from_micros(dead_letter.died_at.as_micros() + micros));
        let text = |text: &str| Some(text.to_owned());
        for (filter, want) in [
            (Filter::default(), true),
            (Filter { reason: text("malformed"), event_id: text("github:1"), ..Filter::default() }, true),
            (Filter { reason: text("malformed"), event_id: text("github:2"), ..Filter::default() }, false),
            (Filter { reason: text("rejected"), ..Filter::default() }, false),
            (Filter { since: at(0), until: at(1), ..Filter::default() }, true),
            (Filter { since: at(1), ..Filter::default() }, false),
            (Filter { until: at(0), ..Filter::default() }, false),
        ] {
            assert_eq!(filter.takes(&dead_letter), want, "{filter:?}");
        }
    }
}
