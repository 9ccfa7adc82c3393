//! Exactly once into a table.
//!
//! An acknowledgement follows the insert, so that a row that may be stored already always comes back
//! as a *suspect*: delivered before, presented again by its sender, or published late
//! ([`headrace_runtime::message::Delivered::is_suspect`]). Hence:
//!
//! * First deliveries are inserted straight. When the answer is not clear they are inserted again,
//!   unchanged and under the same `insert_deduplication_token`; the token is made of their sequences,
//!   because ClickHouse silently drops *different* rows under a token that it knows.
//! * Suspects are looked up by id, afterwards, and those that are absent are inserted. When that answer
//!   is not clear, they are looked up again, but only when the server's time limit for the insert has
//!   passed: until then the first insert may still succeed.

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
const LOOKUP_MAX: usize = 4_000;
/// Clocks of GitHub and the gateways may differ by so much.
const CLOCK_SKEW: Duration = Duration::from_secs(600);

/// An item that has a row.
pub(super) trait Rows: Payload {
    /// Its row.
    type Row: RowWrite;

    /// The row of `item`, borrowed from it.
    fn row(item: &Item<Self>) -> <Self::Row as Row>::Value<'_>;
}

/// A table that holds each id once.
pub(super) struct Table {
    client: Client,
    name: &'static str,
    limit: Duration,
    already_there: Counter,
}

impl Table {
    pub(super) fn new(client: Client, name: &'static str, component: &'static str, limit_s: u64) -> Self {
        let client = client
            // We make our own batches; the server must answer when the rows are stored.
            .with_setting("async_insert", "0")
            .with_setting("insert_deduplicate", "1")
            .with_setting("max_execution_time", limit_s.to_string());
        let already_there = counter!(ALREADY_THERE, "component" => component);
        Self { client, name, limit: Duration::from_secs(limit_s), already_there }
    }

    /// Inserts what of `batch` is not there.
    pub(super) async fn deliver<T: Rows>(&self, batch: &Batch<T>) -> Delivery {
        let items = batch.items();
        let (suspects, mut firsts): (Vec<&Item<T>>, Vec<&Item<T>>) = items.iter().partition(|item| item.suspect);
        unique(&mut firsts);
        if let Err(failure) = self.insert(&firsts).await {
            // The whole batch again, unchanged: the same rows under the same token.
            return Delivery::Whole(failure.fault);
        }
        match self.insert_absent(&suspects).await {
            Ok(()) => Delivery::all(items.len()),
            Err(fault) if firsts.is_empty() => Delivery::Whole(fault),
            // The first deliveries are stored. Said so, they are settled now; the suspects come again.
            Err(fault) => Delivery::Each(
                items.iter().map(|item| if item.suspect { Err(repeat(&fault)) } else { Ok(()) }).collect(),
            ),
        }
    }

    async fn insert_absent<T: Rows>(&self, suspects: &[&Item<T>]) -> Result<(), Fault> {
        if suspects.is_empty() {
            return Ok(());
        }
        let there = self.look_up(suspects).await?;
        let mut absent: Vec<&Item<T>> =
            suspects.iter().copied().filter(|item| !there.contains(item.value.id())).collect();
        unique(&mut absent);
        self.already_there.increment((suspects.len() - absent.len()) as u64);
        self.insert(&absent).await.map_err(|Failure { fault, unclear }| match fault.class {
            // Until the server's limit has passed, this insert may still succeed behind our back.
            FaultClass::Transient { .. } if unclear => {
                Fault::transient_after(Some(self.limit + Duration::from_secs(1)), fault.source)
            }
            _ => fault,
        })
    }

    async fn insert<T: Rows>(&self, items: &[&Item<T>]) -> Result<(), Failure> {
        if items.is_empty() {
            return Ok(());
        }
        let token = Batch::<T>::token(items.iter().map(|item| item.sequence), self.name);
        let send = async {
            let mut insert = self
                .client
                .insert::<T::Row>(self.name)
                .await?
                .with_setting("insert_deduplication_token", token)
                .with_timeouts(Some(self.limit), Some(self.limit));
            for item in items {
                insert.write(&T::row(item)).await?;
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
            let (from, to) = span(part);
            let query = self
                .client
                .query(
                    "SELECT id FROM ? WHERE id IN ? AND received_at >= fromUnixTimestamp64Micro(?) \
                     AND received_at <= fromUnixTimestamp64Micro(?)",
                )
                .bind(clickhouse::sql::Identifier(self.name))
                .bind(ids)
                .bind(from.as_micros())
                .bind(to.as_micros());
            there.extend(query.fetch_all::<String>().await.map_err(|error| fault(error).fault)?);
        }
        Ok(there)
    }
}

/// When the earlier copies of `items` can have been received. A message that comes again has the very
/// time of its first delivery; one that its sender presents again cannot be older than its id.
fn span<T: Payload>(items: &[&Item<T>]) -> (Timestamp, Timestamp) {
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
fn unique<T: Payload>(items: &mut Vec<&Item<T>>) {
    let mut seen = HashSet::with_capacity(items.len());
    items.retain(|item| seen.insert(item.value.id()));
}

/// The same fault for another item.
fn repeat(fault: &Fault) -> Fault {
    Fault { class: fault.class.clone(), source: anyhow::anyhow!("{fault}") }
}
