//! Brings a sink what it has missed: reads it from the store, and publishes it to CATCHUP, for the sink's second loop.
//!
//! Of several processes the one with the lease does it. How far it is stands in the record and moves only after the
//! PubAcks, by compare-and-set. So a process that dies has the next one bring the last slice again; the broker drops
//! what it knows, and the rest comes once more with the same id.
//!
//! Live messages go first: nothing is brought while many of them wait for the sink. And nothing is brought that the
//! store, or the sink itself, may still have in hand. The store's rows would be missing from the answer, and the sink's
//! events would be delivered at the same time in two places.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use headrace_schemas::event::Event;
use headrace_schemas::subject;
use headrace_schemas::time::Timestamp;
use metrics::{Counter, Gauge, counter, gauge};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::aside::pause::Gate;
use crate::aside::record::{Range, Record};
use crate::aside::{Asides, consumer_of};
use crate::broker::progress::{settled_through, state_of};
use crate::broker::{Broker, Stream};
use crate::crash::{self, Point};
use crate::fault::Fault;
use crate::limit::Limiter;
use crate::message::payload::{Outgoing, Product as _};
use crate::observe::metrics::{CAUGHT_UP, MISSED_SECONDS, SET_ASIDE};
use crate::publish::{Publisher, is_full};

/// The hand-over of finished events.
const SCORED: &str = "scored";
/// How often to look for something that is missed.
const PERIOD: Duration = Duration::from_secs(2);
/// How long to wait for room, for the live messages and for the store.
const PAUSE: Duration = Duration::from_millis(500);
/// For how long a process that brings messages counts on its lease.
const LEASE: Duration = Duration::from_secs(4);
/// The most events that are read at once.
const PAGE_EVENTS: usize = 2_000;
/// The same where a moment has more than that.
const PAGE_EVENTS_MAX: usize = 8 * PAGE_EVENTS;
/// The most bytes that these may take, in memory.
pub const PAGE_BYTES: usize = 4 << 20;
/// The most events that are on their way to the broker at once.
const ON_THEIR_WAY_MAX: usize = 256;
/// The longest time for reading a page.
const READ_MAX: Duration = Duration::from_secs(120);
/// Nothing is brought while so many messages wait in CATCHUP for this sink.
const WAITING_MAX: u64 = 2_000;
/// Nothing is brought while so many live messages wait for this sink.
const LIVE_MAX: u64 = 10_000;
/// The shortest and the longest slice of time that is read at once.
const SLICE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(6 * 3_600));
/// The first slice.
const SLICE_FIRST: Duration = Duration::from_secs(10);

/// What the store has kept of EVENTS.
#[async_trait]
pub trait History: Send + Sync {
    /// The finished events that were stored in EVENTS within `slice`, in that order.
    ///
    /// # Errors
    /// Transient when the store is away, broken when a person must act.
    async fn events(&self, slice: &Slice<'_>) -> Result<Page, Fault>;
}

/// What is asked of the store.
#[derive(Clone, Copy, Debug)]
pub struct Slice<'a> {
    /// Stored then or later.
    pub since: Timestamp,
    /// Stored before then.
    pub until: Timestamp,
    /// With a subject that one of these filters takes. Empty means all.
    pub filters: &'a [String],
    /// The most events to return.
    pub events_max: usize,
    /// No further event is returned when they take more bytes than this.
    pub bytes_max: usize,
}

/// What the store has of a slice.
#[derive(Debug, Default)]
pub struct Page {
    /// The events, each with the time at which it was stored in EVENTS.
    pub events: Vec<(Timestamp, Event)>,
    /// Whether the slice has more.
    pub is_cut: bool,
}

/// What a feeder must know of its sink's component.
#[derive(Clone)]
pub struct Fed {
    /// The component.
    pub component: String,
    /// The component's filters on EVENTS. Empty means all.
    pub filters: Vec<String>,
    /// Longest time for one call of the sink.
    pub call_timeout: Duration,
    /// Whether the sink is paused.
    pub gate: Gate,
    /// Whether calls to its receiver fail.
    pub limiter: Limiter,
}

/// Brings one component what it has missed.
pub struct Feeder {
    broker: Broker,
    publisher: Publisher,
    history: Arc<dyn History>,
    /// The store's component on EVENTS.
    store: String,
    fed: Fed,
    set_aside: Gauge,
    missed: Gauge,
    caught_up: Counter,
}

/// What is read next.
struct Pace {
    slice: Duration,
    events_max: usize,
    /// Which range was last brought from, if any since we have the lease.
    range: Option<Timestamp>,
}

/// What a step came to.
enum Step {
    /// Something was brought, or there was nothing to bring in this slice.
    Done,
    /// It is not the time for it.
    NotYet,
    /// Nothing is missed any more.
    CaughtUp,
}

