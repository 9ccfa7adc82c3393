//! Rows that are written once more, beside the sink and without a second row for any event.
//!
//! Each step may be repeated, so that whoever is killed begins again with the first:
//!
//! 1. Look up which ids have a *fresh* row, inserted since the rewriting began, and which have an older one.
//! 2. Insert what has no fresh row, and look up that it is there.
//! 3. Delete the older rows of the ids that have a fresh one; never any other.
//!
//! An event that is there stays there throughout, so that a sink that looks it up always finds it; for a moment it
//! has two rows. An event that was absent may be inserted by a sink at the same time, which looked it up before we
//! inserted: such ids are *unproven* until the sink's time for a call has passed. Then the older of two rows goes.

use std::collections::{HashMap, HashSet};
use std::marker::PhantomData;

use clickhouse::Client;
use clickhouse::sql::Identifier;
use headrace_runtime::batch::Item;
use headrace_runtime::crash::{self, Point};
use headrace_runtime::fault::{Fault, FaultClass};
use headrace_runtime::past::Window;
use headrace_schemas::time::Timestamp;

use super::classify::{Failure, fault};
use super::insert::{Rows, SERVER_CLOCK_SKEW, Table, span, unique};

/// Most items of a call. Look-ups and removals read whole hours of the table: the more at once, the fewer.
pub const ITEMS_MAX: usize = 8_000;
/// Room for a statement with so many ids, in bytes.
const STATEMENT_BYTES_MAX: &str = "4194304";
/// How long the server may take to look up or delete rows. No statement that is late does harm.
const STATEMENT_LIMIT_S: &str = "600";
/// Later than any event.
const END_OF_TIME: Timestamp = Timestamp::from_micros(4_102_444_800_000_000);

/// A table that is written once more.
pub struct Rewrite<T> {
    table: Table,
    /// For all but inserts.
    statements: Client,
    older: Older,
    /// Rows that were inserted then or later are ours, or as good.
    since: Timestamp,
    item: PhantomData<fn(T)>,
}

/// What becomes of rows that were there before.
enum Older {
    /// Those that were received in the window are replaced.
    Replaced(Window),
    /// They stay.
    Kept,
}

/// What became of items.
#[derive(Debug, Default)]
pub struct Written {
    /// Items whose event has a row of this rewriting by now.
    pub fresh: u64,
    /// Rows that were inserted by this call.
    pub inserted: u64,
    /// Events that have a row of another delivery, or any row where rows stay.
    pub kept: u64,
    /// Ids of which a sink may be inserting a row at this moment.
    pub unproven: Unproven,
}

/// Ids to look at once more when the sink's time for a call has passed.
#[derive(Clone, Debug, Default)]
pub struct Unproven {
    ids: Vec<String>,
    earliest: Timestamp,
}

impl Unproven {
    /// Whether there is nothing to look at.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// How many rows there are of an id.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    /// Inserted since the rewriting began.
    fresh: u64,
    /// Inserted before, received in the window.
    older: u64,
    /// Inserted before, received at another time.
    elsewhere: i64,
    /// When the first of those that were inserted before was received.
    first: Timestamp,
}

impl Found {
    const fn has_older(self) -> bool {
        self.older > 0 || self.elsewhere > 0
    }
}

#[expect(private_bounds, reason = "there is one for each table, made in this crate")]
impl<T: Rows> Rewrite<T> {
    pub(super) fn replacing(table: Table, window: &Window, since: Timestamp) -> Self {
        Self::new(table, Older::Replaced(window.clone()), since)
    }

    pub(super) fn completing(table: Table, since: Timestamp) -> Self {
        Self::new(table, Older::Kept, since)
    }

    fn new(table: Table, older: Older, since: Timestamp) -> Self {
        let statements = table
            .client()
            .clone()
            .with_setting("max_execution_time", STATEMENT_LIMIT_S)
            .with_setting("max_query_size", STATEMENT_BYTES_MAX)
            // Return when the rows are gone, on all replicas.
            .with_setting("lightweight_deletes_sync", "2");
        Self { table, statements, older, since, item: PhantomData }
    }

