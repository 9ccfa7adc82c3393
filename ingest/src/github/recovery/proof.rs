//! What became of a hook's deliveries, hour by hour: the proof that nothing is missing, or of what is.
//!
//! The KV bucket `recovery` keeps it. `hour.<hook>.<hours since the epoch>` holds an hour in slots of five minutes, so
//! that a run need not list again what is accounted for. `hook.<hook>` holds the state of the hook itself. Only the
//! process with the lease writes, by compare-and-set: a process that lost the lease without noticing fails.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;
use std::time::Duration;

use anyhow::Context as _;
use headrace_runtime::fault::Fault;
use headrace_runtime::state::{Entry, StateStore};
use headrace_schemas::time::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// How far back proofs are read, in hours.
pub(super) const WINDOW_HOURS: i64 = 7 * 24;

const SLOT_MICROS: i64 = 300_000_000;
const SLOTS_PER_HOUR: i64 = 12;

/// Five minutes, counted from the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Slot(i64);

impl Slot {
    pub(super) const fn of(at: Timestamp) -> Self {
        Self(at.as_micros().div_euclid(SLOT_MICROS))
    }

    const fn hour(self) -> i64 {
        self.0.div_euclid(SLOTS_PER_HOUR)
    }

    const fn first_of(hour: i64) -> Self {
        Self(hour * SLOTS_PER_HOUR)
    }
}

/// Deliveries counted by their state: `delivered = seen + recovered + waiting + missing`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Those that GitHub lists.
    pub delivered: u64,
    /// Of those, stored when GitHub first sent them.
    pub seen: u64,
    /// Of those, stored because they were sent again.
    pub recovered: u64,
    /// Of those, undecided: too young, or ClickHouse is away or behind.
    pub waiting: u64,
    /// Of those, not stored.
    pub missing: u64,
    /// Of the missing, those that GitHub refused to send again when it was last asked.
    pub refused: u64,
    /// Of the missing, those that GitHub no longer has.
    pub too_old: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.delivered += other.delivered;
        self.seen += other.seen;
        self.recovered += other.recovered;
        self.waiting += other.waiting;
        self.missing += other.missing;
        self.refused += other.refused;
        self.too_old += other.too_old;
    }
}

/// The deliveries of one slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SlotState {
    #[serde(flatten)]
    pub(super) counts: Counts,
    /// When to check them again. `None` when all of them are stored.
    pub(super) next_at: Option<Timestamp>,
}

impl SlotState {
    /// Schedules a check at `at`, unless an earlier one is scheduled.
    pub(super) fn look_again(&mut self, at: Timestamp) {
        self.next_at = Some(self.next_at.map_or(at, |own| own.min(at)));
    }
}

/// The deliveries of one hour.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Hour {
    hook: String,
    slots: BTreeMap<Slot, SlotState>,
}

impl Hour {
    fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        self.slots.values().for_each(|state| sum += state.counts);
        sum
    }
}

/// The state of a hook itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Status {
    /// The hook's name.
    pub(super) hook: String,
    /// When the last run that accounted for every delivery began.
    pub(super) checked_at: Option<Timestamp>,
    /// By when another run should have accounted for every delivery.
    pub(super) current_until: Option<Timestamp>,
    /// Why the last run did not account for every delivery.
    pub(super) problem: Option<String>,
}

impl Status {
    /// Reads the status at `key`.
    pub(super) async fn load(store: &StateStore, key: &str) -> anyhow::Result<Option<Self>> {
        Ok(load::<Self>(store, key).await?.map(|kept| kept.value))
    }
}

/// A record and the version that was read, for compare-and-set.
struct Versioned<T> {
    value: T,
    entry: Option<Entry>,
}

/// The proofs of one hook.
pub(super) struct Proofs {
    store: StateStore,
    key: String,
    hook: String,
    status: Versioned<Status>,
    hours: BTreeMap<i64, Versioned<Hour>>,
}

