//! Brings a sink what it has missed: reads it from the store, and publishes it to CATCHUP, for the sink's second loop.
//!
//! Of several processes the one with the lease does it. How far it is stands in the record and moves only after the
//! PubAcks, by compare-and-set. So a process that dies has the next one bring the last slice again; the broker drops
//! what it knows, and the rest comes once more with the same id.
//!
//! Live messages go first: nothing is brought while many of them wait for the sink. And nothing is brought that the
//! store, or the sink itself, may still have in hand. The store's rows would be missing from the answer, and the sink's
//! events would be delivered at the same time in two places.
//!
//! A row that makes no event stops nothing: `unreadable` names it in DEAD. No sink uses more of CATCHUP than its share
//! (`waiting`), so one whose receiver is slow stops no other.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use headrace_schemas::event::Event;
use headrace_schemas::subject;
use headrace_schemas::time::Timestamp;
use metrics::{Counter, Gauge, counter, gauge};
use tokio_util::sync::CancellationToken;

use crate::aside::history::{History, Page, Row, Slice, Wanted};
use crate::aside::lacking::{Kept, kept, lacks, read};
use crate::aside::pace::{PAGE_EVENTS, Pace};
use crate::aside::pause::Gate;
use crate::aside::record::{Cause, Range, Record};
use crate::aside::unreadable::give_up;
use crate::aside::waiting::{Waiting, bytes_of, share};
use crate::aside::{Asides, consumer_of};
use crate::broker::progress::{settled_through, state_of};
use crate::broker::{Broker, Stream};
use crate::crash::{self, Point};
use crate::every::rest_for;
use crate::fault::{Fault, FaultClass};
use crate::limit::Limiter;
use crate::message::payload::{Outgoing, Payload as _, Product as _};
use crate::observe::component::ComponentMetrics;
use crate::observe::health::ComponentHealth;
use crate::observe::metrics::{CAUGHT_UP, MISSED_SECONDS, SET_ASIDE};
use crate::publish::{Publisher, Unconfirmed, is_full};

/// The hand-over of finished events.
const SCORED: &str = "scored";
/// How often to look for something that is missed.
const PERIOD: Duration = Duration::from_secs(2);
/// How long to wait for room, for the live messages and for the store.
const PAUSE: Duration = Duration::from_millis(500);
/// For how long a process that brings messages counts on its lease.
const LEASE: Duration = Duration::from_secs(4);
/// The most bytes that the events of a page may take, in memory.
pub const PAGE_BYTES: usize = 4 << 20;
/// The most events that are on their way to the broker at once.
const ON_THEIR_WAY_MAX: usize = 256;
/// Nothing is brought while so many messages wait in CATCHUP for this sink.
const WAITING_MAX: u64 = 2_000;
/// Nothing is brought while so many live messages wait for this sink.
const LIVE_MAX: u64 = 10_000;
/// No event of the store is that much older than the one that was received first, however clocks differ.
const BEFORE_FIRST: Duration = Duration::from_secs(86_400);

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
    /// How it is with catching up; the sink's own health is another.
    pub health: ComponentHealth,
}

/// Brings one component what it has missed.
pub struct Feeder {
    broker: Broker,
    publisher: Publisher,
    history: Arc<dyn History>,
    /// The store's component on EVENTS.
    store: String,
    fed: Fed,
    metrics: ComponentMetrics,
    set_aside: Gauge,
    missed: Gauge,
    caught_up: Counter,
}

/// What a step came to.
#[derive(Clone, Copy)]
enum Step {
    /// Something was brought, or there was nothing to bring in this slice.
    Done,
    /// It is not the time for it.
    NotYet,
    /// Nothing is missed any more that the store has.
    CaughtUp,
}

