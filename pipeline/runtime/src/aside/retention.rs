//! Makes room in full streams: removes messages that every consumer has settled, and in EVENTS also those that only
//! sinks which can catch up have not settled. What such a sink misses is written down before the purge.
//!
//! A full stream refuses new messages, because dropping the oldest would lose messages that were not read yet.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::consumer::Info;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use futures::TryStreamExt as _;
use headrace_schemas::time::Timestamp;
use metrics::counter;
use tokio_util::sync::CancellationToken;

use crate::aside::record::{Cause, Range, Seen};
use crate::aside::{Asides, CATCHES_UP, STORE, YES, expiry};
use crate::broker::progress::oldest_unsettled;
use crate::broker::{Broker, Stream};
use crate::crash::{self, Point};
use crate::every::every;
use crate::observe::metrics::PURGED;

/// How often to look.
const PERIOD: Duration = Duration::from_secs(2);
/// A stream that is fuller than this share of its bytes gets room made.
const HIGH_WATER: f64 = 0.75;
/// This share stays filled, for replay. Where consumers are behind, more stays.
const LOW_WATER: f64 = 0.5;

/// Runs until `stop`.
///
/// # Errors
/// When the broker does not answer.
pub async fn run(broker: Broker, stop: CancellationToken) -> anyhow::Result<()> {
    let mut turns = every(PERIOD, &stop);
    while turns.next().await {
        make_room(&broker).await?;
    }
    Ok(())
}

/// Looks once at each stream, and makes room where it is needed.
///
/// # Errors
/// When the broker does not answer.
pub async fn make_room(broker: &Broker) -> anyhow::Result<()> {
    let mut outcome = Ok(());
    for stream in [Stream::Raw, Stream::Events, Stream::Alerts] {
        let looked = look_after(broker, stream).await;
        let looked = looked.with_context(|| format!("cannot look after the stream {}", stream.name()));
        // The other streams need room too.
        outcome = outcome.and(looked);
    }
    outcome
}

async fn look_after(broker: &Broker, stream: Stream) -> anyhow::Result<()> {
    let handle = broker.jetstream().get_stream(stream.name()).await.context("cannot open it")?;
    let info = handle.cached_info();
    let (bytes, limit) = (info.state.bytes as f64, info.config.max_bytes as f64);
    let is_full = limit > 0.0 && bytes >= HIGH_WATER * limit;
    if !is_full && stream != Stream::Events {
        return Ok(());
    }
    // The state was read before the consumers', so messages that came in between stay.
    let readers = Readers::of(broker, stream, &handle).await?;
    // Without a consumer nobody knows what was read, so a stream without consumers stays as it is.
    let relieved =
        if is_full && !readers.all.is_empty() { relieve(broker, stream, &handle, &readers).await } else { Ok(()) };
    if stream == Stream::Events {
        expiry::note(broker, &handle, &readers).await?;
    }
    relieved
}

async fn relieve(broker: &Broker, stream: Stream, handle: &stream::Stream, readers: &Readers) -> anyhow::Result<()> {
    let info = handle.cached_info();
    let (state, limit) = (&info.state, info.config.max_bytes);
    let position = |water: f64| {
        let surplus = 1.0 - water * limit as f64 / state.bytes as f64;
        let messages = state.last_sequence.saturating_sub(state.first_sequence);
        state.first_sequence + (messages as f64 * surplus) as u64
    };
    let wanted = position(LOW_WATER);
    let by_all = wanted.min(readers.settled_by_all().saturating_add(1));
    // Nobody is set aside while what all have settled makes room enough.
    let by_firm =
        if stream == Stream::Events && by_all <= position(HIGH_WATER) { readers.settled_by_firm() } else { None };
    let keep_from = by_firm.map_or(by_all, |settled| by_all.max(wanted.min(settled.saturating_add(1))));
    if keep_from <= state.first_sequence {
        let behind = readers.furthest_behind().unwrap_or_default();
        tracing::warn!(
            stream = stream.name(),
            consumer = behind,
            bytes = state.bytes,
            limit,
            "stream is nearly full of messages that a consumer has not settled; when it is full, its publishers wait"
        );
        return Ok(());
    }
    match readers.set_aside(broker, handle, keep_from, Cause::Full).await {
        Ok(passed) => {
            purge(stream, handle, keep_from).await?;
            note_taken(broker, &passed).await
        }
        Err(error) => {
            // What all have settled can go in any case.
            if by_all > state.first_sequence {
                purge(stream, handle, by_all).await?;
            }
            Err(error)
        }
    }
}

/// Notes that a purge took messages from sinks. A call with one of them may have begun just before it.
pub(super) async fn note_taken(broker: &Broker, passed: &[String]) -> anyhow::Result<()> {
    if passed.is_empty() {
        return Ok(());
    }
    let (asides, now) = (Asides::open(broker).await?, Timestamp::now());
    for component in passed {
        asides.change(component, |record| record.taken_at = Some(now)).await?;
    }
    Ok(())
}

/// Removes the messages before `keep_from`. Whoever has not settled them must have been set aside.
pub(super) async fn purge(stream: Stream, handle: &stream::Stream, keep_from: u64) -> anyhow::Result<()> {
    let purged = handle.purge().sequence(keep_from).await.context("cannot purge it")?.purged;
    counter!(PURGED, "stream" => stream.name()).increment(purged);
    tracing::info!(stream = stream.name(), purged, "made room: removed messages that nobody needs there any more");
    Ok(())
}

/// The consumers of a stream.
pub(super) struct Readers {
    pub(super) all: Vec<Reader>,
    last_sequence: u64,
}

/// A consumer.
pub(super) struct Reader {
    pub(super) info: Info,
    /// The first message that it has not settled.
    pub(super) oldest: Option<Position>,
}

