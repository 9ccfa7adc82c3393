//! Inserts into a table exactly once.
//!
//! A message is acknowledged after its insert. So a row that may be stored already always comes back as a *suspect*:
//! delivered before, presented again by its sender, or published late
//! ([`headrace_runtime::message::Delivered::is_suspect`]). Hence:
//!
//! * First deliveries are inserted without a look-up. When the answer is not clear, they are inserted again, unchanged
//!   and under the same `insert_deduplication_token`. The token is made of their sequences and identities, because
//!   ClickHouse silently drops *different* rows under a token that it knows.
//! * Suspects are looked up, and the absent ones are inserted. When the answer to that insert is not clear, they are
//!   looked up again, but only after the server's time limit for the insert has passed: until then the first insert may
//!   still succeed.
//! * Rows carry the time until which their messages are ours. The server refuses them afterwards (the column
//!   `held_until` in the migrations). A process that was stopped in the middle of an insert may have lost its messages
//!   to another process, so it cannot insert when it goes on.
//!
//! A refusal that blames a row is believed only when the table's columns are what the rows need, and what they were when
//! the client last read them, and when the table has not taken the rows all the same: a materialized view of somebody's may
//! refuse what the table has.
//!
//! Each [`Name`] is in the table once: in `events` an event time, a tenant and an id, in `raw` also the kind and the body, so
//! that everything that was sent under one id is kept. `lookup.rs` finds rows by it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use clickhouse::error::Error;
use clickhouse::{Client, Row, RowWrite};
use headrace_runtime::component::batch::{Batch, Item};
use headrace_runtime::component::sink::BatchResult;
use headrace_runtime::fault::{Effect, Fault, FaultClass};
use headrace_runtime::message::payload::{Content, Identity, Payload};
use headrace_runtime::observe::metrics::{ALREADY_THERE, CONFLICTS};
use headrace_schemas::time::Timestamp;
use metrics::{Counter, counter};

use super::columns::{self, Column};
use super::lookup::{self, Earlier, EarlierRows, Stored};
use crate::clickhouse::LOOKUP_MAX;
use crate::clickhouse::classify::{Failure, fault, is_unknown_database, of_look_up};
use crate::clickhouse::place::{Name, Place, time_of};

/// An item that has a row.
pub(crate) trait Rows: Payload {
    /// Its row.
    type Row: RowWrite;

    /// The columns of its row, each with the type that it needs, in the order of the row.
    const COLUMNS: &[(&str, &str)];
    /// The table that the sink writes.
    const TABLE: &str;
    /// The columns, or what stands for them, with [`Self::content_columns`].
    const CONTENT: [&str; 2];
    /// Whether the table keeps several rows at one place when their contents differ.
    const HOLDS_CONTENTS: bool;
    /// The column, or what stands for it, with the time at which the broker stored its message.
    const STORED_AT: &str;
    /// The table in which earlier releases kept such rows.
    const EARLIER: Earlier;

    /// The kind and the body that it was made of.
    fn content(&self) -> Content<&str>;

    /// A content as the table has it.
    fn content_columns(content: Content<&str>) -> [u64; 2];

    /// Its row, borrowed from `item`.
    fn row(item: &Item<Self>, stamp: Stamp) -> <Self::Row as Row>::Value<'_>;

    /// The name of a row at `place` with this content.
    fn name_at<S>(place: Place<S>, content: [u64; 2]) -> Name<S> {
        Name { place, content: if Self::HOLDS_CONTENTS { content } else { [0, 0] } }
    }

    /// Its own name.
    fn name(&self) -> Name<&str> {
        Self::name_at(Place::of(self), Self::content_columns(Rows::content(self)))
    }
}

/// What a row has besides its item.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    /// Until when the server may take it, in microseconds since the Unix epoch.
    pub(crate) held_until: i64,
    /// When the broker stored the message.
    pub(crate) stored_at: Timestamp,
}

/// The times that an insert depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// How long the server may spend on one insert, in whole seconds.
    pub(crate) limit: Duration,
    /// How much its clock and ours may differ.
    pub(crate) clock_skew: Duration,
}

