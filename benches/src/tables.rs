//! Asks ClickHouse which rows it holds.

use anyhow::Context as _;
use clickhouse::{Client, Compression};
use headrace_schemas::time::Timestamp;
use serde::Serialize;

use crate::figures::round;

/// The two tables.
pub(crate) struct Tables(Client);

/// How many rows a table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Rows {
    pub(crate) rows: u64,
    /// Distinct event ids.
    pub(crate) distinct_ids: u64,
}

/// What a table takes on the disk.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Packed {
    rows: u64,
    parts: u64,
    uncompressed_bytes: u64,
    compressed_bytes: u64,
    /// Bytes of which one is left.
    ratio: f64,
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

    /// Counts the rows of `table` that were received since `since`, and their ids.
    pub(crate) async fn count_since(&self, table: &str, since: Timestamp) -> anyhow::Result<Rows> {
        let text = "SELECT count(), uniqExact(id) FROM ? WHERE received_at >= fromUnixTimestamp64Micro(?)";
        let query = self.0.query(text).bind(clickhouse::sql::Identifier(table)).bind(since.as_micros());
        let (rows, distinct_ids) =
            query.fetch_one::<(u64, u64)>().await.with_context(|| format!("cannot count the rows of {table}"))?;
        Ok(Rows { rows, distinct_ids })
    }

    /// What `table` takes on the disk, by the metadata of its parts.
    pub(crate) async fn packed(&self, table: &str) -> anyhow::Result<Packed> {
        let text = "SELECT sum(rows), count(), sum(data_uncompressed_bytes), sum(data_compressed_bytes) \
                    FROM system.parts WHERE active AND database = 'headrace' AND table = ?";
        let query = self.0.query(text).bind(table).fetch_one::<(u64, u64, u64, u64)>().await;
        let (rows, parts, uncompressed_bytes, compressed_bytes) =
            query.with_context(|| format!("cannot see what {table} takes on the disk"))?;
        let ratio = round(uncompressed_bytes as f64 / compressed_bytes.max(1) as f64);
        Ok(Packed { rows, parts, uncompressed_bytes, compressed_bytes, ratio })
    }

    /// Runs a statement that returns nothing. No character of it stands for a value.
    pub(crate) async fn execute(&self, statement: &str) -> anyhow::Result<()> {
        let done = self.0.query(&statement.replace('?', "??")).execute().await;
        done.with_context(|| format!("ClickHouse refused this statement:\n{statement}"))
    }

    /// The rows that `query` asks for.
    pub(crate) async fn rows<T>(&self, query: &str) -> anyhow::Result<Vec<T>>
    where
        T: clickhouse::RowOwned + clickhouse::RowRead,
    {
        let rows = self.0.query(&query.replace('?', "??")).fetch_all::<T>().await;
        rows.with_context(|| format!("ClickHouse did not answer:\n{query}"))
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
