//! Exactly once into a table.
//!
//! An acknowledgement follows the insert, so that a row that may be stored already always comes back
//! as a *suspect*: delivered before, presented again by its sender, or published late
//! ([`headrace_runtime::message::Delivered::is_suspect`]). Hence:
//!
//! * First deliveries are inserted straight. When the answer is not clear they are inserted again,
//!   unchanged and under the same `insert_deduplication_token`; the token is made of their sequences and ids,
//!   because ClickHouse silently drops *different* rows under a token that it knows.
//! * Suspects are looked up by id, and those that are absent are inserted. When that answer is not clear
//!   they are looked up again, but only when the server's time limit for the insert has passed: until
//!   then the first insert may still succeed.
//! * Rows carry the time until which their messages are ours. The server refuses them afterwards (the
//!   column `valid_until` in the migrations): a process that was stopped in the middle of an insert, and
//!   whose messages another process has taken over meanwhile, cannot insert when it goes on.

use std::collections::HashSet;
use std::time::Duration;

use clickhouse::{Client, Row, RowWrite};
use headrace_runtime::batch::{Batch, Item};
use headrace_runtime::delivery::Delivery;
use headrace_runtime::fault::{Fault, FaultClass};
use headrace_runtime::metrics::ALREADY_THERE;
use headrace_runtime::payload::Payload;
use headrace_schemas::id::EventId;
use headrace_schemas::time::Timestamp;
use metrics::{Counter, counter};

use super::classify::{Failure, fault};

/// Ids in one look-up: the query stays far below ClickHouse's `max_query_size` of 256 KiB.
pub(super) const LOOKUP_MAX: usize = 4_000;
/// Clocks of ClickHouse and the sinks may differ by so much.
pub(super) const SERVER_CLOCK_SKEW: Duration = Duration::from_secs(2);
/// Clocks of GitHub and the gateways may differ by so much.
const CLOCK_SKEW: Duration = Duration::from_secs(600);

/// An item that has a row.
pub(super) trait Rows: Payload {
    /// Its row.
    type Row: RowWrite;

    /// The row of `item`, borrowed from it, with the time (microseconds since the epoch) until which the
    /// server may take it.
    fn row(item: &Item<Self>, valid_until: i64) -> <Self::Row as Row>::Value<'_>;
}

/// A table that holds each id once.
pub(super) struct Table {
    client: Client,
    name: String,
    /// What the tokens of its inserts are bound to besides the messages.
    scope: String,
    limit: Duration,
    already_there: Counter,
}

impl Table {
    pub(super) fn new(client: Client, name: &str, component: &'static str, limit_s: u64) -> Self {
        let client = client
            // We make our own batches; the server must answer when the rows are stored.
            .with_setting("async_insert", "0")
            .with_setting("insert_deduplicate", "1")
            .with_setting("max_execution_time", limit_s.to_string());
        let already_there = counter!(ALREADY_THERE, "component" => component);
        let (name, scope) = (name.to_owned(), name.to_owned());
        Self { client, name, scope, limit: Duration::from_secs(limit_s), already_there }
    }

    /// The same table for rows that others than its sink's make of the same messages: a token of theirs must
    /// not be known from the sink's inserts, or ClickHouse would drop them.
    pub(super) fn scoped(self, scope: &str) -> Self {
        Self { scope: format!("{} {scope}", self.name), ..self }
    }

    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The time that the server may spend on an insert.
    pub(super) const fn limit(&self) -> Duration {
        self.limit
    }

    /// Inserts what of `batch` is not there.
    pub(super) async fn deliver<T: Rows>(&self, batch: &Batch<T>) -> Delivery {
        let count = batch.items().len();
        let mut items: Vec<&Item<T>> = batch.items().iter().collect();
        if batch.is_suspect() {
            match self.look_up(&items).await {
                Ok(there) => items.retain(|item| !there.contains(item.value.id())),
                Err(fault) => return Delivery::Whole(fault),
            }
            self.already_there.increment((count - items.len()) as u64);
        }
        unique(&mut items);
        match self.insert(&items, batch.valid_for()).await {
            Ok(()) => Delivery::all(count),
            Err(failure) => self.failed(failure, batch),
        }
    }