impl Feeder {
    /// A feeder for `fed`, out of `history`, which `store` fills from EVENTS.
    #[must_use]
    pub fn new(broker: &Broker, history: Arc<dyn History>, store: &str, fed: Fed) -> Self {
        let component = || fed.component.clone();
        Self {
            publisher: Publisher::new(broker),
            broker: broker.clone(),
            history,
            store: store.to_owned(),
            set_aside: gauge!(SET_ASIDE, "component" => component()),
            missed: gauge!(MISSED_SECONDS, "component" => component()),
            caught_up: counter!(CAUGHT_UP, "component" => component()),
            fed,
        }
    }

    /// Runs until `stop`.
    ///
    /// # Errors
    /// When the broker or the store does not answer.
    pub async fn run(&self, stop: CancellationToken) -> anyhow::Result<()> {
        let asides = Asides::open(&self.broker).await?;
        let holder = format!("{:032x}", rand::random::<u128>());
        let mut lease = asides.lease(&self.fed.component, &holder, LEASE);
        while !stop.is_cancelled() {
            let record = asides.record(&self.fed.component).await?;
            self.show(&record);
            if record.is_behind() && lease.claim().await.map_err(|fault| fault.source)? {
                let worked = tokio::select! {
                    worked = self.bring_all(&asides, &stop) => worked,
                    () = lease.keep() => Ok(()),
                };
                lease.release().await;
                worked?;
            }
            rest(PERIOD, &stop).await;
        }
        Ok(())
    }

    async fn bring_all(&self, asides: &Asides, stop: &CancellationToken) -> anyhow::Result<()> {
        let mut pace = Pace { slice: SLICE_FIRST, events_max: PAGE_EVENTS, range: None };
        while !stop.is_cancelled() {
            let record = asides.record(&self.fed.component).await?;
            self.show(&record);
            match self.step(asides, &record, &mut pace, stop).await? {
                Step::Done => {}
                Step::NotYet => rest(PAUSE, stop).await,
                Step::CaughtUp => return Ok(()),
            }
        }
        Ok(())
    }

    /// Brings the next slice, if it is the time for it.
    async fn step(
        &self,
        asides: &Asides,
        record: &Record,
        pace: &mut Pace,
        stop: &CancellationToken,
    ) -> anyhow::Result<Step> {
        let Some(range) = record.ranges.first() else { return Ok(Step::CaughtUp) };
        // What another process, or another request of a person, brought of it must not meet what comes again.
        let is_first = pace.range != Some(range.made_at);
        let Some(bound) = self.bound(record, range, is_first, stop).await? else { return Ok(Step::NotYet) };
        let until = range.from.plus(pace.slice).min(bound);
        let slice = Slice {
            since: range.from,
            until,
            filters: &self.fed.filters,
            events_max: pace.events_max,
            bytes_max: PAGE_BYTES * pace.events_max.div_ceil(PAGE_EVENTS),
        };
        let read = timeout(READ_MAX, self.history.events(&slice)).await;
        let read = read.with_context(|| format!("the store did not answer within {READ_MAX:?}"))?;
        let Page { mut events, is_cut } = read.map_err(|fault| fault.source).context("cannot read what was missed")?;
        let mut reached = until;
        if is_cut {
            // Of the last moment there may be more, so begin with it next time.
            reached = events.last().map_or(range.from, |(stored_at, _)| *stored_at);
            if reached > range.from {
                events.retain(|(stored_at, _)| *stored_at < reached);
            }
        }
        let count = events.len();
        let stored = self.bring(range, &events).await?;
        let is_full = stored < count;
        if is_full {
            // Of the moment of the first one that was not stored, others may be.
            reached = events[stored].0;
        }
        crash::pass(Point::BeforeCaughtUp);
        self.note(asides, range, reached, stored as u64).await?;
        pace.range = Some(range.made_at);
        if is_full {
            // Messages that other sinks have not taken fill the stream.
            return Ok(Step::NotYet);
        }
        pace.adapt(count, is_cut, reached > range.from);
        Ok(Step::Done)
    }

    /// Up to when events can be brought now; `None` when none can.
    async fn bound(
        &self,
        record: &Record,
        range: &Range,
        is_first: bool,
        stop: &CancellationToken,
    ) -> anyhow::Result<Option<Timestamp>> {
        // A call that began before a purge may still take effect. A look-up could not be believed before it has ended.
        let settled_after = self.fed.call_timeout + self.broker.clock_skew();
        if record.taken_at.is_some_and(|taken_at| Timestamp::now().since(taken_at) < settled_after) {
            return Ok(None);
        }
        // While calls fail, its messages would only take the room of other sinks' messages.
        if self.fed.gate.paused_since(stop).await.is_some() || self.fed.limiter.open_until().is_some() {
            return Ok(None);
        }
        let (component, own) = (self.fed.component.as_str(), consumer_of(&self.fed.component));
        // The sink's loop makes the consumer.
        let Some(waiting) = state_of(&self.broker, Stream::CatchUp, &own).await? else { return Ok(None) };
        let Some(live) = state_of(&self.broker, Stream::Events, component).await? else { return Ok(None) };
        let waiting = waiting.num_pending.saturating_add(waiting.num_ack_pending as u64);
        if waiting >= WAITING_MAX || (is_first && waiting > 0) || live.num_pending >= LIVE_MAX {
            return Ok(None);
        }
        let mut bound = range.until;
        for reader in [self.store.as_str(), component] {
            let Some(settled) = settled_through(&self.broker, Stream::Events, reader).await? else { return Ok(None) };
            // A message that is still to be settled may have an earlier time than one before it.
            bound = bound.min(settled.minus(self.broker.clock_skew()));
        }
        Ok((bound > range.from).then_some(bound))
    }