/// A table that holds each identity once.
pub(crate) struct Table {
    client: Client,
    name: String,
    /// What the tokens of its inserts contain besides the messages.
    scope: String,
    times: Times,
    /// The table's columns when they were last read.
    columns: Mutex<Option<Vec<Column>>>,
    earlier: EarlierRows,
    already_there: Counter,
    conflicts: Counter,
}

impl Table {
    pub(crate) fn new(client: Client, name: &str, component: &str, times: Times) -> Self {
        let client = client
            // We make our own batches; the server must answer when the rows are stored.
            .with_setting("async_insert", "0")
            .with_setting("insert_deduplicate", "1")
            .with_setting("max_execution_time", times.limit.as_secs().to_string());
        let already_there = counter!(ALREADY_THERE, "component" => component.to_owned());
        let conflicts = counter!(CONFLICTS, "component" => component.to_owned());
        let (name, scope) = (name.to_owned(), name.to_owned());
        let earlier = EarlierRows::new(&client);
        Self { client, name, scope, times, columns: Mutex::default(), earlier, already_there, conflicts }
    }

    /// The same table for another writer than its sink, which makes rows of the same messages. Its tokens must differ
    /// from those of the sink's inserts, or ClickHouse would drop its rows.
    pub(crate) fn scoped(self, scope: &str) -> Self {
        Self { scope: format!("{} {scope}", self.name), ..self }
    }

    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The times that its inserts depend on.
    pub(crate) const fn times(&self) -> Times {
        self.times
    }

    /// Inserts the items of `batch` that are not in the table.
    pub(crate) async fn deliver<T: Rows>(&self, batch: &Batch<T>) -> BatchResult {
        let count = batch.items().len();
        let mut items: Vec<&Item<T>> = batch.items().iter().collect();
        let mut conflicts = 0;
        if batch.is_suspect() {
            match self.look_up(&items).await {
                Ok(stored) => conflicts += drop_stored(&mut items, &stored),
                Err(failure) => return self.failed(self.explained::<T>(failure).await, batch),
            }
            self.already_there.increment((count - items.len()) as u64);
        }
        if items.is_empty() {
            self.conflicts.increment(conflicts);
            return BatchResult::AlreadyThere;
        }
        conflicts += unique(&mut items);
        // The server copies rows that come in another order than the table's, each with its body.
        items.sort_by_cached_key(|item| Place::of(&item.value).in_order());
        // Read the wall clock first: a process that is stopped between the two must not add what has passed meanwhile.
        match self.insert(&items, Timestamp::now(), batch.valid_for(), |item| item.stored_at).await {
            Ok(()) => {
                self.conflicts.increment(conflicts);
                BatchResult::all(count)
            }
            Err(failure) if failure.of_view || matches!(failure.fault.class, FaultClass::Poison(_)) => {
                self.refused(failure, items, batch).await
            }
            Err(failure) => self.failed(failure, batch),
        }
    }

    /// What it means for `batch` that the server refused its `items`, or that a view failed. The server has answered, so a
    /// look-up can be believed at once. Without it, they would go again in other batches, and have second rows.
    async fn refused<T: Rows>(&self, failure: Failure, mut items: Vec<&Item<T>>, batch: &Batch<T>) -> BatchResult {
        let Failure { fault, too_much, of_view } = failure;
        let count = items.len();
        match self.look_up(&items).await {
            Ok(stored) => drop_stored(&mut items, &stored),
            // Nobody knows whether the table has the rows. Told as refused, an item could be given up although its row is
            // there. So the batch goes again as it is.
            Err(Failure { fault: unknown, too_much, of_view }) => {
                // Recognized by its token, it may then be accepted without reaching the views.
                tracing::warn!(
                    table = self.name,
                    count,
                    cause = format!("{fault}"),
                    "ClickHouse refused rows, and cannot tell whether it took them before; they are sent again. If a materialized view \
                     that reads the table refused them, it may lack them: mend the view and fill it from the table"
                );
                let source = unknown
                    .source
                    .context(format!("cannot look up whether `{}` has rows that it refused ({fault})", self.name));
                let fault = Fault { source, ..unknown }.with_effect(Effect::Possible);
                return self.failed(Failure { fault, too_much, of_view }, batch);
            }
        };
        let stored = count - items.len();
        if stored > 0 && (of_view || items.is_empty()) {
            self.lacks_in_view(stored, &fault);
        }
        if items.is_empty() {
            return BatchResult::AlreadyThere;
        }
        let effect = if stored > 0 { Effect::Possible } else { fault.effect };
        let fault = if of_view && stored == 0 { fails_before(fault) } else { fault };
        self.failed(Failure { fault: fault.with_effect(effect), too_much, of_view }, batch)
    }

