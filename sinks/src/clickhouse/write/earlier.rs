//! Moves the rows of an earlier release's table `events_1` into `events`, a partition at a time.
//!
//! One process does it, the one with a lease. It may be killed between any two steps, and then begins with the partition
//! again:
//!
//! 1. Copy a partition of `events_1` into a table of its own, and count the copies.
//! 2. Put the copies in place, with `REPLACE PARTITION`: it takes the place of what was moved before, and never touches the
//!    rows that the sink has written (`moved` is 0 in those). So a second time changes nothing.
//! 3. Drop the partition of `events_1`.
//!
//! A row is in one of the two tables throughout. A process that lost the lease without knowing it can put nothing in place:
//! the next one drops its copies first. `raw_1` is not moved, because its rows expire.

use clickhouse::sql::Identifier;
use clickhouse::{Client, RowOwned, RowRead};
use headrace_runtime::crash::{self, Point};
use headrace_runtime::fault::Fault;

use super::migrate;
use crate::clickhouse::classify::fault;

/// What the names of tables with copies begin with.
const COPIES: &str = "events_moved_";
/// The settings of a copy: it takes one core, and memory for blocks of some 100,000 rows.
const COPYING: [(&str, &str); 8] = [
    ("max_threads", "1"),
    ("max_insert_threads", "1"),
    ("max_memory_usage", "2000000000"),
    ("max_insert_block_size", "131072"),
    ("min_insert_block_size_rows", "131072"),
    ("min_insert_block_size_bytes", "134217728"),
    // A partition that is copied once more has the same blocks.
    ("insert_deduplicate", "0"),
    // A partition may be larger than what the server lets anybody drop by mistake.
    ("max_partition_size_to_drop", "0"),
];
/// That the source gave the event time of an earlier row, and its place for it. Only GitHub's ids tell it otherwise.
const GIVEN_TIME: &str = "source != 'github' AND occurred_at != received_at AND occurred_at > fromUnixTimestamp64Micro(0) \
                          AND occurred_at < fromUnixTimestamp64Micro(4102444800000000)";

/// Moves rows of an earlier release.
pub struct Mover {
    client: Client,
    /// The table with our copies.
    copies: String,
}

impl Mover {
    /// `holder` is a name that no other process has, of letters and digits.
    pub(crate) fn new(client: Client, holder: &str) -> Self {
        let client = COPYING.iter().fold(client, |client, (name, value)| client.with_setting(*name, *value));
        Self { client, copies: format!("{COPIES}{holder}") }
    }

    /// Whether there is a table of an earlier release.
    ///
    /// # Errors
    /// Transient when the server is away, broken when it refuses.
    pub async fn is_needed(&self) -> Result<bool, Fault> {
        Ok(self.has("events_1").await? || self.has("raw_1").await?)
    }

    /// Removes the copies of others, so that none of them is put in place from now on.
    ///
    /// # Errors
    /// Transient when the server is away, broken when it refuses.
    pub async fn take_over(&self) -> Result<(), Fault> {
        let query = self
            .client
            .query("SELECT name FROM system.tables WHERE database = currentDatabase() AND startsWith(name, ?)")
            .bind(COPIES);
        for table in self.all::<String>(query).await? {
            self.run(self.client.query("DROP TABLE IF EXISTS ? SYNC").bind(Identifier(&table))).await?;
        }
        Ok(())
    }

    /// The partitions of `events_1`, the newest first. None when there is no such table, or it has no rows.
    ///
    /// # Errors
    /// Transient when the server is away, broken when it refuses.
    pub async fn partitions(&self) -> Result<Vec<u32>, Fault> {
        let query = self.client.query(
            "SELECT DISTINCT toUInt32(partition) AS month FROM system.parts \
             WHERE active AND database = currentDatabase() AND table = 'events_1' ORDER BY month DESC",
        );
        self.all(query).await
    }

    /// Moves a partition. When it fails, it may be called again.
    ///
    /// # Errors
    /// Transient when the server is away or rows came meanwhile, broken when it refuses.
    pub async fn move_partition(&self, month: u32) -> Result<u64, Fault> {
        self.run(self.client.query("CREATE TABLE IF NOT EXISTS ? AS events").bind(Identifier(&self.copies))).await?;
        self.drop_partition(&self.copies, &format!("({month}, 1)")).await?;
        let rows = self.copy(month).await?;
        crash::pass(Point::BeforeMove);
        if rows > 0 {
            self.ensure_none_lost(month, rows).await?;
            let replace = format!("ALTER TABLE events REPLACE PARTITION ({month}, 1) FROM ?");
            self.run(self.client.query(&replace).bind(Identifier(&self.copies))).await?;
        }
        crash::pass(Point::AfterMove);
        self.ensure_rows("events_1", month, rows).await?;
        self.drop_partition("events_1", &month.to_string()).await?;
        self.drop_partition(&self.copies, &format!("({month}, 1)")).await?;
        Ok(rows)
    }