impl Proofs {
    pub(super) async fn load(store: &StateStore, key: &str, hook: &str, now: Timestamp) -> anyhow::Result<Self> {
        let status = match load::<Status>(store, &format!("hook.{key}")).await? {
            Some(kept) => kept,
            None => Versioned { value: Status { hook: hook.to_owned(), ..Status::default() }, entry: None },
        };
        let mut hours = BTreeMap::new();
        let prefix = format!("hour.{key}.");
        for name in store.keys(&prefix).await.map_err(cause)? {
            let hour = name[prefix.len()..].parse().with_context(|| format!("the key {name} names no hour"))?;
            if hour > Slot::of(now).hour() - WINDOW_HOURS
                && let Some(kept) = load::<Hour>(store, &name).await?
            {
                hours.insert(hour, kept);
            }
        }
        Ok(Self { store: store.clone(), key: key.to_owned(), hook: hook.to_owned(), status, hours })
    }

    /// The first slot that the next run must list. It is the oldest slot that is not accounted for, but not older than
    /// `horizon`.
    pub(super) fn floor(&self, now: Timestamp, grace: Duration, horizon: Duration) -> Slot {
        let oldest = Slot::of(now.minus(horizon));
        let Some(checked_at) = self.status.value.checked_at else { return oldest };
        let open = self.hours.values().flat_map(|hour| &hour.value.slots);
        let open = open.filter(|(slot, state)| **slot >= oldest && state.next_at.is_some_and(|at| at <= now));
        // GitHub may have listed a delivery of the last `grace` only after the run had read the list.
        let unlisted = Slot::of(checked_at.minus(grace));
        open.map(|(slot, _)| *slot).fold(unlisted, Slot::min).max(oldest)
    }

    /// Replaces what is known from `floor` on, and gives up what is older than `horizon`.
    pub(super) async fn record(
        &mut self,
        floor: Slot,
        found_slots: &BTreeMap<Slot, SlotState>,
        now: Timestamp,
        horizon: Duration,
    ) -> anyhow::Result<()> {
        let oldest = Slot::of(now.minus(horizon));
        let hours = found_slots.keys().map(|slot| slot.hour()).chain(self.hours.keys().copied());
        for hour in hours.collect::<BTreeSet<i64>>() {
            let before = self.hours.get(&hour).map(|kept| kept.value.clone()).unwrap_or_default();
            let slots = merged(&before.slots, hour, floor, found_slots, oldest);
            if slots != before.slots {
                let after = Hour { hook: self.hook.clone(), slots };
                let entry = self.hours.get(&hour).and_then(|kept| kept.entry.as_ref());
                save(&self.store, &format!("hour.{}.{hour}", self.key), &after, entry).await?;
                self.hours.insert(hour, Versioned { value: after, entry: None });
            }
        }
        Ok(())
    }

    /// Records that the run that began at `checked_at` listed everything. This is the run's last write.
    pub(super) async fn conclude(
        &mut self,
        checked_at: Timestamp,
        current_until: Timestamp,
        problem: Option<String>,
    ) -> anyhow::Result<()> {
        let (checked_at, current_until) = (Some(checked_at), Some(current_until));
        self.write(Status { hook: self.hook.clone(), checked_at, current_until, problem }).await
    }

    /// Records that the run could not list everything.
    pub(super) async fn fail(&mut self, problem: String) -> anyhow::Result<()> {
        let status = Status { hook: self.hook.clone(), problem: Some(problem), ..self.status.value.clone() };
        self.write(status).await
    }

    /// The hook's name.
    pub(super) fn hook(&self) -> &str {
        &self.hook
    }

    /// The state of the hook itself.
    pub(super) const fn status(&self) -> &Status {
        &self.status.value
    }

    /// The counts of each hour, with the time when the hour begins, oldest first.
    pub(super) fn counts_by_hour(&self) -> impl Iterator<Item = (Timestamp, Counts)> {
        self.hours.iter().map(|(hour, kept)| (Timestamp::from_seconds(hour * 3_600), kept.value.counts()))
    }

    async fn write(&mut self, status: Status) -> anyhow::Result<()> {
        save(&self.store, &format!("hook.{}", self.key), &status, self.status.entry.as_ref()).await?;
        self.status.value = status;
        Ok(())
    }
}