    /// Tells that the table has `count` rows for which a view failed.
    pub(crate) fn lacks_in_view(&self, count: usize, fault: &Fault) {
        tracing::error!(
            table = self.name,
            count,
            cause = format!("{fault}"),
            "ClickHouse took rows and then refused them: a materialized view that reads the table failed. The table has the \
             rows, and the view lacks them; mend the view and fill it from the table"
        );
    }

    /// What a failed insert of `batch` means for it.
    fn failed<T>(&self, Failure { mut fault, too_much, .. }: Failure, batch: &Batch<T>) -> BatchResult {
        // First deliveries go again at once and unchanged: the same rows under the same token. Suspects are looked up
        // again, which would prove nothing before the server's limit has passed, by its own clock.
        if let FaultClass::Transient { retry_after } = &mut fault.class
            && fault.effect == Effect::Possible
            && batch.is_suspect()
        {
            *retry_after = Some(self.times.limit + self.times.clock_skew + Duration::from_secs(1));
        }
        if too_much { BatchResult::TooMuch(fault) } else { BatchResult::Whole(fault) }
    }

    /// Inserts `items` without looking them up. From `now` on they are ours for `valid_for`. `stored_at` tells when the
    /// broker stored their messages.
    pub(crate) async fn insert<T: Rows>(
        &self,
        items: &[&Item<T>],
        now: Timestamp,
        valid_for: Duration,
        stored_at: impl Fn(&Item<T>) -> Timestamp,
    ) -> Result<(), Failure> {
        if items.is_empty() {
            return Ok(());
        }
        let Times { limit, .. } = self.times;
        let held_until = held_until(now, valid_for, self.times);
        let token = Batch::<T>::token(items.iter().map(|item| (item.sequence, item.value.identity())), &self.scope);
        let send = async {
            let mut insert = self
                .client
                .insert::<T::Row>(&self.name)
                .await?
                .with_setting("insert_deduplication_token", token)
                .with_timeouts(Some(limit), Some(limit));
            for item in items {
                insert.write(&T::row(item, Stamp { held_until, stored_at: stored_at(item) })).await?;
            }
            insert.end().await
        };
        match send.await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.explained::<T>(fault(error)).await),
        }
    }

    /// Finds out whether the table's columns explain why the server refused rows or a look-up, or why the client could not
    /// write rows.
    async fn explained<T: Rows>(&self, failure: Failure) -> Failure {
        if !matches!(failure.fault.class, FaultClass::Poison(_) | FaultClass::Broken) {
            return failure;
        }
        // The client would go on with the columns that it read before its first insert.
        self.client.clear_cached_metadata().await;
        let of_columns = |fault| Failure { fault, too_much: false, of_view: false };
        let is_broken = failure.fault.class == FaultClass::Broken;
        match self.read_columns::<T>().await {
            Err(fault) if !is_broken || fault.class == FaultClass::Broken => of_columns(fault),
            Ok(Columns::Changed) if !is_broken => of_columns(Fault::transient(failure.fault.source.context(format!(
                "the columns of `{}` were changed, so the rows go again as they are now",
                self.name
            )))),
            _ => failure,
        }
    }

    /// Whether the table is there, and its columns are what the rows need.
    pub(crate) async fn check_columns<T: Rows>(&self) -> Result<(), Fault> {
        self.read_columns::<T>().await.map(|_| ())
    }

    async fn read_columns<T: Rows>(&self) -> Result<Columns, Fault> {
        let found = columns::of(&self.client, &self.name).await.map_err(|fault| {
            let is_gone = fault.source.downcast_ref::<Error>().is_some_and(is_unknown_database);
            if is_gone {
                Fault { source: fault.source.context(format!("the database is gone: {MADE_ANEW}")), ..fault }
            } else {
                fault
            }
        })?;
        if found.is_empty() {
            // A replay makes its own table where it begins.
            let remedy = if self.name == T::TABLE { MADE_ANEW } else { "run the replay again" };
            let name = &self.name;
            return Err(Fault::broken(anyhow::anyhow!(
                "expected the table `{name}`, found none: somebody dropped or renamed it. {remedy}"
            )));
        }
        let wrong = columns::problem(&found, &self.name, T::COLUMNS);
        let before = self.columns.lock().unwrap_or_else(PoisonError::into_inner).replace(found.clone());
        match wrong {
            Some(problem) => Err(Fault::broken(anyhow::anyhow!(problem))),
            None if before.is_some_and(|before| before != found) => Ok(Columns::Changed),
            None => Ok(Columns::AsBefore),
        }
    }

    /// The rows that `items` have in the table of an earlier release. The tables that a replay makes have none.
    pub(crate) async fn look_up_earlier<T: Rows>(&self, items: &[&Item<T>]) -> Result<Stored, Failure> {
        let mut stored = Stored::default();
        for part in items.chunks(LOOKUP_MAX).filter(|_| self.name == T::TABLE) {
            stored.earlier.extend(self.earlier.look_up(part).await?);
        }
        Ok(stored)
    }

    /// The rows of `suspects`.
    async fn look_up<T: Rows>(&self, suspects: &[&Item<T>]) -> Result<Stored, Failure> {
        // First the earlier table. A row that is moved meanwhile is in the other one before it leaves this one.
        let mut stored = self.look_up_earlier(suspects).await?;
        for part in suspects.chunks(LOOKUP_MAX) {
            let found = lookup::look_up::<T>(&self.client, &self.name, part).await;
            stored.rows.extend(found.map_err(|error| of_look_up(fault(error)))?);
        }
        Ok(stored)
    }
}