    /// What a failed insert of `batch` means for it.
    fn failed<T>(&self, Failure { mut fault, unclear, too_much }: Failure, batch: &Batch<T>) -> Delivery {
        // First deliveries go again at once and unchanged: the same rows under the same token. Suspects
        // are looked up again, and until the server's limit has passed that would prove nothing.
        if let FaultClass::Transient { retry_after } = &mut fault.class
            && unclear
            && batch.is_suspect()
        {
            *retry_after = Some(self.limit + Duration::from_secs(1));
        }
        if too_much { Delivery::TooMuch(fault) } else { Delivery::Whole(fault) }
    }

    /// Inserts `items`, which are not looked up; they are ours for `valid_for`.
    pub(super) async fn insert<T: Rows>(&self, items: &[&Item<T>], valid_for: Duration) -> Result<(), Failure> {
        if items.is_empty() {
            return Ok(());
        }
        let valid_until = valid_until(valid_for, self.limit);
        let token = Batch::<T>::token(items.iter().map(|item| (item.sequence, item.value.id())), &self.scope);
        let send = async {
            let mut insert = self
                .client
                .insert::<T::Row>(&self.name)
                .await?
                .with_setting("insert_deduplication_token", token)
                .with_timeouts(Some(self.limit), Some(self.limit));
            for item in items {
                insert.write(&T::row(item, valid_until)).await?;
            }
            insert.end().await
        };
        send.await.map_err(fault)
    }

    /// Which of `suspects` are in the table.
    async fn look_up<T: Rows>(&self, suspects: &[&Item<T>]) -> Result<HashSet<String>, Fault> {
        let mut there = HashSet::new();
        for part in suspects.chunks(LOOKUP_MAX) {
            let ids: Vec<&str> = part.iter().map(|item| item.value.id()).collect();
            // Without an end: the row may be that of a copy that was received later.
            let (from, _) = span(part);
            let query = self
                .client
                .query("SELECT id FROM ? WHERE id IN ? AND received_at >= fromUnixTimestamp64Micro(?)")
                .bind(clickhouse::sql::Identifier(&self.name))
                .bind(ids)
                .bind(from.as_micros());
            there.extend(query.fetch_all::<String>().await.map_err(|error| fault(error).fault)?);
        }
        Ok(there)
    }
}

/// Until when the server may take rows, in microseconds since the epoch by the clock that ClickHouse
/// shares with us: as long as they are ours, less what the clocks may differ, and no longer than `limit`.
fn valid_until(valid_for: Duration, limit: Duration) -> i64 {
    let valid_for = valid_for.saturating_sub(SERVER_CLOCK_SKEW).min(limit);
    Timestamp::now().as_micros().saturating_add(i64::try_from(valid_for.as_micros()).unwrap_or(i64::MAX))
}

/// When the earlier copies of `items` can have been received. A message that comes again has the very
/// time of its first delivery; one that its sender presents again cannot be older than its id.
pub(super) fn span<T: Payload>(items: &[&Item<T>]) -> (Timestamp, Timestamp) {
    let earliest = |item: &&Item<T>| {
        let received_at = item.value.received_at();
        let created_at = EventId::from_stored(item.value.id()).created_at();
        // GitHub redelivers for three days, GHES for seven.
        let created_at = created_at.unwrap_or_else(|| received_at.minus(Duration::from_secs(8 * 24 * 3_600)));
        created_at.min(received_at).minus(CLOCK_SKEW)
    };
    let from = items.iter().map(earliest).min().unwrap_or_default();
    let to = items.iter().map(|item| item.value.received_at()).max().unwrap_or_default();
    (from, to)
}

/// Keeps the first of the items of each id: a batch may hold a delivery and its repetition.
pub(super) fn unique<T: Payload>(items: &mut Vec<&Item<T>>) {
    let mut seen = HashSet::with_capacity(items.len());
    items.retain(|item| seen.insert(item.value.id()));
}