    /// Writes `items`, at most [`ITEMS_MAX`] of them. To be repeated when it fails, after the wait that a
    /// transient fault asks for.
    ///
    /// # Errors
    /// Poison when one of the items cannot be stored, transient when the server is away or its answer was not clear,
    /// broken when a person must act.
    pub async fn write(&self, items: &[Item<T>]) -> Result<Written, Fault> {
        let mut items: Vec<&Item<T>> = items.iter().collect();
        let count = items.len() as u64;
        unique(&mut items);
        if items.is_empty() {
            return Ok(Written::default());
        }
        let ids: Vec<&str> = items.iter().map(|item| item.value.id()).collect();
        let (from, to) = span(&items);
        let before = self.look_up(&ids, from, to).await?;
        let state = |id: &str| before.get(id).copied().unwrap_or_default();
        let keeps = |item: &&&Item<T>| self.keeps(state(item.value.id()), item.value.received_at());
        let kept: HashSet<&str> = items.iter().filter(keeps).map(|item| item.value.id()).collect();
        let is_due = |id: &str| state(id).fresh == 0 && !kept.contains(id);
        let absent: Vec<&Item<T>> = items.iter().copied().filter(|item| is_due(item.value.id())).collect();
        self.insert(&absent).await?;
        if !absent.is_empty() {
            self.prove_inserted(&absent, from, to).await?;
        }
        crash::pass(Point::BeforeRemoval);
        let fresh: Vec<&str> = ids.into_iter().filter(|id| !kept.contains(id)).collect();
        if matches!(self.older, Older::Replaced(_)) {
            let replaced: Vec<&str> = fresh.iter().copied().filter(|id| state(id).has_older()).collect();
            self.remove(&replaced, from, to).await?;
        }
        let unproven = fresh.iter().filter(|id| !state(id).has_older()).map(|&id| id.to_owned()).collect();
        Ok(Written {
            fresh: count - kept.len() as u64,
            inserted: absent.len() as u64,
            kept: kept.len() as u64,
            unproven: Unproven { ids: unproven, earliest: from },
        })
    }

    /// Leaves one row of each of the ids, the latest.
    ///
    /// # Errors
    /// Transient when the server is away, broken when a person must act.
    pub async fn prove(&self, unproven: &Unproven) -> Result<(), Fault> {
        for ids in unproven.ids.chunks(ITEMS_MAX) {
            let twice = self
                .statements
                .query(
                    "SELECT id, toUnixTimestamp64Micro(max(inserted_at)) FROM ? WHERE id IN ? \
                     AND received_at >= fromUnixTimestamp64Micro(?) GROUP BY id HAVING count() > 1",
                )
                .bind(Identifier(self.table.name()))
                .bind(ids)
                .bind(unproven.earliest.as_micros());
            for (id, latest) in twice.fetch_all::<(String, i64)>().await.map_err(|error| fault(error).fault)? {
                let latest = Timestamp::from_micros(latest);
                self.remove_before(&[&id], unproven.earliest, END_OF_TIME, latest).await?;
            }
        }
        Ok(())
    }

    /// Whether an event stays as it is, which was delivered at `received_at` too. The row of an event is that of its
    /// first delivery: when that is not in the window, or no longer in RAW, its row is not ours to replace.
    fn keeps(&self, found: Found, received_at: Timestamp) -> bool {
        let replaces = match self.older {
            Older::Replaced(_) => found.older > 0 && found.first >= received_at,
            Older::Kept => false,
        };
        found.fresh == 0 && found.has_older() && !replaces
    }

    async fn insert(&self, items: &[&Item<T>]) -> Result<(), Fault> {
        // Nobody else is to write them, as the replay's lease tells; but a process that was stopped may have lost it.
        match self.table.insert(items, self.table.limit() + SERVER_CLOCK_SKEW).await {
            Ok(()) => Ok(()),
            // Until the server's limit has passed a look-up would prove nothing.
            Err(Failure { fault: Fault { class: FaultClass::Transient { .. }, source }, unclear: true, .. }) => {
                Err(Fault::transient_after(Some(self.table.limit() + SERVER_CLOCK_SKEW), source))
            }
            Err(failure) => Err(failure.fault),
        }
    }