    /// Drops the earlier tables that have no rows left.
    ///
    /// # Errors
    /// Transient when the server is away, broken when it refuses.
    pub async fn drop_empty(&self) -> Result<(), Fault> {
        for table in [self.copies.as_str(), "events_1"] {
            if self.is_empty(table).await? {
                self.run(self.client.query("DROP TABLE IF EXISTS ? SYNC").bind(Identifier(table))).await?;
            }
        }
        if self.is_empty("raw_1").await? {
            migrate::show_conflicts(&self.client, migrate::Read::One).await?;
            self.run(self.client.query("DROP TABLE IF EXISTS raw_1 SYNC")).await?;
        }
        Ok(())
    }

    /// Copies a partition, a day at a time, and returns the number of rows.
    async fn copy(&self, month: u32) -> Result<u64, Fault> {
        let before = self.rows("events_1", month).await?;
        let columns = self.columns().await?;
        let days = self.client.query(
            "SELECT DISTINCT toUInt32(toYYYYMMDD(received_at)) AS day FROM events_1 WHERE toYYYYMM(received_at) = ? \
             ORDER BY day DESC",
        );
        for day in self.all::<u32>(days.bind(month)).await? {
            for (is_given, more, time) in [("", ", event_time", ", occurred_at"), ("NOT ", "", "")] {
                let copy = format!(
                    "INSERT INTO ? ({columns}, moved{more}) SELECT {columns}, 1{time} FROM events_1 \
                     WHERE toYYYYMM(received_at) = {month} AND toYYYYMMDD(received_at) = {day} AND {is_given}({GIVEN_TIME})"
                );
                self.run(self.client.query(&copy).bind(Identifier(&self.copies))).await?;
            }
        }
        self.ensure_rows(&self.copies, month, before).await?;
        Ok(before)
    }

    /// The columns that both tables have.
    async fn columns(&self) -> Result<String, Fault> {
        let query = self.client.query(
            "SELECT name, has((SELECT groupArray(name) FROM system.columns WHERE database = currentDatabase() \
             AND table = 'events'), name) AS stays FROM system.columns WHERE database = currentDatabase() \
             AND table = 'events_1' AND default_kind NOT IN ('EPHEMERAL', 'ALIAS', 'MATERIALIZED') ORDER BY position",
        );
        let columns = self.all::<(String, u8)>(query).await?;
        if let Some((name, _)) = columns.iter().find(|(_, stays)| *stays == 0) {
            return Err(Fault::broken(anyhow::anyhow!(
                "expected in `events` every column of `events_1`, found no column `{name}`; add it to `events` with ALTER \
                 TABLE, or drop it from `events_1`, and the rows are moved"
            )));
        }
        let names: Vec<String> = columns.into_iter().map(|(name, _)| format!("`{name}`")).collect();
        Ok(names.join(", "))
    }

    async fn rows(&self, table: &str, month: u32) -> Result<u64, Fault> {
        let query = self.client.query("SELECT count() FROM ? WHERE toYYYYMM(received_at) = ?");
        let rows = self.all::<u64>(query.bind(Identifier(table)).bind(month)).await?;
        Ok(rows.first().copied().unwrap_or_default())
    }

    async fn ensure_rows(&self, table: &str, month: u32, expected: u64) -> Result<(), Fault> {
        let found = self.rows(table, month).await?;
        if found == expected {
            return Ok(());
        }
        Err(Fault::transient(anyhow::anyhow!(
            "expected {expected} rows of {month} in `{table}`, found {found}; does somebody else write or delete there? \
             The partition is moved once more"
        )))
    }

    /// Checks that what was moved before is nothing or the very same: the rest would be lost.
    async fn ensure_none_lost(&self, month: u32, rows: u64) -> Result<(), Fault> {
        let query = self.client.query("SELECT count() FROM events WHERE toYYYYMM(received_at) = ? AND moved = 1");
        match self.all::<u64>(query.bind(month)).await?.first() {
            None | Some(0) => Ok(()),
            Some(moved) if *moved == rows => Ok(()),
            Some(moved) => Err(Fault::broken(anyhow::anyhow!(
                "expected none or {rows} rows of {month} in `events` that were moved from `events_1` before, found {moved}; \
                 somebody deleted or inserted some meanwhile. Delete those of `events` that `events_1` has too (moved = 1), or \
                 those of `events_1` that `events` has, and the rest is moved"
            ))),
        }
    }

    async fn drop_partition(&self, table: &str, partition: &str) -> Result<(), Fault> {
        let drop = format!("ALTER TABLE ? DROP PARTITION {partition}");
        self.run(self.client.query(&drop).bind(Identifier(table))).await
    }

    async fn has(&self, table: &str) -> Result<bool, Fault> {
        let query = self.client.query(
            "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = ? AND engine LIKE '%MergeTree'",
        );
        Ok(self.all::<u64>(query.bind(table)).await?.first().is_some_and(|tables| *tables > 0))
    }

    async fn is_empty(&self, table: &str) -> Result<bool, Fault> {
        if !self.has(table).await? {
            return Ok(false);
        }
        let query = self.client.query("SELECT count() FROM ?").bind(Identifier(table));
        Ok(self.all::<u64>(query).await?.first() == Some(&0))
    }

    async fn all<T: RowOwned + RowRead>(&self, query: clickhouse::query::Query) -> Result<Vec<T>, Fault> {
        query.fetch_all::<T>().await.map_err(|error| fault(error).fault)
    }

    async fn run(&self, query: clickhouse::query::Query) -> Result<(), Fault> {
        query.execute().await.map_err(|error| fault(error).fault)
    }
}
