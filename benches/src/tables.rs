//! Asks ClickHouse which rows it holds.

use anyhow::Context as _;
use clickhouse::{Client, Compression};
use serde::Serialize;

/// The two tables.
pub(crate) struct Tables(Client);

/// How many rows a table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Rows {
    pub(crate) rows: u64,
    /// Distinct event ids.
    pub(crate) distinct_ids: u64,
}

impl Tables {
    /// The tables behind `url`.
    pub(crate) fn new(url: &str) -> Self {
        Self(Client::default().with_url(url).with_database("headrace").with_compression(Compression::None))
    }

    /// Counts the rows of `table` and their ids.
    pub(crate) async fn count(&self, table: &str) -> anyhow::Result<Rows> {
        let query = self.0.query("SELECT count(), uniqExact(id) FROM ?").bind(clickhouse::sql::Identifier(table));
        let (rows, distinct_ids) =
            query.fetch_one::<(u64, u64)>().await.with_context(|| format!("cannot count the rows of {table}"))?;
        Ok(Rows { rows, distinct_ids })
    }

    /// How many rows `events` has. ClickHouse answers from the parts' metadata, without reading any row.
    pub(crate) async fn events(&self) -> anyhow::Result<u64> {
        self.0.query("SELECT count() FROM events").fetch_one().await.context("cannot count the events")
    }

    /// The ids of the events inserted after `after`, and the latest time of insertion. Times are microseconds since the
    /// Unix epoch, by ClickHouse's clock.
    pub(crate) async fn inserted_after(&self, after: i64) -> anyhow::Result<(Vec<String>, i64)> {
        let query = self.0.query(
            "SELECT id, toUnixTimestamp64Micro(inserted_at) FROM events WHERE inserted_at > fromUnixTimestamp64Micro(?)",
        );
        let rows: Vec<(String, i64)> = query.bind(after).fetch_all().await.context("cannot read the new events")?;
        let latest = rows.iter().map(|(_, inserted_at)| *inserted_at).max().unwrap_or(after);
        Ok((rows.into_iter().map(|(id, _)| id).collect(), latest))
    }
}
