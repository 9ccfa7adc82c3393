//! Looks up which items have a row: in the table of this release by their places, in that of an earlier release as that
//! release did.
//!
//! An earlier table is there until its rows have been moved ([`super::earlier`]) or have expired. It has no event times, so
//! a row of it is that of a tenant and an id whatever the time.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clickhouse::error::Error;
use clickhouse::sql::Identifier;
use clickhouse::{Client, Row};
use headrace_runtime::component::batch::Item;
use headrace_runtime::message::payload::{Content, Payload};
use headrace_schemas::time::Timestamp;
use serde::Deserialize;

use super::insert::Rows;
use crate::clickhouse::classify::{Failure, fault, is_unknown_table, of_look_up};
use crate::clickhouse::place::{self, HAS_KEY, IS_AT, IS_AT_TIME, Name, Place, key_of};

/// Room for a look-up of [`LOOKUP_MAX`](crate::clickhouse::LOOKUP_MAX) items, each with a tenant of its own, in bytes. By
/// default ClickHouse takes 256 KiB.
const BYTES_MAX: &str = "2097152";
/// Settings for a look-up of places that all have a time. Nearly all its work is the search in the primary key: further
/// threads cost more than they help, and a search in thirds makes fewer steps than one in eighths.
const TIMED: [(&str, &str); 2] = [("max_threads", "1"), ("merge_tree_coarse_index_granularity", "3")];
/// How much the clocks of senders and gateways may differ. A source whose senders choose their times refuses those that
/// are half as far ahead.
const CLOCK_SKEW: Duration = Duration::from_secs(600);

/// What a look-up tells about a row.
#[derive(Debug, Row, Deserialize)]
pub(crate) struct Found {
    tenant: String,
    at: i64,
    key: u64,
    first: u64,
    second: u64,
}

impl Found {
    const fn place(&self) -> Place<&str> {
        Place { at: self.at, tenant: self.tenant.as_str(), key: self.key }
    }
}

/// The rows that were found.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    pub(super) rows: Vec<Found>,
    /// Those of the earlier table, without times.
    pub(super) earlier: Vec<Found>,
}

/// Their contents, by name.
pub(crate) struct Index<'a> {
    rows: HashMap<Name<&'a str>, [u64; 2]>,
    earlier: HashMap<Name<&'a str>, [u64; 2]>,
}

impl Stored {
    pub(super) fn index<T: Rows>(&self) -> Index<'_> {
        Index { rows: by_name::<T>(&self.rows), earlier: by_name::<T>(&self.earlier) }
    }
}

impl Index<'_> {
    /// What the row of this name was made of, if there is one.
    pub(super) fn content_at(&self, name: Name<&str>) -> Option<[u64; 2]> {
        self.rows.get(&name).or_else(|| self.earlier.get(&name.timeless())).copied()
    }
}

fn by_name<T: Rows>(found: &[Found]) -> HashMap<Name<&str>, [u64; 2]> {
    found
        .iter()
        .map(|found| {
            let content = [found.first, found.second];
            (T::name_at(found.place(), content), content)
        })
        .collect()
}

/// The rows of `items` in `table`. Others may be among them.
pub(super) async fn look_up<T: Rows>(client: &Client, table: &str, items: &[&Item<T>]) -> Result<Vec<Found>, Error> {
    let [first, second] = T::CONTENT;
    let places = items.iter().map(|item| Place::of(&item.value));
    // Rows of unknown time have only their key.
    let is_timed = places.clone().all(|place| place.at > 0);
    let is_at = if is_timed { IS_AT_TIME } else { IS_AT };
    let query = client
        .query(&format!(
            "SELECT tenant, toUnixTimestamp64Micro(event_time) AS at, key, {first} AS first, {second} AS second FROM ? \
             PREWHERE {HAS_KEY} WHERE {is_at}"
        ))
        .with_setting("max_query_size", BYTES_MAX)
        // Every look-up is another one, so the cache would only fill.
        .with_setting("use_query_condition_cache", "0")
        .bind(Identifier(table));
    if !is_timed {
        return place::bind(query, places).fetch_all().await;
    }
    let query = TIMED.iter().fold(query, |query, (name, value)| query.with_setting(*name, *value));
    place::bind_timed(query, places).fetch_all().await
}

/// The table of an earlier release, and its columns with the kind and the body's hash.
pub(crate) struct Earlier {
    pub(super) table: &'static str,
    pub(super) kind: &'static str,
    pub(super) sha256: &'static str,
}

/// Looks rows up in an earlier table while there is one.
pub(super) struct EarlierRows {
    client: Client,
    /// It never comes back, because nobody writes it any more.
    is_gone: AtomicBool,
}

/// What the earlier statement tells about a row.
#[derive(Row, Deserialize)]
struct EarlierRow {
    tenant: String,
    id: String,
    kind: String,
    sha256: String,
}

impl EarlierRows {
    pub(super) fn new(client: &Client) -> Self {
        Self { client: client.clone(), is_gone: AtomicBool::new(false) }
    }

    /// The rows of `items`; none when the table is gone.
    pub(super) async fn look_up<T: Rows>(&self, items: &[&Item<T>]) -> Result<Vec<Found>, Failure> {
        if self.is_gone.load(Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        match self.rows(items).await {
            Ok(rows) => Ok(rows),
            Err(error) if is_unknown_table(&error) => {
                self.is_gone.store(true, Ordering::Relaxed);
                Ok(Vec::new())
            }
            Err(error) => Err(of_look_up(fault(error))),
        }
    }

    async fn rows<T: Rows>(&self, items: &[&Item<T>]) -> Result<Vec<Found>, Error> {
        let Earlier { table, kind, sha256 } = T::EARLIER;
        let tenants: BTreeSet<&str> = items.iter().map(|item| item.value.identity().tenant).collect();
        let query = self
            .client
            // Without an upper bound: the row may be that of a duplicate that was received later.
            .query(
                "SELECT tenant, id, ? AS kind, ? AS sha256 FROM ? WHERE tenant IN ? AND id IN ? \
                 AND received_at >= fromUnixTimestamp64Micro(?)",
            )
            .with_setting("max_query_size", BYTES_MAX)
            .bind(Identifier(kind))
            .bind(Identifier(sha256))
            .bind(Identifier(table))
            .bind(tenants.into_iter().collect::<Vec<_>>())
            .bind(items.iter().map(|item| item.value.id()).collect::<Vec<_>>())
            .bind(earliest(items).as_micros());
        let rows = query.fetch_all::<EarlierRow>().await?;
        let found = |EarlierRow { tenant, id, kind, sha256 }| {
            let [first, second] = T::content_columns(Content { kind: &kind, sha256: &sha256 });
            Found { tenant, at: 0, key: key_of(&id), first, second }
        };
        Ok(rows.into_iter().map(found).collect())
    }
}

/// When the first deliveries of `items` can have been received. A message that comes again has the very time of its first
/// delivery. A delivery that its sender presents again cannot be older than its event.
fn earliest<T: Payload>(items: &[&Item<T>]) -> Timestamp {
    let earliest = |item: &&Item<T>| {
        let received_at = item.value.received_at();
        // A time in the future is made up.
        let created_at = item.value.event_time().filter(|at| *at <= received_at);
        // GitHub redelivers for three days, GHES for seven.
        let created_at = created_at.unwrap_or_else(|| received_at.minus(Duration::from_secs(8 * 24 * 3_600)));
        created_at.min(received_at).minus(CLOCK_SKEW)
    };
    items.iter().map(earliest).min().unwrap_or_default()
}