/// What makes a table anew that is gone.
const MADE_ANEW: &str = "`headrace check --migrate` makes it anew, or the next start of the `headrace up` that runs this ClickHouse, and \
                         `headrace replay` fills it with what RAW still has";

/// How a table's columns are since they were last read.
enum Columns {
    AsBefore,
    Changed,
}

/// What it means that a view fails and the table gets no rows: a person must mend the view.
pub(super) fn fails_before(fault: Fault) -> Fault {
    let source = fault
        .source
        .context("a materialized view that reads the table fails, and the table gets no rows: mend the view");
    Fault::broken(source).with_effect(fault.effect)
}

/// Keeps the items that have no row yet. Returns how many of the others were made of something else than the row.
fn drop_stored<T: Rows>(items: &mut Vec<&Item<T>>, stored: &Stored) -> u64 {
    let stored = stored.index::<T>();
    let mut conflicts = 0;
    items.retain(|item| {
        let found = stored.content_at(item.value.name());
        conflicts += u64::from(found.is_some_and(|content| content != T::content_columns(item.value.content())));
        found.is_none()
    });
    conflicts
}

/// Until when the server may take rows, in microseconds since the Unix epoch, by the clock that ClickHouse shares with
/// us: as long as they are ours, less what the clocks may differ, and no longer than `limit`.
fn held_until(now: Timestamp, valid_for: Duration, Times { limit, clock_skew }: Times) -> i64 {
    let valid_for = valid_for.saturating_sub(clock_skew).min(limit);
    now.as_micros().saturating_add(i64::try_from(valid_for.as_micros()).unwrap_or(i64::MAX))
}

/// Keeps the first item of each identity: a batch may hold a delivery and its repetition. Returns how many of the
/// others were made of something else than the first.
fn unique<T: Rows>(items: &mut Vec<&Item<T>>) -> u64 {
    // Not by name, which costs hashes of each item.
    let mut seen: HashMap<(Identity<&str>, i64), Content<&str>> = HashMap::with_capacity(items.len());
    let mut conflicts = 0;
    items.retain(|item| match seen.entry((item.value.identity(), time_of(item.value.event_time()))) {
        Entry::Occupied(first) => {
            conflicts += u64::from(*first.get() != item.value.content());
            false
        }
        Entry::Vacant(place) => {
            place.insert(item.value.content());
            true
        }
    });
    conflicts
}
