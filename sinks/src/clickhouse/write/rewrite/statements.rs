//! The statements of a rewriting but its inserts: they look rows up and delete them.

use std::collections::HashMap;

use clickhouse::sql::Identifier;
use clickhouse::{Client, Row};
use headrace_runtime::fault::Fault;
use headrace_schemas::time::Timestamp;
use serde::Deserialize;

use crate::clickhouse::classify::fault;
use crate::clickhouse::place::{self, HAS_KEY, IS_AT, Name, Place};
use crate::clickhouse::write::insert::{Rows, Table};

/// Room for a statement with [`ITEMS_MAX`](super::ITEMS_MAX) names, in bytes.
const STATEMENT_BYTES_MAX: &str = "4194304";
/// How long the server may take to look up or delete rows. A statement that is late does no harm.
const STATEMENT_LIMIT_S: &str = "600";
/// Later than any event.
pub(super) const END_OF_TIME: Timestamp = Timestamp::from_micros(4_102_444_800_000_000);

/// Looks up and deletes rows of one table.
pub(super) struct Statements {
    client: Client,
    table: String,
    /// Rows that were inserted then or later are fresh.
    since: Timestamp,
    /// Of the rows that were inserted before, those that were received from the first time on and before the second
    /// are older; the others are elsewhere.
    window: (Timestamp, Timestamp),
}

/// How many rows of a name there are, and what the first of them was made of. If any were inserted before the rewriting,
/// the first is the one of those that was received first.
#[derive(Debug, Row, Deserialize)]
pub(super) struct Found {
    tenant: String,
    at: i64,
    key: u64,
    first_content: u64,
    second_content: u64,
    /// Inserted since the rewriting began.
    pub(super) fresh: u64,
    /// Inserted before, received in the window.
    pub(super) older: u64,
    /// Inserted before, received at another time.
    elsewhere: i64,
    /// When the first of the rows that were inserted before was received, in microseconds since the Unix epoch.
    pub(super) first: i64,
    /// When the broker stored the message of the rows, in microseconds since the Unix epoch; 0 when no row tells.
    pub(super) stored: i64,
}

impl Found {
    pub(super) const fn has_older(&self) -> bool {
        self.older > 0 || self.elsewhere > 0
    }

    /// What the first row was made of.
    pub(super) const fn content(&self) -> [u64; 2] {
        [self.first_content, self.second_content]
    }

    fn name<T: Rows>(&self) -> Name<&str> {
        T::name_at(Place { at: self.at, tenant: self.tenant.as_str(), key: self.key }, self.content())
    }
}

/// A name that has several rows.
#[derive(Row, Deserialize)]
struct Twice {
    tenant: String,
    at: i64,
    key: u64,
    first_content: u64,
    second_content: u64,
    /// When the latest of them was inserted.
    latest: i64,
}

/// The columns of a name.
fn columns_of<T: Rows>() -> String {
    let place = "tenant, event_time, key";
    if T::HOLDS_CONTENTS { format!("{place}, {}", T::CONTENT.join(", ")) } else { place.to_owned() }
}

impl Statements {
    pub(super) fn new(table: &Table, since: Timestamp, window: (Timestamp, Timestamp)) -> Self {
        let client = table
            .client()
            .clone()
            .with_setting("max_execution_time", STATEMENT_LIMIT_S)
            .with_setting("max_query_size", STATEMENT_BYTES_MAX)
            .with_setting("use_query_condition_cache", "0")
            // Return when the rows are gone, on all replicas.
            .with_setting("lightweight_deletes_sync", "2");
        Self { client, table: table.name().to_owned(), since, window }
    }

