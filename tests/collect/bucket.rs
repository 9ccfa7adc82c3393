//! A bucket, of the strict stand-in, from lines to rows.

use std::fs;
use std::ops::Range;
use std::path::Path;

use headrace_local::poll;
use headrace_runtime::crash::{Point, VARIABLE};
use headrace_tests::harness::{CEILING, Nats};
use headrace_tests::product::process::{Launch, command, said};
use headrace_tests::product::stored::Stored;
use headrace_tests::standin::s3::{ACCESS_KEY_ID, BUCKET, REGION, S3, SECRET_ACCESS_KEY, packed};
use headrace_tests::standin::server::{Failure, When, Which};
use serde_json::Value;
use tempfile::TempDir;

use super::crash::{configure, counted, stored};
use super::{PROGRAM, record};

/// Settings by which the bucket is read. Everything is listed each time.
fn settings(s3: &S3) -> String {
    format!(
        "collect.lease_s = 1\n\
         [ingest.ndjson.folder]\nurl = 's3://{BUCKET}/audit'\ninterval_s = 1\n\
         [ingest.ndjson.folder.bucket]\nendpoint = '{}'\nregion = '{REGION}'\naccess_key_id = '{ACCESS_KEY_ID}'\n\
         secret_access_key = '{SECRET_ACCESS_KEY}'\nfull_listing_s = 1\n",
        s3.url()
    )
}

fn lines(numbers: Range<usize>) -> String {
    numbers.map(record).collect()
}

#[tokio::test]
async fn a_process_that_dies_while_it_reads_a_bucket_loses_and_doubles_nothing() {
    let (dir, nats, s3) = (TempDir::new().unwrap(), Nats::start().await, S3::start().await);
    let config = configure(dir.path(), &nats, &settings(&s3));
    let launch = |name: &str| {
        let own = dir.path().join(name);
        fs::create_dir_all(&own).unwrap();
        Launch::run(PROGRAM, "collect", &config, &own)
    };
    let mut count = 0;
    for (round, (point, passing)) in
        [(Point::BeforeCursor, 1), (Point::AfterCursor, 2), (Point::AfterStoreAck, 1_300)].into_iter().enumerate()
    {
        // A plain one that takes two pages, and a packed one under an earlier name.
        let (plain, next) = (lines(count..count + 1_200), count + 1_500);
        s3.bucket().put(&format!("audit/{}/b.ndjson", 9 - round), plain);
        s3.bucket().put(&format!("audit/{}/a.json.gz", 9 - round), packed(&lines(count + 1_200..next)));
        count = next;
        let (code, log) = launch("crashing").set(VARIABLE, format!("{}:{passing}", point.name())).refused().await;
        assert_eq!(code, None, "{point:?}: {log}");
        let process = launch("whole").start().await;
        counted(&nats, count).await;
        process.stop().await;
    }
    stored(&nats, count).await;
}

#[tokio::test]
async fn what_is_in_a_bucket_becomes_rows_each_once() {
    let (dir, s3) = (TempDir::new().unwrap(), S3::start().await);
    let config = dir.path().join("headrace.toml");
    let text = format!("nats.clock_skew_ms = 100\nsinks.clickhouse.linger_ms = 50\n{}", settings(&s3));
    fs::write(&config, text).unwrap();
    s3.bucket().put("audit/2026/01/31/a.json.gz", packed(&lines(0..30)));
    let first = lines(30..50);
    s3.bucket().put("audit/2026/02/01/b.ndjson", first.clone());
    s3.bucket().put("other/c.ndjson", lines(900..901));
    s3.fail_next(2, Failure::Status(503), When::Before, Which::Deliveries);
    let up = Launch::up(PROGRAM, dir.path()).argument("--config").argument(&config).start().await;
    let rows = Stored::of(up.ready()).await;
    let until = async |count: usize| rows.until_count("SELECT uniqExact(id) FROM events", count as u64).await;
    until(50).await;
    assert_eq!(s3.failures_left(), 0);
    // One that comes late, under an earlier name; one that is replaced; one that may not be read, and then may.
    s3.bucket().put("audit/2026/01/01/late.ndjson", lines(50..60));
    s3.bucket().put("audit/2026/02/01/b.ndjson", first + &lines(60..65));
    until(65).await;
    s3.bucket().denied.insert("audit/2026/02/02/c.ndjson".to_owned());
    s3.bucket().put("audit/2026/02/02/c.ndjson", lines(65..66));
    s3.bucket().put("audit/2026/02/02/d.ndjson", lines(66..70));
    until(69).await;
    let why = poll::until("it is told", CEILING, async || status(&config, dir.path()).await).await.unwrap();
    assert!(why.contains("audit/2026/02/02/c.ndjson") && why.contains("AccessDenied"), "{why}");
    rows.settled().await;
    for table in ["events", "raw"] {
        let doubled: Vec<(u64,)> = rows.rows(&format!("SELECT count() - uniqExact(id) FROM {table}")).await;
        assert_eq!(doubled, [(0,)], "{table}");
    }
    up.stop().await;
}

/// Why the source is broken, if it is.
async fn status(config: &Path, dir: &Path) -> Option<String> {
    let data = dir.join("data");
    let place = ["--config".as_ref(), config.as_os_str(), "--data-dir".as_ref(), data.as_os_str()];
    let words = ["sources", "list", "--json"];
    let output = command(PROGRAM, words.iter().map(|word| word.as_ref()).chain(place)).await;
    let rows = said(&output);
    let rows = rows.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let row = rows.into_iter().find(|row| row["name"] == "folder" && row["state"] == "broken")?;
    Some(row["why"].as_str().unwrap_or_default().to_owned())
}
