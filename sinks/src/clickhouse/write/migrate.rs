//! Brings the tables to this release's version: numbered SQL files, each applied once and recorded.
//!
//! Every file can be applied twice without harm: two processes may begin at the same time, and ClickHouse has no
//! transactions over statements. What counts is the set of recorded versions, not the highest: a server may lack what one of
//! them needs, and get it with an upgrade of its own.
//!
//! The tables `events` and `raw` were made anew in another order. Those of earlier releases are renamed, with all their
//! rows, to `events_1` and `raw_1`. They are never dropped here: a process of an earlier release may be inserting.

use std::sync::Arc;
use std::time::Duration;

use clickhouse::Client;
use headrace_runtime::fault::Fault;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::clickhouse::classify::fault;

struct Migration {
    version: u32,
    name: &'static str,
    sql: &'static str,
    of: Of,
}

/// The tables that a migration concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    /// Those of earlier releases. It is needed only where there are some.
    Earlier,
    /// A table that takes the place of an earlier one.
    Anew(&'static str),
    /// A table of this release, which it changes. One that somebody dropped is changed when it is made anew.
    Present(&'static str),
    /// The view of `raw`.
    Conflicts,
    /// The statistics of columns of a table of this release. A server that does not know them makes none: it needs this
    /// when it was upgraded, and it is not recorded before that.
    Statistics(&'static str),
    /// The table `gaps`.
    Gaps,
    /// The table that tells which were applied.
    Migrations,
}

impl Of {
    /// The table or view of this release that it makes or changes. The table of migrations is made before them.
    const fn made(self) -> Option<&'static str> {
        match self {
            Self::Anew(table) | Self::Present(table) | Self::Statistics(table) => Some(table),
            Self::Conflicts => Some("conflicting_deliveries"),
            Self::Gaps => Some("gaps"),
            Self::Earlier | Self::Migrations => None,
        }
    }
}

/// Makes migrations of lines with the number and the name, as they stand in the name of the file, and what it concerns.
macro_rules! migrations {
    ($(($number:literal, $name:literal, $of:expr)),* $(,)?) => {
        [$(Migration {
            version: version($number),
            name: $name,
            sql: include_str!(concat!("migrations/", $number, "_", $name, ".sql")),
            of: $of,
        }),*]
    };
}

/// The version that the digits in the name of a file tell.
const fn version(digits: &str) -> u32 {
    match u32::from_str_radix(digits, 10) {
        Ok(version) => version,
        Err(_) => panic!("expected digits as the number of a migration"),
    }
}

/// All migrations, in order. One that was released is never changed.
const MIGRATIONS: [Migration; 19] = migrations![
    ("0001", "events", Of::Earlier),
    ("0002", "raw", Of::Earlier),
    ("0003", "gaps", Of::Gaps),
    ("0004", "raw_sha256", Of::Earlier),
    ("0005", "conflicting_deliveries", Of::Earlier),
    // A statement changes one table. `IF EXISTS`, so that a column that somebody dropped stops no process.
    ("0006", "events_comments", Of::Earlier),
    ("0007", "raw_comments", Of::Earlier),
    ("0008", "conflicting_deliveries_comments", Of::Earlier),
    ("0009", "migrations_comments", Of::Migrations),
    ("0010", "events", Of::Anew("events")),
    ("0011", "raw", Of::Anew("raw")),
    ("0012", "conflicting_deliveries", Of::Conflicts),
    // Nobody asks for these statistics, and they took a tenth of the server's work for a row.
    ("0013", "events_statistics", Of::Statistics("events")),
    ("0014", "raw_statistics", Of::Statistics("raw")),
    ("0015", "events_merges", Of::Present("events")),
    ("0016", "raw_merges", Of::Present("raw")),
    ("0017", "events_received_at", Of::Present("events")),
    ("0018", "raw_parts", Of::Present("raw")),
    ("0019", "events_merge_base", Of::Present("events")),
];

/// The tables and views that they make.
const TABLES: [&str; 4] = ["events", "raw", "gaps", "conflicting_deliveries"];

/// The longest that all migrations may take at once.
const MIGRATION_MAX: Duration = Duration::from_mins(10);

/// Migrates for a sink.
pub(crate) struct Migrator {
    client: Client,
    database: String,
    /// Held while it migrates.
    turn: Arc<Mutex<()>>,
}

impl Migrator {
    pub(crate) fn new(client: Client, database: &str) -> Self {
        Self { client, database: database.to_owned(), turn: Arc::default() }
    }

    /// As [`run`], which goes on when nobody waits for it any more: a sink may be checked for no longer than a call may
    /// last, and on a slow server it would never come to the last migration. Only one goes on at once.
    #[expect(clippy::disallowed_methods, reason = "it ends by itself, and nobody need restart it")]
    pub(crate) async fn run(&self) -> Result<(), Fault> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let (client, database) = (self.client.clone(), self.database.clone());
        let migrated = tokio::spawn(async move {
            let _turn = turn;
            timeout(MIGRATION_MAX, run(&client, &database)).await
        });
        match migrated.await {
            Ok(Ok(migrated)) => migrated,
            Ok(Err(_)) => {
                let max_s = MIGRATION_MAX.as_secs();
                Err(Fault::transient(anyhow::anyhow!(
                    "expected the tables to be migrated within {max_s} s, found that they are not"
                )))
            }
            Err(error) => Err(Fault::transient(error)),
        }
    }
}

