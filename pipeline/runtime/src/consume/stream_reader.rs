//! Reads the deliveries that RAW still holds once more, in their order, for `headrace replay`.
//!
//! It settles nothing. It makes consumers of its own, so the components keep their places. The broker sends a page
//! without waiting for acknowledgements, so messages can be lost on the way. The consumer's own count of messages
//! reveals that, and the page is asked for again.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::datetime::from_nanos;
use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy};
use async_nats::jetstream::stream;
use futures::StreamExt as _;
use headrace_schemas::time::Timestamp;
use headrace_schemas::{header, subject};
use tokio::time::timeout;

use crate::broker::{Broker, Stream};
use crate::message::incarnation::Forgotten;
use crate::message::{Delivered, Intake};
use crate::moment::Moment;

/// The most messages of a page.
pub const PAGE: usize = 1_024;
/// The most bytes of a page; no less than the broker's `max_payload`.
pub const PAGE_BYTES: usize = 16 << 20;
/// The broker forgets a reader that was killed after this time.
const READER_KEPT: Duration = Duration::from_secs(30);
/// How far a gateway's clock may be ahead of the broker's.
const CLOCK_SKEW: Duration = Duration::from_secs(10);

/// The deliveries that were received in a span of time.
#[derive(Clone, Debug)]
pub struct Window {
    /// Received then or later.
    pub from: Timestamp,
    /// Received before then.
    pub to: Timestamp,
    /// Of this tenant; `None` means of all tenants.
    pub tenant: Option<String>,
}

impl Window {
    /// Whether `message` of RAW was received within the window. A message that does not tell when it was received
    /// counts by the time at which it was stored.
    #[must_use]
    pub fn holds(&self, message: &Delivered) -> bool {
        let told = message.header(header::RECEIVED_AT).and_then(|micros| micros.parse().ok());
        let received_at = told.map_or(message.stored_at, Timestamp::from_micros);
        (self.from..self.to).contains(&received_at)
    }
}

/// What RAW holds at this moment.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// When its oldest message was stored, by the broker's clock; `None` when it holds none.
    pub since: Option<Timestamp>,
    /// The sequence of its last message.
    pub last: u64,
}

/// What RAW holds at this moment.
///
/// # Errors
/// When the broker does not answer.
pub async fn held(broker: &Broker) -> anyhow::Result<Held> {
    let stream = open(broker).await?;
    let state = &stream.cached_info().state;
    let since = (state.messages > 0).then(|| Timestamp::from_unix_nanos(state.first_timestamp.unix_timestamp_nanos()));
    Ok(Held { since, last: state.last_sequence })
}

async fn open(broker: &Broker) -> anyhow::Result<stream::Stream> {
    let name = Stream::Raw.name();
    broker.jetstream().get_stream(name).await.with_context(|| {
        format!("cannot open the stream {name}; `headrace run` and `headrace up` create it at their first start")
    })
}

/// Reads the messages of a window, page by page.
pub struct StreamReader {
    stream: stream::Stream,
    window: Window,
    /// The last sequence that is read.
    last: u64,
    /// The last sequence that was read; `None` before the first page.
    read: Option<u64>,
    reader: Option<Reader>,
    intake: Intake,
    timeout: Duration,
}

struct Reader {
    consumer: Consumer<Config>,
    /// Messages that it has brought, by its own count.
    brought: u64,
}

impl StreamReader {
    /// A reader of the messages of `window` after the sequence `after`, or of all of them, up to `last`.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn open(broker: &Broker, window: &Window, after: Option<u64>, last: u64) -> anyhow::Result<Self> {
        let stream = open(broker).await?;
        let intake = Intake::new(Stream::Raw, broker);
        Ok(Self { stream, window: window.clone(), last, read: after, reader: None, intake, timeout: broker.timeout() })
    }

    /// The last sequence that was read.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.read.unwrap_or_default()
    }

    /// The window's messages on the next page, which may be none; `None` at the end. A redriven message was received
    /// long before it was stored. To find such messages too, reading ends where RAW ended, not with the window.
    ///
    /// # Errors
    /// When the broker does not answer, or a page did not come whole. The next call reads the same page.
    pub async fn page(&mut self) -> anyhow::Result<Option<Vec<Delivered>>> {
        if self.position() >= self.last {
            return Ok(None);
        }
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => self.open_reader().await?,
        };
        let mut page = self.fetch(&mut reader).await?;
        if page.is_empty() {
            // The broker has nothing more, or the page was lost.
            let info = reader.consumer.info().await.context("cannot read how far RAW is read")?;
            anyhow::ensure!(
                info.num_pending == 0 && info.delivered.consumer_sequence == reader.brought,
                "a page of RAW was lost on the way"
            );
            return Ok(None);
        }
        self.reader = Some(reader);
        self.read = page.last().map(|message| message.sequence).or(self.read);
        page.retain(|message| message.sequence <= self.last && self.window.holds(message));
        Ok(Some(page))
    }

    async fn open_reader(&self) -> anyhow::Result<Reader> {
        let deliver_policy = match self.read {
            Some(read) => DeliverPolicy::ByStartSequence { start_sequence: read + 1 },
            None => {
                let from = self.window.from.minus(CLOCK_SKEW).max(Timestamp::from_micros(0));
                let nanos = i128::from(from.as_micros()) * 1_000;
                let start_time = from_nanos(nanos).map_err(|error| anyhow::anyhow!("no time to read from: {error}"))?;
                DeliverPolicy::ByStartTime { start_time }
            }
        };
        let config = Config {
            deliver_policy,
            ack_policy: AckPolicy::None,
            filter_subject: subject::raw_of(self.window.tenant.as_deref()),
            memory_storage: true,
            inactive_threshold: READER_KEPT,
            ..Config::default()
        };
        let consumer = self.stream.create_consumer(config).await.context("cannot read RAW")?;
        Ok(Reader { consumer, brought: 0 })
    }

    async fn fetch(&mut self, reader: &mut Reader) -> anyhow::Result<Vec<Delivered>> {
        let requested_at = Moment::now();
        let request = reader.consumer.fetch().max_messages(PAGE).max_bytes(PAGE_BYTES).messages();
        let mut messages = request.await.context("cannot ask for a page of RAW")?;
        let mut page = Vec::new();
        loop {
            let next = timeout(self.timeout, messages.next()).await.context("the broker stopped in a page of RAW")?;
            let message = match next {
                Some(Ok(message)) => message,
                Some(Err(error)) if page.is_empty() => anyhow::bail!("the broker ended a page of RAW: {error}"),
                // A page that reached its limit of bytes ends like this too. What it brought is complete.
                Some(Err(_)) | None => return Ok(page),
            };
            let brought =
                message.info().map_err(|error| anyhow::anyhow!("cannot read RAW: {error}"))?.consumer_sequence;
            anyhow::ensure!(brought == reader.brought + 1, "messages of RAW were lost on the way");
            reader.brought = brought;
            page.push(self.intake.take(message.message, requested_at, Forgotten::NOTHING)?);
        }
    }

    /// Ends reading. Without this call the broker keeps the reader for half a minute.
    pub async fn close(self) {
        let Some(reader) = self.reader else { return };
        let name = reader.consumer.cached_info().name.clone();
        if let Err(error) = self.stream.delete_consumer(&name).await {
            tracing::debug!(%error, "the reader of RAW is left to the broker");
        }
    }
}
