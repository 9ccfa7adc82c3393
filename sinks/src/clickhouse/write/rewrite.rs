//! Writes rows once more, beside the sink, and leaves no second row for any event.
//!
//! Each step may be repeated, so a process that was killed begins again with the first:
//!
//! 1. Look up which names have a *fresh* row, inserted since the rewriting began, and which have an older one.
//! 2. Insert what has no fresh row, and look up that it is there.
//! 3. Delete the older rows of the names that have a fresh one; never any other.
//!
//! An event that has a row keeps one throughout, so that a sink that looks it up always finds it. For a moment it has
//! two. For an event without a row, a sink may insert one at the same time if it looked the event up before we
//! inserted. Such names are *unproven* until the sink's time for a call has passed. Then the older of two rows is
//! deleted. Of several bodies under one id, the new row is made of the same body as the old one, or of the first body
//! when there was no row. The statements are in `rewrite/statements.rs`.

mod statements;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::marker::PhantomData;

use headrace_runtime::component::batch::Item;
use headrace_runtime::consume::stream_reader::Window;
use headrace_runtime::crash::{self, Point};
use headrace_runtime::fault::{Effect, Fault, FaultClass};
use headrace_schemas::time::Timestamp;

use self::statements::{END_OF_TIME, Found, Statements, by_name};
use super::insert::{Rows, Table, Times, fails_before};
use crate::clickhouse::classify::Failure;
use crate::clickhouse::place::Name;

/// The most items of a call. A removal costs about the same for one row as for many, so fewer and larger calls cost less.
pub const ITEMS_MAX: usize = 8_000;

/// A table whose rows are written once more.
pub struct Rewrite<T> {
    table: Table,
    /// All statements but inserts.
    statements: Statements,
    older: Older,
    /// Rows that were inserted then or later are ours, or as good as ours.
    since: Timestamp,
    item: PhantomData<fn(T)>,
}

/// What becomes of the rows that were there before.
enum Older {
    /// Those that were received in the window are replaced.
    Replaced,
    /// They stay.
    Kept,
}

/// What became of items.
#[derive(Debug, Default)]
pub struct Written {
    /// Items whose event now has a row of this rewriting.
    pub fresh: u64,
    /// Rows that were inserted by this call.
    pub inserted: u64,
    /// Events that kept the row of another delivery, or any row where rows stay.
    pub kept: u64,
    /// Names for which a sink may be inserting a row at this moment.
    pub unproven: Unproven,
}

/// Names to check once more when the sink's time for a call has passed.
#[derive(Clone, Debug, Default)]
pub struct Unproven {
    names: Vec<Name<String>>,
}

impl Unproven {
    /// Whether there is nothing to check.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

#[expect(private_bounds, reason = "there is one for each table, made in this crate")]
impl<T: Rows> Rewrite<T> {
    pub(crate) fn replacing(table: Table, window: &Window, since: Timestamp) -> Self {
        Self::new(table, Older::Replaced, (window.from, window.to), since)
    }

    pub(crate) fn completing(table: Table, since: Timestamp) -> Self {
        Self::new(table, Older::Kept, (Timestamp::default(), END_OF_TIME), since)
    }

    fn new(table: Table, older: Older, window: (Timestamp, Timestamp), since: Timestamp) -> Self {
        let statements = Statements::new(&table, since, window);
        Self { table, statements, older, since, item: PhantomData }
    }

    /// Writes `items`, at most [`ITEMS_MAX`] of them. When it fails, repeat it after the wait that a transient fault
    /// asks for.
    ///
    /// # Errors
    /// Poison when one of the items cannot be stored, transient when the server is away or its answer was not clear,
    /// broken when a person must act.
    pub async fn write(&self, items: &[Item<T>]) -> Result<Written, Fault> {
        let all: Vec<&Item<T>> = items.iter().collect();
        if all.is_empty() {
            return Ok(Written::default());
        }
        let earlier = self.table.look_up_earlier(&all).await.map_err(|failure| failure.fault)?;
        let earlier = earlier.index::<T>();
        // A row in the table of an earlier release stays where it is.
        let (elsewhere, all): (Vec<&Item<T>>, Vec<&Item<T>>) =
            all.into_iter().partition(|item| earlier.content_at(item.value.name()).is_some());
        let names: HashSet<Name<&str>> = all.iter().map(|item| item.value.name()).collect();
        let before = self.statements.look_up::<T>(&names.into_iter().collect::<Vec<_>>()).await?;
        let before: HashMap<Name<&str>, &Found> = by_name::<T>(&before);
        let state = |item: &Item<T>| before.get(&item.value.name()).copied();
        let chosen = choose(&all, &before);
        let (kept, fresh): (Vec<&Item<T>>, Vec<&Item<T>>) =
            chosen.into_iter().partition(|item| state(item).is_some_and(|found| self.keeps(found, &item.value)));
        let is_absent = |item: &&Item<T>| state(item).is_none_or(|found| found.fresh == 0);
        let absent: Vec<&Item<T>> = fresh.iter().copied().filter(is_absent).collect();
        // The new row tells what the one tells that it replaces: a sink that was set aside must find it.
        let stored_at = |item: &Item<T>| Timestamp::from_micros(state(item).map_or(0, |found| found.stored));
        if !absent.is_empty() {
            self.insert(&absent, stored_at).await?;
        }
        crash::pass(Point::BeforeRemoval);
        let (replaced, new): (Vec<&Item<T>>, Vec<&Item<T>>) =
            fresh.into_iter().partition(|item| state(item).is_some_and(Found::has_older));
        if matches!(self.older, Older::Replaced) && !replaced.is_empty() {
            let replaced: Vec<Name<&str>> = replaced.iter().map(|item| item.value.name()).collect();
            self.statements.remove_before::<T>(&replaced, self.since).await?;
        }
        let unproven = new.iter().map(|item| item.value.name().owned()).collect();
        Ok(Written {
            fresh: (items.len() - kept.len() - elsewhere.len()) as u64,
            inserted: absent.len() as u64,
            kept: (kept.len() + elsewhere.len()) as u64,
            unproven: Unproven { names: unproven },
        })
    }