/// Creates the database and applies what is missing.
pub(crate) async fn run(client: &Client, database: &str) -> Result<(), Fault> {
    let applied = applied_so_far(client, database).await?;
    refuse_newer(&applied)?;
    let missing = known_to(client, missing_in(&applied).collect()).await?;
    if missing.is_empty() {
        return Ok(());
    }
    let is_upgrade = is_earlier(client, &["events", "raw"]).await?;
    let (needed, needless): (Vec<_>, Vec<_>) =
        missing.into_iter().partition(|migration| is_upgrade || migration.of != Of::Earlier);
    record(client, &needless).await?;
    for migration in needed {
        migration.apply(client).await?;
        record(client, &[migration]).await?;
        tracing::info!(version = migration.version, name = migration.name, database, "ClickHouse migration applied");
    }
    Ok(())
}

/// The migrations that are not recorded.
fn missing_in(applied: &[u32]) -> impl Iterator<Item = &'static Migration> {
    MIGRATIONS.iter().filter(|migration| !applied.contains(&migration.version))
}

/// Those of `migrations` that the server has the means for. It is asked only if one needs more than each server has.
async fn known_to(client: &Client, mut migrations: Vec<&'static Migration>) -> Result<Vec<&'static Migration>, Fault> {
    if migrations.iter().any(|migration| migration.is_of_statistics()) && !knows_statistics(client).await? {
        migrations.retain(|migration| !migration.is_of_statistics());
    }
    Ok(migrations)
}

/// The migrations that were applied, after the table that tells was made.
async fn applied_so_far(client: &Client, database: &str) -> Result<Vec<u32>, Fault> {
    // Not in our database, which may not exist yet.
    let outside = client.clone().with_database("default");
    let query = outside.query("SELECT count() FROM system.tables WHERE database = ? AND name = 'migrations'");
    let tables = query.bind(database).fetch_one::<u64>().await.map_err(|error| fault(error).fault)?;
    if tables == 0 {
        // Name the engine `Atomic`: the embedded server has another default engine for databases.
        execute(&outside, &format!("CREATE DATABASE IF NOT EXISTS {database} ENGINE = Atomic"), "the database").await?;
        let log = "CREATE TABLE IF NOT EXISTS migrations (version UInt32, name String, applied_at DateTime DEFAULT now()) \
                   ENGINE = ReplacingMergeTree ORDER BY version COMMENT 'which migrations were applied'";
        execute(client, log, "the table of migrations").await?;
    }
    applied(client).await
}

/// Notes that `migrations` were applied, or are not needed here.
async fn record(client: &Client, migrations: &[&Migration]) -> Result<(), Fault> {
    if migrations.is_empty() {
        return Ok(());
    }
    let values: Vec<String> =
        migrations.iter().map(|migration| format!("({}, '{}')", migration.version, migration.name)).collect();
    let record = format!("INSERT INTO migrations (version, name) VALUES {}", values.join(", "));
    execute(client, &record, "the record of a migration").await
}

/// As [`run`], and also makes tables anew that were dropped after their migration had been recorded.
pub(crate) async fn restore(client: &Client, database: &str) -> Result<(), Fault> {
    run(client, database).await?;
    let query = client.query("SELECT name FROM system.tables WHERE database = ? AND name IN ?");
    let tables = query.bind(database).bind(TABLES.as_slice()).fetch_all::<String>().await;
    let tables = tables.map_err(|error| fault(error).fault)?;
    // Only what is missing: a person may have changed the settings of the others.
    let is_missing = |table: &str| !tables.iter().any(|present| present == table);
    let missing: Vec<_> = MIGRATIONS.iter().filter(|migration| migration.of.made().is_some_and(is_missing)).collect();
    if !missing.is_empty() {
        for migration in known_to(client, missing).await? {
            migration.apply(client).await?;
        }
        tracing::warn!(
            database,
            there = tables.join(", "),
            "tables that were missing in ClickHouse are made anew, and are empty: beside those that were there, all are new"
        );
    }
    Ok(())
}

/// Makes tables anew that were dropped, where every migration is recorded. Where some are not, it leaves them to who migrates.
pub(crate) async fn restore_dropped(client: &Client, database: &str) -> Result<(), Fault> {
    match verify(client, database).await {
        Ok(()) => restore(client, database).await,
        Err(_) => Ok(()),
    }
}

/// Checks that all migrations were applied, whoever applies them here. Those of statistics may be missing alone: a server
/// that was upgraded must stop no sink, and without them it only works more.
pub(crate) async fn verify(client: &Client, database: &str) -> Result<(), Fault> {
    let applied = applied(client).await?;
    refuse_newer(&applied)?;
    if missing_in(&applied).all(Migration::is_of_statistics) {
        return Ok(());
    }
    match known_to(client, missing_in(&applied).collect()).await?.first() {
        None => Ok(()),
        Some(missing) => Err(Fault::broken(anyhow::anyhow!(
            "the database {database} lacks migration {} ({}); set `sinks.clickhouse.migrate = true` for one start, or apply it by hand",
            missing.version,
            missing.name
        ))),
    }
}

impl Migration {
    const fn is_of_statistics(&self) -> bool {
        matches!(self.of, Of::Statistics(_))
    }

    async fn apply(&self, client: &Client) -> Result<(), Fault> {
        match self.of {
            Of::Anew(table) => {
                set_aside(client, table).await?;
                execute(client, self.sql, self.name).await
            }
            Of::Present(table) | Of::Statistics(table) if !is_there(client, table).await? => Ok(()),
            Of::Conflicts => show_conflicts(client, Read::WhatIsThere).await,
            Of::Statistics(_) | Of::Earlier | Of::Present(_) | Of::Gaps | Of::Migrations => {
                execute(client, self.sql, self.name).await
            }
        }
    }
}

/// Renames a table of an earlier release, so that the new one can be made.
async fn set_aside(client: &Client, table: &str) -> Result<(), Fault> {
    if !is_earlier(client, &[table]).await? {
        return Ok(());
    }
    let renamed =
        execute(client, &format!("RENAME TABLE {table} TO {table}_1"), "the new place of an earlier table").await;
    // Another process may have been faster.
    if renamed.is_err() && !is_earlier(client, &[table]).await? {
        return Ok(());
    }
    renamed
}

/// Whether one of `tables` is there as an earlier release made it.
async fn is_earlier(client: &Client, tables: &[&str]) -> Result<bool, Fault> {
    let query = client.query(
        "SELECT count() FROM system.columns WHERE database = currentDatabase() AND table IN ? AND name = 'valid_until'",
    );
    let columns = query.bind(tables).fetch_one::<u64>().await.map_err(|error| fault(error).fault)?;
    Ok(columns > 0)
}

async fn is_there(client: &Client, table: &str) -> Result<bool, Fault> {
    let query = client.query("SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = ?");
    Ok(query.bind(table).fetch_one::<u64>().await.map_err(|error| fault(error).fault)? > 0)
}

/// Whether the server keeps statistics of columns unless it is told not to. Some of before 26.4, which make none, do
/// not know the setting.
async fn knows_statistics(client: &Client) -> Result<bool, Fault> {
    let query = client.query("SELECT count() FROM system.merge_tree_settings WHERE name = 'auto_statistics_types'");
    let settings = query.fetch_one::<u64>().await.map_err(|error| fault(error).fault)?;
    Ok(settings > 0)
}

/// Which tables a view of bodies reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// `raw`.
    One,
    /// Also `raw_1` if it is there.
    WhatIsThere,
}