/// The slots of `hour`: those before `floor` as they were in `before`, the others as in `found`. Slots before `oldest`
/// are given up.
fn merged(
    before: &BTreeMap<Slot, SlotState>,
    hour: i64,
    floor: Slot,
    found: &BTreeMap<Slot, SlotState>,
    oldest: Slot,
) -> BTreeMap<Slot, SlotState> {
    let mut slots: BTreeMap<Slot, SlotState> = before.range(..floor).map(|(slot, state)| (*slot, *state)).collect();
    let (from, to) = (Slot::first_of(hour).max(floor), Slot::first_of(hour + 1));
    if from < to {
        slots.extend(found.range(from..to).map(|(slot, state)| (*slot, *state)));
    }
    slots.iter_mut().filter(|(slot, _)| **slot < oldest).for_each(|(_, state)| give_up(state));
    slots
}

/// GitHub no longer has deliveries of this age, so what is not proven to be stored now counts as missing for good.
fn give_up(state: &mut SlotState) {
    let counts = &mut state.counts;
    counts.missing += counts.waiting;
    counts.waiting = 0;
    counts.refused = 0;
    counts.too_old = counts.missing;
    state.next_at = None;
}

/// The cause of a store's failure. All such faults have the same class, so the cause says everything.
fn cause(fault: Fault) -> anyhow::Error {
    fault.source
}

async fn load<T: DeserializeOwned>(store: &StateStore, key: &str) -> anyhow::Result<Option<Versioned<T>>> {
    let Some(entry) = store.load(key).await.map_err(cause)? else { return Ok(None) };
    let value = serde_json::from_slice(&entry.value).with_context(|| format!("the record {key} cannot be read"))?;
    Ok(Some(Versioned { value, entry: Some(entry) }))
}

async fn save<T: Serialize>(store: &StateStore, key: &str, value: &T, read: Option<&Entry>) -> anyhow::Result<()> {
    let bytes = serde_json::to_vec(value).context("cannot write a record as JSON")?;
    let saved = store.save(key, bytes.into(), read).await.map_err(cause)?;
    anyhow::ensure!(saved, "another process has written the record {key} meanwhile");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(seen: u64, waiting: u64, missing: u64) -> SlotState {
        let counts = Counts { delivered: seen + waiting + missing, seen, waiting, missing, ..Counts::default() };
        SlotState { counts, next_at: (waiting + missing > 0).then_some(Timestamp::from_seconds(1)) }
    }

    #[test]
    fn slots_are_five_minutes_of_their_hour() {
        let slot = |seconds| Slot::of(Timestamp::from_seconds(seconds));
        assert_eq!((slot(3_599).hour(), slot(3_600).hour(), slot(3_600)), (0, 1, Slot::first_of(1)));
        assert_eq!((slot(299), slot(300)), (Slot(0), Slot(1)));
    }

    #[test]
    fn what_is_found_replaces_what_was_known_from_the_floor_on() {
        let before =
            BTreeMap::from([(Slot(12), state(5, 0, 0)), (Slot(13), state(0, 3, 0)), (Slot(14), state(9, 9, 9))]);
        // Slot 24 belongs to another hour and must be left out.
        let found = BTreeMap::from([(Slot(13), state(2, 0, 1)), (Slot(24), state(7, 0, 0))]);
        let slots = merged(&before, 1, Slot(13), &found, Slot(0));
        assert_eq!(slots, BTreeMap::from([(Slot(12), state(5, 0, 0)), (Slot(13), state(2, 0, 1))]));
        assert_eq!(merged(&before, 1, Slot(30), &found, Slot(0)), before);
    }

    #[test]
    fn what_github_no_longer_has_is_given_up() {
        let before = BTreeMap::from([(Slot(12), state(5, 2, 1)), (Slot(13), state(0, 1, 0))]);
        let slots = merged(&before, 1, Slot(13), &before, Slot(13));
        let lost = Counts { delivered: 8, seen: 5, missing: 3, too_old: 3, ..Counts::default() };
        assert_eq!(slots[&Slot(12)], SlotState { counts: lost, next_at: None });
        assert_eq!(slots[&Slot(13)], before[&Slot(13)]);
        assert_eq!(merged(&slots, 1, Slot(13), &before, Slot(13)), slots, "once and for all");
    }
}