/// What can be brought now.
struct Room {
    /// Events of a time before this one.
    until: Timestamp,
    /// Bytes of this sink's share of CATCHUP.
    bytes: usize,
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
            metrics: ComponentMetrics::new(&fed.component),
            set_aside: gauge!(SET_ASIDE, "component" => component()),
            missed: gauge!(MISSED_SECONDS, "component" => component()),
            caught_up: counter!(CAUGHT_UP, "component" => component()),
            fed,
        }
    }

    /// Runs until `stop`.
    ///
    /// # Errors
    /// When the broker or the store does not answer, or DEAD takes nothing.
    pub async fn run(&self, stop: CancellationToken) -> anyhow::Result<()> {
        let ended = self.take_turns(&stop).await;
        if let Err(error) = &ended {
            self.fed.health.degraded(format!("{error:#}"));
        }
        ended
    }

    async fn take_turns(&self, stop: &CancellationToken) -> anyhow::Result<()> {
        let asides = Asides::open(&self.broker).await?;
        let holder = format!("{:032x}", rand::random::<u128>());
        let mut lease = asides.lease(&self.fed.component, &holder, LEASE);
        while !stop.is_cancelled() {
            let record = asides.record(&self.fed.component).await?;
            self.show(&record);
            if record.is_behind() && lease.claim().await.map_err(|fault| fault.source)? {
                let worked = tokio::select! {
                    worked = self.bring_all(&asides, stop) => worked,
                    () = lease.keep() => Ok(()),
                };
                lease.release().await;
                worked?;
            } else {
                self.fed.health.healthy();
            }
            rest_for(PERIOD, stop).await;
        }
        Ok(())
    }

    async fn bring_all(&self, asides: &Asides, stop: &CancellationToken) -> anyhow::Result<()> {
        let mut pace = Pace::default();
        while !stop.is_cancelled() {
            let record = asides.record(&self.fed.component).await?;
            self.show(&record);
            let step = self.step(asides, &record, &mut pace, stop).await?;
            let lacking = record.all().find(|range| pace.passes_over(range)).map(lacks);
            match (step, lacking) {
                (Step::CaughtUp, Some(lacking)) => anyhow::bail!(lacking),
                (Step::CaughtUp, None) => {
                    self.fed.health.healthy();
                    return Ok(());
                }
                (_, Some(lacking)) => self.fed.health.degraded(lacking),
                (_, None) => self.fed.health.healthy(),
            }
            if matches!(step, Step::NotYet) {
                rest_for(PAUSE, stop).await;
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
        let Some(range) = record.all().find(|range| !pace.passes_over(range)) else { return Ok(Step::CaughtUp) };
        let Some(room) = self.room(record, range, pace, stop).await? else { return Ok(Step::NotYet) };
        if pace.is_new(range) {
            pace.begin(range);
            if !self.is_kept(asides, range, room.until, pace).await? {
                return Ok(Step::Done);
            }
            let first = self.first(range, room.until).await?;
            if first > range.from {
                self.note(asides, range, first, 0).await?;
                return Ok(Step::Done);
            }
        }
        let until = pace.until(range, room.until);
        let slice = Slice {
            since: range.from,
            until,
            after: pace.after(range),
            filters: &self.fed.filters,
            wanted: if range.cause == Cause::Rewound { Wanted::All } else { Wanted::Streamed },
            events_max: PAGE_EVENTS,
            bytes_max: PAGE_BYTES.min(room.bytes),
        };
        let Page { mut rows, is_cut } = read(self.history.events(&slice)).await?;
        let brought = self.bring(range, &mut rows, &mut pace.waiting).await?;
        // Somebody may have emptied the table since the range was begun. Then these rows may be only the last of the slice, and
        // come once more.
        if !self.is_kept(asides, range, room.until, pace).await? {
            return Ok(Step::Done);
        }
        let is_full = brought < rows.len();
        let reached = if is_full || is_cut { pace.stop_at(range, &rows[..brought]) } else { until };
        crash::pass(Point::BeforeCaughtUp);
        let events = rows[..brought].iter().filter(|row| row.event.is_ok()).count();
        self.note(asides, range, reached, events as u64).await?;
        if is_full {
            // What other sinks have not taken fills the stream.
            return Ok(Step::NotYet);
        }
        pace.adapt(rows.len(), is_cut);
        Ok(Step::Done)
    }

    /// What can be brought of `range` now; `None` when nothing can.
    async fn room(
        &self,
        record: &Record,
        range: &Range,
        pace: &mut Pace,
        stop: &CancellationToken,
    ) -> anyhow::Result<Option<Room>> {
        // A call that began before a purge may still take effect. A look-up could not be believed before it has ended.
        let settled_after = self.fed.call_timeout + self.broker.clock_skew();
        if record.taken_at.is_some_and(|taken_at| Timestamp::now().since(taken_at) < settled_after) {
            return Ok(None);
        }
        // While calls fail, its messages would only take the room of other sinks' messages. Afterwards one of them may be the
        // call that decides: perhaps there are no others.
        let is_open = self.fed.limiter.open_until().is_some_and(|(until, _)| until > Timestamp::now());
        if is_open || self.fed.gate.paused_since(stop).await.is_some() {
            return Ok(None);
        }
        let (component, own) = (self.fed.component.as_str(), consumer_of(&self.fed.component));
        // The sink's loop makes the consumer.
        let Some(info) = state_of(&self.broker, Stream::CatchUp, &own).await? else { return Ok(None) };
        let Some(live) = state_of(&self.broker, Stream::Events, component).await? else { return Ok(None) };
        let count = info.num_pending.saturating_add(info.num_ack_pending as u64);
        // What another process, or another request of a person, brought of it must not meet what comes again.
        if count >= WAITING_MAX || (pace.is_new(range) && count > 0) || live.num_pending >= LIVE_MAX {
            return Ok(None);
        }
        pace.waiting.settled(if count == 0 { u64::MAX } else { info.ack_floor.stream_sequence });
        let (waiting, share) = (pace.waiting.bytes(), share(&self.broker).await?);
        // A page for less than half of it would cost a query for next to nothing.
        if waiting > 0 && waiting >= share / 2 {
            return Ok(None);
        }
        let mut until = range.until;
        for reader in [self.store.as_str(), component] {
            let Some(settled) = settled_through(&self.broker, Stream::Events, reader).await? else { return Ok(None) };
            // A message that is still to be settled may have an earlier time than one before it.
            until = until.min(settled.minus(self.broker.clock_skew()));
        }
        Ok((until > range.from).then(|| Room { until, bytes: share.saturating_sub(waiting) }))
    }

    /// Whether the store has events as old as the rest of `range`. If not, its beginning was lost or is elsewhere, and to go on
    /// would strike it out as brought. That is set apart, and passed over.
    async fn is_kept(&self, asides: &Asides, range: &Range, until: Timestamp, pace: &mut Pace) -> anyhow::Result<bool> {
        match kept(&*self.history, range, until, self.broker.clock_skew()).await? {
            Kept::All => return Ok(true),
            Kept::Nothing => pace.pass_over(range),
            Kept::Since(first) => {
                let now = Timestamp::now();
                asides.change(&self.fed.component, |record| record.part(range, first, now)).await?;
            }
        }
        Ok(false)
    }

    /// From when on the store is asked for `range`, of which nothing after `bound` is brought yet.
    async fn first(&self, range: &Range, bound: Timestamp) -> anyhow::Result<Timestamp> {
        if range.cause != Cause::Rewound {
            return Ok(range.from);
        }
        let begins_at = read(self.history.begins_at()).await?;
        Ok(begins_at.map_or(bound, |at| at.minus(BEFORE_FIRST)).min(bound).max(range.from))
    }

    /// Publishes the events of `rows`, a few at a time, and gives up the rows that make none. Returns for how many of the
    /// rows that is done: all, or those before the first for which there was no room.
    async fn bring(&self, range: &Range, rows: &mut [Row], waiting: &mut Waiting) -> anyhow::Result<usize> {
        let mut done = 0;
        for part in rows.chunks_mut(ON_THEIR_WAY_MAX) {
            let mut unconfirmed = Vec::with_capacity(part.len());
            for (position, row) in part.iter_mut().enumerate() {
                let Ok(event) = &row.event else { continue };
                match self.send(range, event).await {
                    Ok((bytes, sent)) => unconfirmed.push((position, bytes, sent)),
                    // It makes no message, such as one that is too large for any.
                    Err(Fault { class: FaultClass::Poison(_), source, .. }) => row.event = Err(source),
                    Err(fault) => return Err(fault.source).context("cannot bring a sink what it missed"),
                }
            }
            let mut fitting = part.len();
            for (position, bytes, sent) in unconfirmed {
                match sent.confirmed_or_cut_off().await {
                    Ok(stored) => {
                        self.caught_up.increment(u64::from(!stored.duplicate));
                        waiting.note(stored.sequence, bytes);
                    }
                    Err(fault) if is_full(&fault) => fitting = fitting.min(position),
                    Err(fault) => return Err(fault.source).context("cannot bring a sink what it missed"),
                }
            }
            // Only those before the first that had no room: the others come again.
            let given_up = give_up(&self.publisher, &self.metrics, &self.fed.component, range, &part[..fitting]).await;
            given_up.map_err(|fault| fault.source).context("DEAD does not take the rows that make no events")?;
            done += fitting;
            if fitting < part.len() {
                break;
            }
        }
        Ok(done)
    }

    /// Sends `event` on its way. Also returns how many bytes it takes.
    async fn send(&self, range: &Range, event: &Event) -> Result<(usize, Unconfirmed), Fault> {
        let outgoing = outgoing(&self.fed.component, range, event)?;
        let bytes = bytes_of(&outgoing);
        Ok((bytes, self.publisher.send(outgoing, None).await?))
    }

    /// Notes that everything before `reached` was brought.
    async fn note(&self, asides: &Asides, range: &Range, reached: Timestamp, count: u64) -> anyhow::Result<()> {
        let (component, now) = (self.fed.component.as_str(), Timestamp::now());
        let advance = |record: &mut Record| {
            let was_behind = record.is_behind();
            record.advance(range, reached, count, now);
            (was_behind, record.clone())
        };
        let (was_behind, record) = asides.change(component, advance).await?;
        self.show(&record);
        if was_behind && !record.is_behind() {
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

/// The message for `component` that brings `event`.
fn outgoing(component: &str, range: &Range, event: &Event) -> Result<Outgoing, Fault> {
    let outgoing = event.write(SCORED)?;
    let event_time = event.event_time().map_or(0, Timestamp::as_micros);
    Ok(Outgoing {
        subject: subject::catch_up(component, &outgoing.subject),
        // A person may ask for the same time again, and must get it. An id may come again with another event time, which is
        // another event; the stream EVENTS forgets an id after a while, and a page may hold both.
        message_id: format!("{component}/{}/{event_time}/{}", range.made_at.as_micros(), outgoing.message_id),
        ..outgoing
    })
}