/// Makes the view of conflicting deliveries.
pub(super) async fn show_conflicts(client: &Client, read: Read) -> Result<(), Fault> {
    let sql = conflicts(is_there(client, "raw_1").await? && read == Read::WhatIsThere);
    execute(client, &sql, "the view of conflicting deliveries").await
}

/// The statement of that view. A row of `raw_1` tells no event time.
fn conflicts(with_earlier: bool) -> String {
    let sql = include_str!("migrations/0012_conflicting_deliveries.sql");
    if !with_earlier {
        return sql.to_owned();
    }
    let columns = "tenant, id, event, sha256, sequence, received_at";
    sql.replace(
        "\nFROM raw\n",
        &format!(
            "\nFROM (SELECT {columns}, event_time FROM raw UNION ALL \
             SELECT {columns}, toDateTime64(0, 6, 'UTC') AS event_time FROM raw_1)\n"
        ),
    )
}

fn refuse_newer(applied: &[u32]) -> Result<(), Fault> {
    let newest = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default();
    match applied.iter().max() {
        Some(&found) if found > newest => Err(Fault::broken(anyhow::anyhow!(
            "the database is of a later release (migration {found}, this one knows {newest}); run that release or a later one"
        ))),
        _ => Ok(()),
    }
}

async fn applied(client: &Client) -> Result<Vec<u32>, Fault> {
    let query = client.query("SELECT DISTINCT version FROM migrations ORDER BY version");
    query.fetch_all::<u32>().await.map_err(|error| fault(error).fault)
}

async fn execute(client: &Client, sql: &str, what: &str) -> Result<(), Fault> {
    let Err(error) = client.query_raw(sql).execute().await else { return Ok(()) };
    let fault = fault(error).fault;
    Err(Fault { source: fault.source.context(format!("cannot create {what} in ClickHouse")), ..fault })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_view_reads_the_earlier_table_while_it_is_there() {
        assert!(conflicts(true).contains("FROM raw_1") && !conflicts(false).contains("raw_1"));
    }

    #[test]
    fn migrations_are_numbered_without_gaps_and_all_listed() {
        let versions: Vec<u32> = MIGRATIONS.iter().map(|migration| migration.version).collect();
        assert_eq!(versions, (1..=MIGRATIONS.len() as u32).collect::<Vec<_>>());
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/clickhouse/write/migrations");
        let mut files: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        let listed: Vec<String> =
            MIGRATIONS.iter().map(|migration| format!("{:04}_{}.sql", migration.version, migration.name)).collect();
        assert_eq!(files, listed);
    }
}