    /// The names that have several rows, among those at the places of `names`, and when the latest row of each was
    /// inserted.
    pub(super) async fn twice<T: Rows>(&self, names: &[Name<&str>]) -> Result<Vec<(Name<String>, Timestamp)>, Fault> {
        let (columns, [first, second]) = (columns_of::<T>(), T::CONTENT);
        let query = self.client.query(&format!(
            "SELECT tenant, toUnixTimestamp64Micro(event_time) AS at, key, any({first}) AS first_content, \
             any({second}) AS second_content, toUnixTimestamp64Micro(max(inserted_at)) AS latest \
             FROM ? PREWHERE {HAS_KEY} WHERE {IS_AT} GROUP BY {columns} HAVING count() > 1"
        ));
        let query = place::bind(query.bind(Identifier(&self.table)), names.iter().map(|name| name.place));
        let rows = query.fetch_all::<Twice>().await.map_err(|error| fault(error).fault)?;
        let twice = |Twice { tenant, at, key, first_content, second_content, latest }| {
            let name = T::name_at(Place { at, tenant, key }, [first_content, second_content]);
            (name, Timestamp::from_micros(latest))
        };
        Ok(rows.into_iter().map(twice).collect())
    }

    /// The rows at the places of `names`.
    pub(super) async fn look_up<T: Rows>(&self, names: &[Name<&str>]) -> Result<Vec<Found>, Fault> {
        let (inside_from, inside_to) = self.window;
        let (columns, stored_at, [first, second]) = (columns_of::<T>(), T::STORED_AT, T::CONTENT);
        // Rows that were inserted before the rewriting come first.
        let of_first = "(inserted_at >= fromUnixTimestamp64Micro(?), received_at)";
        let query = self
            .client
            .query(&format!(
                "SELECT tenant, toUnixTimestamp64Micro(event_time) AS at, key, \
                 argMin({first}, {of_first}) AS first_content, argMin({second}, {of_first}) AS second_content, \
                 countIf(inserted_at >= fromUnixTimestamp64Micro(?)) AS fresh, \
                 countIf(inserted_at < fromUnixTimestamp64Micro(?) AND received_at >= fromUnixTimestamp64Micro(?) \
                 AND received_at < fromUnixTimestamp64Micro(?)) AS older, count() - fresh - older AS elsewhere, \
                 toUnixTimestamp64Micro(minIf(received_at, inserted_at < fromUnixTimestamp64Micro(?))) AS first, \
                 toUnixTimestamp64Micro(max({stored_at})) AS stored \
                 FROM ? PREWHERE {HAS_KEY} WHERE {IS_AT} GROUP BY {columns}"
            ))
            .bind(self.since.as_micros())
            .bind(self.since.as_micros())
            .bind(self.since.as_micros())
            .bind(self.since.as_micros())
            .bind(inside_from.as_micros())
            .bind(inside_to.as_micros())
            .bind(self.since.as_micros())
            .bind(Identifier(&self.table));
        let query = place::bind(query, names.iter().map(|name| name.place));
        query.fetch_all::<Found>().await.map_err(|error| fault(error).fault)
    }

    /// Deletes the rows of `names` that were inserted before `before`. A late statement of a process that was stopped does
    /// no harm, because later rows are newer.
    pub(super) async fn remove_before<T: Rows>(&self, names: &[Name<&str>], before: Timestamp) -> Result<(), Fault> {
        let has_name = if T::HOLDS_CONTENTS {
            let columns = T::CONTENT.join(", ");
            format!(
                "AND (toUnixTimestamp64Micro(event_time), tenant, key, {columns}) IN \
                 CAST(?, 'Array(Tuple(Int64, String, UInt64, UInt64, UInt64))')"
            )
        } else {
            String::new()
        };
        let query = self.client.query(&format!(
            "DELETE FROM ? WHERE {HAS_KEY} AND {IS_AT} {has_name} AND inserted_at < fromUnixTimestamp64Micro(?)"
        ));
        let mut query = place::bind(query.bind(Identifier(&self.table)), names.iter().map(|name| name.place));
        if T::HOLDS_CONTENTS {
            query = query.bind(place::list(names.iter().map(|name| name.tuple())));
        }
        query.bind(before.as_micros()).execute().await.map_err(|error| fault(error).fault)
    }
}

/// The found rows, by name.
pub(super) fn by_name<T: Rows>(found: &[Found]) -> HashMap<Name<&str>, &Found> {
    found.iter().map(|found| (found.name::<T>(), found)).collect()
}
