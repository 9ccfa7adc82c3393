//! Fills both tables with rows of the last seven days, so that a case looks for rows among as many as a deployment has.
//!
//! A few thousand deliveries go through the product first. Then ClickHouse itself multiplies their rows, with ids, times
//! and hashes of their own. Bodies are left out, because 100 million of them are a terabyte. Nobody looks for a row by
//! its body, but a look-up reads by granules, which long bodies make short. So the rows of `raw` are written with as few
//! rows to a granule as real ones have.
//!
//! Rows that came over days have long been merged into few parts. Those that are written within minutes are merged for
//! as long again, beside whatever is measured. So the tables are merged before.

use std::ops::Range;
use std::time::Duration;

use anyhow::Context as _;
use clickhouse::Row;
use headrace_local::poll;
use headrace_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::backlog::{Backlog, Waiting};
use crate::bodies::Bodies;
use crate::cli::Common;
use crate::figures::round;
use crate::load::{Load, Pace, Plan};
use crate::servers::Product;
use crate::tables::{Packed, Tables};

/// How many deliveries go through the product, per second and for how many seconds.
const SAMPLE: (u32, u64) = (500, 8);
/// How long the sample may take until it is in both tables.
const SETTLED_WITHIN: Duration = Duration::from_secs(300);
/// How far the rows reach back.
const SPAN: Duration = Duration::from_secs(7 * 86_400);
/// How long ClickHouse may take to merge a table.
const MERGED_WITHIN: Duration = Duration::from_secs(3_600);
/// Rows that one statement makes.
const ROWS_AT_ONCE: u64 = 2_000_000;
/// A granule ends with this many rows, or with [`GRANULE_BYTES`].
const GRANULE_ROWS: u64 = 1_024;
const GRANULE_BYTES: u64 = 10_485_760;
/// 100 ns intervals between the UUID epoch (1582-10-15) and the Unix epoch.
const UUID_EPOCH_TICKS: u64 = 0x01B2_1DD2_1381_4000;

/// What the tables were filled with, and what it took.
#[derive(Debug, Serialize)]
pub(crate) struct Prefilled {
    rows: u64,
    /// The deliveries that the rows were made from.
    sample: u64,
    sample_s: f64,
    events_s: f64,
    raw_s: f64,
    merged_s: f64,
    events: Packed,
    raw: Packed,
}

/// A column that an insert names.
#[derive(Row, Deserialize)]
struct Column {
    name: String,
    default_kind: String,
}

/// Fills both tables with `rows` rows.
pub(crate) async fn prefill(
    rows: u64,
    product: &Product,
    tables: &Tables,
    backlog: &Backlog,
    common: &Common,
) -> anyhow::Result<Prefilled> {
    let began = Instant::now();
    let since = Timestamp::now();
    let sample = send_sample(product, backlog, common).await?;
    let sample_s = seconds(began);
    eprintln!("prefill: {sample} deliveries went through the product in {sample_s} s");
    let source = Multiplied { sample, since, rows };
    let began = Instant::now();
    source.write(tables, "events", "events").await?;
    let events_s = seconds(began);
    eprintln!("prefill: {rows} rows of events in {events_s} s");
    let began = Instant::now();
    let short = short_granules(tables).await?;
    source.write(tables, "raw", &short).await?;
    attach(tables, &short).await?;
    let raw_s = seconds(began);
    eprintln!("prefill: {rows} rows of raw in {raw_s} s");
    let began = Instant::now();
    for table in ["events", "raw"] {
        merge(tables, table).await?;
    }
    let merged_s = seconds(began);
    eprintln!("prefill: both tables are merged after {merged_s} s");
    let (events, raw) = (tables.packed("events").await?, tables.packed("raw").await?);
    Ok(Prefilled { rows, sample, sample_s, events_s, raw_s, merged_s, events, raw })
}

fn seconds(began: Instant) -> f64 {
    round(began.elapsed().as_secs_f64())
}

