//! Dead letters: listed, redriven, removed.
//!
//! Nothing here decides; a person does, with `headrace dead`. A dead letter leaves DEAD only when the broker has
//! confirmed the message that was made from it. That message is always a suspect
//! ([`crate::message::Delivered::is_suspect`]), so it makes no second row where the first message got through.

mod redrive;

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

pub use self::redrive::{Redriven, SentMessages};
use self::redrive::{content, live_headers};
use crate::broker::{Broker, Stream};
use crate::crash::{self, Point};
use crate::message::body;
use crate::publish::Publisher;

/// How many dead letters are read at once, without their payloads: about 1 KiB each.
const PAGE: usize = 256;
/// The broker forgets a reader that was killed, or that rests between two pages, after this time.
const READER_KEPT: Duration = Duration::from_secs(30);
/// How the origin of a dead letter begins that names a row of ClickHouse. Others have a stream and a sequence.
pub(crate) const ROW_ORIGIN: &str = "events@";
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
        // Sequences begin at 1.
        let first = filter.sequence.unwrap_or(1).max(1);
        let consumer = consumer_from(&self.stream, &filter, first).await?;
        let last = filter.sequence.unwrap_or(u64::MAX).min(state.last_sequence);
        Ok(Reader { stream: self.stream.clone(), consumer, filter, next: first, last })
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
            Some(object) => body::fetch(&self.broker, object.as_str()).await.map_err(|fault| fault.source),
            None => Ok(payload),
        }
    }

    /// Redrives a dead letter: publishes it to the subject that it had, waits until the broker has confirmed it, and
    /// only then removes it. When it was interrupted, the next call does the rest.
    ///
    /// `sent` is what this run has sent so far. Several components may have given up one message, and an interrupted run
    /// leaves a dead letter beside that of its copy. One message serves them all. Without this, a message that two
    /// components refuse would be two after a redrive, then four, then eight.
    ///
    /// # Errors
    /// When the broker does not answer or does not store the message. The dead letter is then still there.
    pub async fn redrive(&self, sequence: u64, sent: &mut SentMessages) -> anyhow::Result<Redriven> {
        let Some((dead_letter, payload)) = self.get(sequence).await? else { return Ok(Redriven::Gone) };
        if let Some(problem) = self.unfit(&dead_letter).await? {
            return Ok(Redriven::Kept(problem));
        }
        let content = content(&dead_letter, &payload);
        if sent.contents.contains(&content) {
            self.remove(sequence).await?;
            return Ok(Redriven::Covered);
        }
        let subject = dead_letter.header(header::DEAD_SUBJECT).to_owned();
        let published = self.publisher.send_headers(subject, live_headers(&dead_letter), payload).await;
        let stored = match published {
            Ok(unconfirmed) => unconfirmed.confirmed().await,
            Err(fault) => Err(fault),
        };
        let stored = stored.map_err(|fault| fault.source.context(format!("cannot publish dead letter {sequence}")))?;
        // Of a message that an interrupted run sent, we do not know whether it is still in its stream.
        if !stored.duplicate {
            sent.insert(&dead_letter, content);
        }
        // Remove only after the broker has stored it: a crash between the two costs a duplicate, the other order loses
        // the event.
        crash::pass(Point::AfterRedrive);
        self.remove(sequence).await?;
        crash::pass(Point::AfterRedriven);
        Ok(Redriven::Sent)
    }

    /// Removes a dead letter if its message is one of those `sent`. False if it is of another message, or gone.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn merge(&self, dead_letter: &DeadLetter, sent: &SentMessages) -> anyhow::Result<bool> {
        // Most are of other events, so their payloads are not read.
        if !sent.ids.contains(dead_letter.header(header::ID)) {
            return Ok(false);
        }
        let Some((dead_letter, payload)) = self.get(dead_letter.sequence).await? else { return Ok(false) };
        if !sent.contents.contains(&content(&dead_letter, &payload)) {
            return Ok(false);
        }
        self.remove(dead_letter.sequence).await
    }

    /// Why a dead letter cannot be redriven, in words.
    async fn unfit(&self, dead_letter: &DeadLetter) -> anyhow::Result<Option<String>> {
        let own = dead_letter.header(header::DEAD_SUBJECT);
        if own.is_empty() && dead_letter.header(header::DEAD_ORIGIN).starts_with(ROW_ORIGIN) {
            return Ok(Some(
                "it names a row of ClickHouse and was never a message; do what its detail says".to_owned(),
            ));
        }
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
    /// Where the next page begins.
    next: u64,
    last: u64,
}

impl Reader {
    /// The next dead letters that the filter takes. The page is empty when it takes none of them; `None` at the end.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn page(&mut self) -> anyhow::Result<Option<Vec<DeadLetter>>> {
        let page = match self.fetch().await {
            Ok(page) => page,
            Err(error) => {
                // The broker knows no reader that rested for long, and one that was started again knows none.
                tracing::debug!(%error, next = self.next, "the reader of DEAD is made anew");
                self.consumer = consumer_from(&self.stream, &self.filter, self.next).await?;
                self.fetch().await?
            }
        };
        let Some(read) = page.last().map(|dead_letter| dead_letter.sequence) else { return Ok(None) };
        self.next = read + 1;
        Ok(Some(page.into_iter().filter(|dead_letter| self.filter.takes(dead_letter)).collect()))
    }

    async fn fetch(&self) -> anyhow::Result<Vec<DeadLetter>> {
        let mut messages = self.consumer.fetch().max_messages(PAGE).messages().await.context("cannot read DEAD")?;
        let mut dead_letters = Vec::new();
        while let Some(message) = messages.next().await {
            let message = message.map_err(|error| anyhow::anyhow!("reading DEAD broke off: {error}"))?;
            let (sequence, nanos) = {
                let info = message.info().map_err(|error| anyhow::anyhow!("cannot read DEAD: {error}"))?;
                (info.stream_sequence, info.published.unix_timestamp_nanos())
            };
            if sequence > self.last {
                break;
            }
            let headers = message.headers.clone().unwrap_or_default();
            let bytes = headers.get(PAYLOAD_BYTES).and_then(|bytes| bytes.as_str().parse().ok()).unwrap_or(0);
            dead_letters.push(DeadLetter::new(&message.subject, sequence, nanos, bytes, headers));
        }
        Ok(dead_letters)
    }

    /// Ends reading. Without this call the broker keeps the reader for half a minute.
    pub async fn close(self) {
        let name = self.consumer.cached_info().name.clone();
        if let Err(error) = self.stream.delete_consumer(&name).await {
            tracing::debug!(%error, "the reader of DEAD is left to the broker");
        }
    }
}

/// A consumer that begins at the sequence `first`. The broker chooses by component and tenant, which are in the subject.
async fn consumer_from(stream: &stream::Stream, filter: &Filter, first: u64) -> anyhow::Result<Consumer<Config>> {
    let config = Config {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: first },
        ack_policy: AckPolicy::None,
        filter_subject: subject::dead_of(filter.component.as_deref(), filter.tenant.as_deref()),
        headers_only: true,
        memory_storage: true,
        inactive_threshold: READER_KEPT,
        ..Config::default()
    };
    stream.create_consumer(config).await.context("cannot read DEAD")
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn dead_letter(headers: &[(&str, &str)]) -> DeadLetter {
        let headers = headers.iter().map(|&(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        DeadLetter::new("dead.normalize.acme", 7, 1_700_000_000_123_456_789, 2, headers)
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