/// A message's position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) sequence: u64,
    pub(super) stored_at: Timestamp,
}

impl Position {
    fn of(message: &StreamMessage) -> Self {
        let stored_at = Timestamp::from_unix_nanos(message.time.unix_timestamp_nanos());
        Self { sequence: message.sequence, stored_at }
    }

    /// The first message of the stream at `sequence` or after it.
    pub(super) async fn at(handle: &stream::Stream, sequence: u64) -> anyhow::Result<Option<Self>> {
        match handle.get_first_raw_message_by_subject(Stream::Events.subjects(), sequence).await {
            Ok(message) => Ok(Some(Self::of(&message))),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read the message {sequence}")),
        }
    }
}

impl Reader {
    pub(super) fn catches_up(&self) -> bool {
        self.info.config.metadata.get(CATCHES_UP).is_some_and(|value| value == YES)
    }

    /// Up to where the store cannot give messages back, if this is the store's consumer: an earlier release inserted
    /// their events without the time at which they were stored.
    fn gives_back_after(&self) -> Option<u64> {
        self.info.config.metadata.get(STORE)?.parse().ok()
    }
}

impl Readers {
    async fn of(broker: &Broker, stream: Stream, handle: &stream::Stream) -> anyhow::Result<Self> {
        let infos: Vec<Info> = handle.consumers().try_collect().await.context("cannot list its consumers")?;
        let mut all = Vec::with_capacity(infos.len());
        for info in infos {
            // The broker knows that nothing is unsettled, so spare it the search.
            let is_done = info.num_pending == 0 && info.num_ack_pending == 0;
            let oldest = if is_done { None } else { oldest_unsettled(broker, stream, &info).await? };
            all.push(Reader { oldest: oldest.as_ref().map(Position::of), info });
        }
        Ok(Self { all, last_sequence: handle.cached_info().state.last_sequence })
    }

    fn settled_by(&self, reader: &Reader) -> u64 {
        reader.oldest.map_or(self.last_sequence, |oldest| oldest.sequence.saturating_sub(1))
    }

    fn settled_by_all(&self) -> u64 {
        self.all.iter().map(|reader| self.settled_by(reader)).min().unwrap_or(0)
    }

    /// Up to where everybody has settled that cannot catch up. `None` without a store, because nobody can then.
    pub(super) fn settled_by_firm(&self) -> Option<u64> {
        let after = self.all.iter().find_map(Reader::gives_back_after)?;
        let misses_for_good = |reader: &Reader| reader.oldest.is_some_and(|oldest| oldest.sequence <= after);
        let firm = self.all.iter().filter(|reader| !reader.catches_up() || misses_for_good(reader));
        firm.map(|reader| self.settled_by(reader)).min()
    }

    fn furthest_behind(&self) -> Option<&str> {
        let firm = |reader: &&Reader| self.settled_by_firm().is_none() || !reader.catches_up();
        let behind = self.all.iter().filter(firm).min_by_key(|reader| self.settled_by(reader));
        behind.map(|reader| reader.info.name.as_str())
    }

    /// Writes down what each sink will miss when the messages before `keep_from` are gone. Returns the sinks.
    pub(super) async fn set_aside(
        &self,
        broker: &Broker,
        handle: &stream::Stream,
        keep_from: u64,
        cause: Cause,
    ) -> anyhow::Result<Vec<String>> {
        let is_behind = |reader: &Reader| reader.oldest.is_some_and(|oldest| oldest.sequence < keep_from);
        let passed = |reader: &&Reader| reader.catches_up() && is_behind(reader);
        let passed: Vec<&Reader> = self.all.iter().filter(passed).collect();
        if passed.is_empty() {
            return Ok(Vec::new());
        }
        let asides = Asides::open(broker).await?;
        let skew = broker.clock_skew();
        let now = Timestamp::now();
        // The messages of one microsecond have one time, so the range ends with the next.
        let until = Position::at(handle, keep_from.saturating_sub(1)).await?.map_or(now, |last| last.stored_at);
        let until = until.plus(Duration::from_micros(1)).plus(skew);
        for reader in &passed {
            let Some(oldest) = reader.oldest else { continue };
            let first = reader.info.ack_floor.stream_sequence + 1;
            // A later message may have an earlier time, where clocks are set or leaders change.
            let since = oldest.stored_at.minus(skew);
            let range = Range {
                since,
                until: until.max(oldest.stored_at),
                from: since,
                sequences: Some((first.min(oldest.sequence), keep_from.saturating_sub(1))),
                made_at: now,
                cause,
            };
            write_down(&asides, &reader.info.name, range, now).await?;
        }
        crash::pass(Point::BeforePurge);
        Ok(passed.into_iter().map(|reader| reader.info.name.clone()).collect())
    }
}

/// Adds `range` to what `component` has missed.
pub(super) async fn write_down(asides: &Asides, component: &str, range: Range, now: Timestamp) -> anyhow::Result<()> {
    let (since, until, cause) = (range.since, range.until, range.cause.as_str());
    let is_new = asides.change(component, |record| {
        let known = record.ranges.clone();
        let is_first = record.add(range.clone());
        // The same once more, as after a crash before the purge, changes nothing.
        if record.ranges != known {
            record.taken_at = Some(now);
            let last = range.sequences.map_or(0, |(_, last)| last);
            record.seen = Some(Seen { sequence: last, stored_at: until, at: now });
        }
        is_first
    });
    if is_new.await? {
        tracing::warn!(
            component,
            %since,
            %until,
            cause,
            "this sink is set aside, so that it delays nobody: what it has not taken leaves the stream, and is brought to it \
             from ClickHouse when it works again. `headrace sinks list` shows what it misses"
        );
    }
    Ok(())
}