    /// Publishes `events`, a few at a time. Returns how many are stored: all, or those before the first for which there was
    /// no room.
    async fn bring(&self, range: &Range, events: &[(Timestamp, Event)]) -> anyhow::Result<usize> {
        let mut stored = 0;
        for part in events.chunks(ON_THEIR_WAY_MAX) {
            let mut unconfirmed = Vec::with_capacity(part.len());
            for (_, event) in part {
                let outgoing = outgoing(&self.fed.component, range, event).map_err(|fault| fault.source)?;
                unconfirmed.push(self.publisher.send(outgoing, None).await.map_err(|fault| fault.source)?);
            }
            let mut has_room = true;
            for confirmation in unconfirmed {
                match confirmation.confirmed_or_cut_off().await {
                    Ok(confirmed) => {
                        self.caught_up.increment(u64::from(!confirmed.duplicate));
                        stored += usize::from(has_room);
                    }
                    Err(fault) if is_full(&fault) => has_room = false,
                    Err(fault) => return Err(fault.source).context("cannot bring a sink what it missed"),
                }
            }
            if !has_room {
                break;
            }
        }
        Ok(stored)
    }

    /// Notes that everything before `reached` was brought.
    async fn note(&self, asides: &Asides, range: &Range, reached: Timestamp, count: u64) -> anyhow::Result<()> {
        let (from, now) = (range.from, Timestamp::now());
        let component = self.fed.component.as_str();
        let advance = |record: &mut Record| {
            record.advance(from, reached, count, now);
            record.clone()
        };
        let record = asides.change(component, advance).await?;
        self.show(&record);
        if !record.is_behind() {
            let brought = record.brought;
            tracing::info!(component, brought, "this sink has caught up: what it had missed was brought to it");
        }
        Ok(())
    }

    fn show(&self, record: &Record) {
        self.set_aside.set(if record.is_behind() { 1.0 } else { 0.0 });
        self.missed.set(record.missed_seconds());
    }
}

impl Pace {
    /// Chooses the next slice so that it fills about half a page.
    fn adapt(&mut self, count: usize, is_cut: bool, has_moved: bool) {
        let (min, max) = SLICE;
        if is_cut {
            self.slice = (self.slice / 2).max(min);
            // A whole page of one moment: only a larger one brings us further.
            self.events_max = if has_moved { PAGE_EVENTS } else { (self.events_max * 2).min(PAGE_EVENTS_MAX) };
        } else if count < PAGE_EVENTS / 4 {
            (self.slice, self.events_max) = ((self.slice * 2).min(max), PAGE_EVENTS);
        }
    }
}

/// The message for `component` that brings `event`.
fn outgoing(component: &str, range: &Range, event: &Event) -> Result<Outgoing, Fault> {
    let outgoing = event.write(SCORED)?;
    Ok(Outgoing {
        subject: subject::catch_up(component, &outgoing.subject),
        // A person may ask for the same time again, and must get it.
        message_id: format!("{component}/{}/{}", range.made_at.as_micros(), outgoing.message_id),
        ..outgoing
    })
}

async fn rest(pause: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = sleep(pause) => {}
        () = stop.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_follow_how_many_events_there_are() {
        let mut pace = Pace { slice: SLICE_FIRST, events_max: PAGE_EVENTS, range: None };
        pace.adapt(3, false, true);
        assert_eq!(pace.slice, SLICE_FIRST * 2);
        pace.adapt(PAGE_EVENTS / 2, false, true);
        assert_eq!(pace.slice, SLICE_FIRST * 2);
        pace.adapt(PAGE_EVENTS, true, true);
        assert_eq!((pace.slice, pace.events_max), (SLICE_FIRST, PAGE_EVENTS));
        pace.adapt(PAGE_EVENTS, true, false);
        assert_eq!(pace.events_max, PAGE_EVENTS * 2);
        (0..64).for_each(|_| pace.adapt(0, false, true));
        assert_eq!((pace.slice, pace.events_max), (SLICE.1, PAGE_EVENTS));
        (0..64).for_each(|_| pace.adapt(PAGE_EVENTS, true, true));
        assert_eq!(pace.slice, SLICE.0);
    }
}