/// Sends the deliveries that the rows are made from. Returns how many there are.
async fn send_sample(product: &Product, backlog: &Backlog, common: &Common) -> anyhow::Result<u64> {
    // Other bodies than those of the load, from the same organizations.
    let bodies = Bodies::with_seed(&common.sending, !common.sending.seed)?;
    let (rate, window_s) = SAMPLE;
    let plan = Plan {
        warmup: Duration::ZERO,
        window: Duration::from_secs(window_s),
        ..Plan::new(product.address()?, &bodies, common, Pace::Rate(rate))
    };
    let outcome = Load::start(plan)?.finish().await?;
    anyhow::ensure!(outcome.loss().is_none(), "{}", outcome.loss().unwrap_or_default());
    let nothing_waits = async || backlog.waiting().await.ok().filter(|waiting| *waiting == Waiting::default());
    poll::until("the sample is in both tables", SETTLED_WITHIN, nothing_waits).await?;
    Ok(outcome.accepted)
}

/// The rows to write.
struct Multiplied {
    sample: u64,
    /// When the first of the sample was sent.
    since: Timestamp,
    rows: u64,
}

impl Multiplied {
    /// Writes the rows of `table`, multiplied, into `target`.
    async fn write(&self, tables: &Tables, table: &str, target: &str) -> anyhow::Result<()> {
        let columns = format!(
            "SELECT name, default_kind FROM system.columns WHERE database = 'headrace' AND table = '{table}' \
             ORDER BY position"
        );
        let columns = tables.rows::<Column>(&columns).await?;
        anyhow::ensure!(!columns.is_empty(), "the table {table} has no columns");
        let copies = self.rows.div_ceil(self.sample.max(1));
        let at_once = (ROWS_AT_ONCE / self.sample.max(1)).max(1);
        for first in (0..copies).step_by(at_once as usize) {
            tables.execute(&self.statement(&columns, table, target, first..copies.min(first + at_once))).await?;
        }
        Ok(())
    }

    /// The statement that writes these copies of the sample.
    fn statement(&self, columns: &[Column], table: &str, target: &str, copies: Range<u64>) -> String {
        let chosen = columns.iter().filter_map(|column| Some((column.name.as_str(), value(column)?)));
        let (names, values): (Vec<String>, Vec<String>) =
            chosen.map(|(name, value)| (format!("`{name}`"), value)).unzip();
        let span = u64::try_from(SPAN.as_micros()).unwrap_or(u64::MAX);
        let (step, sample, rows) = ((span / self.rows).max(1), self.sample, self.rows);
        let since = self.since.as_micros();
        // The last row is older than the sample.
        let oldest = since.saturating_sub_unsigned(step * rows);
        // The numbers stand on the left: ClickHouse then repeats the sample block by block, 20 times as fast as row by row.
        format!(
            "INSERT INTO {target} ({names}) \
             WITH copies.number * {sample} + t.place AS n, \
             toInt64({oldest} + n * {step}) AS at, \
             toUInt64(at) * 10 + {UUID_EPOCH_TICKS} AS ticks, \
             concat(leftPad(lower(hex(toUInt32(bitAnd(ticks, 4294967295)))), 8, '0'), '-', \
             leftPad(lower(hex(toUInt16(bitAnd(bitShiftRight(ticks, 32), 65535)))), 4, '0'), '-1', \
             substring(leftPad(lower(hex(toUInt16(bitAnd(bitShiftRight(ticks, 48), 4095)))), 4, '0'), 2), '-9234-05', \
             leftPad(lower(hex(n)), 10, '0')) AS guid \
             SELECT {values} FROM numbers({first}, {count}) AS copies \
             CROSS JOIN (SELECT *, toUInt64(row_number() OVER (ORDER BY id) - 1) AS place FROM {table} \
             WHERE received_at >= fromUnixTimestamp64Micro({since})) AS t \
             WHERE n < {rows} SETTINGS insert_deduplicate = 0",
            names = names.join(", "),
            values = values.join(", "),
            first = copies.start,
            count = copies.end - copies.start,
        )
    }
}

/// What stands in a column of a new row. `None` if ClickHouse finds it by itself.
fn value(Column { name, default_kind }: &Column) -> Option<String> {
    let value = match name.as_str() {
        "id" => "concat('github:', guid)",
        "received_at" => "fromUnixTimestamp64Micro(at, 'UTC')",
        "stored_at" => "fromUnixTimestamp64Micro(at + 250000, 'UTC')",
        "inserted_at" => "fromUnixTimestamp64Micro(at + 500000, 'UTC')",
        "occurred_at" => "fromUnixTimestamp64Micro(at - 1000000, 'UTC')",
        "sequence" | "raw_sequence" => "n + 1",
        "sha256" | "raw_sha256" => "lower(hex(SHA256(toString(n))))",
        "headers" => "mapApply((name, value) -> (name, if(value = substring(t.id, 8), guid, value)), t.headers)",
        "body" => "''",
        _ if default_kind.is_empty() => return Some(format!("t.`{name}`")),
        _ => return None,
    };
    Some(value.to_owned())
}