    /// Nothing is deleted before the row that replaces it has been seen.
    async fn prove_inserted(&self, items: &[&Item<T>], from: Timestamp, to: Timestamp) -> Result<(), Fault> {
        let ids: Vec<&str> = items.iter().map(|item| item.value.id()).collect();
        let there = self.look_up(&ids, from, to).await?;
        match ids.iter().filter(|&&id| there.get(id).is_none_or(|found| found.fresh == 0)).count() {
            0 => Ok(()),
            missing => Err(Fault::broken(anyhow::anyhow!(
                "expected {} rows in `{}` that were inserted since {}, found {missing} of them missing; was the clock \
                 of ClickHouse set back, or is a replica behind?",
                ids.len(),
                self.table.name(),
                self.since
            ))),
        }
    }

    /// What there is of `ids`: received from `from` to `to`, and for those of which there is nothing, later.
    async fn look_up(&self, ids: &[&str], from: Timestamp, to: Timestamp) -> Result<HashMap<String, Found>, Fault> {
        let mut found = self.look_up_within(ids, from, to).await?;
        let absent: Vec<&str> = ids.iter().copied().filter(|&id| !found.contains_key(id)).collect();
        if !absent.is_empty() {
            let later = Timestamp::from_micros(to.as_micros() + 1);
            found.extend(self.look_up_within(&absent, later, END_OF_TIME).await?);
        }
        Ok(found)
    }

    async fn look_up_within(
        &self,
        ids: &[&str],
        from: Timestamp,
        to: Timestamp,
    ) -> Result<HashMap<String, Found>, Fault> {
        let (inside_from, inside_to) = match &self.older {
            Older::Replaced(window) => (window.from, window.to),
            Older::Kept => (Timestamp::default(), END_OF_TIME),
        };
        let query = self
            .statements
            .query(
                "SELECT id, countIf(inserted_at >= fromUnixTimestamp64Micro(?)) AS fresh, \
                 countIf(inserted_at < fromUnixTimestamp64Micro(?) AND received_at >= fromUnixTimestamp64Micro(?) \
                 AND received_at < fromUnixTimestamp64Micro(?)) AS older, count() - fresh - older AS elsewhere, \
                 toUnixTimestamp64Micro(minIf(received_at, inserted_at < fromUnixTimestamp64Micro(?))) \
                 FROM ? WHERE id IN ? AND received_at >= fromUnixTimestamp64Micro(?) \
                 AND received_at <= fromUnixTimestamp64Micro(?) GROUP BY id",
            )
            .bind(self.since.as_micros())
            .bind(self.since.as_micros())
            .bind(inside_from.as_micros())
            .bind(inside_to.as_micros())
            .bind(self.since.as_micros())
            .bind(Identifier(self.table.name()))
            .bind(ids)
            .bind(from.as_micros())
            .bind(to.as_micros());
        let rows = query.fetch_all::<(String, u64, u64, i64, i64)>().await.map_err(|error| fault(error).fault)?;
        let found = |(id, fresh, older, elsewhere, first)| {
            (id, Found { fresh, older, elsewhere, first: Timestamp::from_micros(first) })
        };
        Ok(rows.into_iter().map(found).collect())
    }

    /// Deletes the rows of `ids` that were there before the rewriting began.
    async fn remove(&self, ids: &[&str], from: Timestamp, to: Timestamp) -> Result<(), Fault> {
        if ids.is_empty() { Ok(()) } else { self.remove_before(ids, from, to, self.since).await }
    }

    /// Deletes the rows of `ids`, received from `from` to `to`, that were inserted before `before`. A statement of a
    /// process that was stopped meanwhile does no harm: what came later is newer.
    async fn remove_before(
        &self,
        ids: &[&str],
        from: Timestamp,
        to: Timestamp,
        before: Timestamp,
    ) -> Result<(), Fault> {
        let query = self
            .statements
            .query(
                "DELETE FROM ? WHERE id IN ? AND inserted_at < fromUnixTimestamp64Micro(?) \
                 AND received_at >= fromUnixTimestamp64Micro(?) AND received_at <= fromUnixTimestamp64Micro(?)",
            )
            .bind(Identifier(self.table.name()))
            .bind(ids)
            .bind(before.as_micros())
            .bind(from.as_micros())
            .bind(to.as_micros());
        query.execute().await.map_err(|error| fault(error).fault)
    }
}