    /// Leaves one row of each name: the latest.
    ///
    /// # Errors
    /// Transient when the server is away, broken when a person must act.
    pub async fn prove(&self, unproven: &Unproven) -> Result<(), Fault> {
        for names in unproven.names.chunks(ITEMS_MAX) {
            let names: Vec<Name<&str>> = names.iter().map(Name::borrowed).collect();
            for (name, latest) in self.statements.twice::<T>(&names).await? {
                let name = name.borrowed();
                if names.contains(&name) {
                    self.statements.remove_before::<T>(&[name], latest).await?;
                }
            }
        }
        Ok(())
    }

    /// Whether the event's row stays as it is, although `value` is a delivery of the event too. The row of an event is
    /// that of its first delivery. When that delivery is not in the window or no longer in RAW, the row is not ours to
    /// replace. Nor is it when the row was made of another body under the same id, because that body is the event.
    fn keeps(&self, found: &Found, value: &T) -> bool {
        let replaces = match self.older {
            Older::Replaced => {
                let is_first = found.older > 0 && found.first >= value.received_at().as_micros();
                is_first && found.content() == T::content_columns(value.content())
            }
            Older::Kept => false,
        };
        found.fresh == 0 && found.has_older() && !replaces
    }

    /// Inserts `items`, and looks up that they are there.
    async fn insert(&self, items: &[&Item<T>], stored_at: impl Fn(&Item<T>) -> Timestamp) -> Result<(), Fault> {
        // The replay's lease says that nobody else writes these items. But a process that was stopped may have lost the
        // lease.
        let Times { limit, clock_skew } = self.table.times();
        match self.table.insert(items, Timestamp::now(), limit + clock_skew, stored_at).await {
            Ok(()) => self.prove_inserted(items).await,
            // The table took the rows, or it took none of them, or those of some partitions. What it lacks goes again.
            Err(Failure { fault, of_view: true, .. }) => {
                let missing = self.missing(items).await?;
                if missing < items.len() {
                    self.table.lacks_in_view(items.len() - missing, &fault);
                }
                match missing {
                    0 => Ok(()),
                    all if all == items.len() => Err(fails_before(fault)),
                    _ => Err(fault),
                }
            }
            // A look-up would prove nothing before the server's limit has passed.
            Err(Failure {
                fault: Fault { class: FaultClass::Transient { .. }, effect: effect @ Effect::Possible, source },
                ..
            }) => Err(Fault::transient_after(Some(limit + clock_skew), source).with_effect(effect)),
            Err(failure) => Err(failure.fault),
        }
    }

    /// Checks that the rows of `items` are there: no row is deleted before its replacement has been seen.
    async fn prove_inserted(&self, items: &[&Item<T>]) -> Result<(), Fault> {
        match self.missing(items).await? {
            0 => Ok(()),
            missing => Err(Fault::broken(anyhow::anyhow!(
                "expected {} rows in `{}` that were inserted since {}, found {missing} of them missing; was the clock \
                 of ClickHouse set back, or is a replica behind?",
                items.len(),
                self.table.name(),
                self.since
            ))),
        }
    }

    /// How many of `items` have no row of this rewriting.
    async fn missing(&self, items: &[&Item<T>]) -> Result<usize, Fault> {
        let names: Vec<Name<&str>> = items.iter().map(|item| item.value.name()).collect();
        let there = self.statements.look_up::<T>(&names).await?;
        let there = by_name::<T>(&there);
        Ok(names.iter().filter(|&name| there.get(name).is_none_or(|found| found.fresh == 0)).count())
    }
}

/// Of the items of each name, the first with the same content as the row; if there is none, the first.
fn choose<'a, T: Rows>(items: &[&'a Item<T>], before: &HashMap<Name<&str>, &Found>) -> Vec<&'a Item<T>> {
    let is_of_row = |item: &Item<T>| {
        let found = before.get(&item.value.name());
        found.is_some_and(|found| found.content() == T::content_columns(item.value.content()))
    };
    let mut places: HashMap<Name<&str>, usize> = HashMap::with_capacity(items.len());
    let mut chosen: Vec<&Item<T>> = Vec::with_capacity(items.len());
    for &item in items {
        match places.entry(item.value.name()) {
            Entry::Vacant(place) => {
                place.insert(chosen.len());
                chosen.push(item);
            }
            Entry::Occupied(place) if !is_of_row(chosen[*place.get()]) && is_of_row(item) => {
                chosen[*place.get()] = item;
            }
            Entry::Occupied(_) => {}
        }
    }
    chosen
}