/// Makes a table like `raw` whose granules have as many rows as those of real bodies. Returns its name.
async fn short_granules(tables: &Tables) -> anyhow::Result<String> {
    let mean: Vec<f64> = tables.rows("SELECT avg(byteSize(*)) FROM raw").await?;
    let rows = GRANULE_BYTES / (mean.first().copied().unwrap_or(1.0) as u64).max(1);
    let made: Vec<String> = tables
        .rows("SELECT create_table_query FROM system.tables WHERE database = 'headrace' AND name = 'raw'")
        .await?;
    let made = made.first().context("there is no table raw")?;
    tables.execute(&with_granules(made, rows.clamp(1, GRANULE_ROWS))?).await?;
    Ok("prefilled".to_owned())
}

/// The statement that makes the table `prefilled` with `rows` rows to a granule, out of the one that made `raw`.
fn with_granules(made: &str, rows: u64) -> anyhow::Result<String> {
    let named = made.replacen("headrace.raw", "headrace.prefilled", 1);
    let (before, after) = named.split_once(" SETTINGS ").context("expected a table with settings")?;
    // The engine always writes this one.
    let after = after.replace(&format!("index_granularity = {GRANULE_ROWS}"), &format!("index_granularity = {rows}"));
    anyhow::ensure!(after.contains(&format!("index_granularity = {rows}")), "expected index_granularity in {made}");
    Ok(format!("{before} SETTINGS {after}"))
}

/// Moves all rows of `from` into `raw`.
async fn attach(tables: &Tables, from: &str) -> anyhow::Result<()> {
    let partitions = format!(
        "SELECT DISTINCT partition_id FROM system.parts WHERE active AND database = 'headrace' AND table = '{from}'"
    );
    for partition in tables.rows::<String>(&partitions).await? {
        tables.execute(&format!("ALTER TABLE raw ATTACH PARTITION ID '{partition}' FROM {from}")).await?;
    }
    tables.execute(&format!("DROP TABLE {from} SYNC")).await
}

/// Merges each partition of `table` into one part.
async fn merge(tables: &Tables, table: &str) -> anyhow::Result<()> {
    let parts = format!(
        "SELECT count() FROM system.parts WHERE active AND database = 'headrace' AND table = '{table}' GROUP BY partition_id"
    );
    let is_merged = async || {
        // It does nothing while ClickHouse merges some of the parts by itself.
        tables.execute(&format!("OPTIMIZE TABLE {table} FINAL SETTINGS optimize_skip_merged_partitions = 1")).await?;
        anyhow::Ok(tables.rows::<u64>(&parts).await?.into_iter().all(|parts| parts == 1).then_some(()))
    };
    poll::until(&format!("{table} is merged"), MERGED_WITHIN, async || is_merged().await.transpose()).await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn granules_get_shorter_and_nothing_else_changes() {
        let made = "CREATE TABLE headrace.raw (`id` String) ENGINE = MergeTree ORDER BY id \
                    SETTINGS index_granularity_bytes = 10485760, index_granularity = 1024 COMMENT 'x'";
        let wanted = "CREATE TABLE headrace.prefilled (`id` String) ENGINE = MergeTree ORDER BY id \
                      SETTINGS index_granularity_bytes = 10485760, index_granularity = 700 COMMENT 'x'";
        assert_eq!(with_granules(made, 700).unwrap(), wanted);
        assert!(with_granules("CREATE TABLE headrace.raw (`id` String) ENGINE = Memory", 1).is_err());
    }

    #[test]
    fn a_column_that_clickhouse_finds_by_itself_is_left_to_it() {
        let value = |name: &str, kind: &str| value(&Column { name: name.to_owned(), default_kind: kind.to_owned() });
        assert_eq!(value("tenant", ""), Some("t.`tenant`".to_owned()));
        assert_eq!(value("held_until", "EPHEMERAL"), None);
        assert_eq!(value("of_the_future", "DEFAULT"), None);
        assert!(value("sha256", "DEFAULT").is_some());
    }
}
