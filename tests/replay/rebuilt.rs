//! A replay fills an empty ClickHouse again from RAW, with the same rows.

use headrace_tests::examples::{self, BODIES, Example, KINDS};
use headrace_tests::product::hook::guid;
use serde_json::{Map, Value};

use super::{CLICKHOUSE, Testbed};

/// Makes several batches of one event of each kind, so that progress is noted between them.
const SMALL_BATCH: usize = 20;
/// More than fits into a message.
const LARGE_BYTES: usize = 9 << 20;

#[tokio::test]
async fn truncated_tables_get_the_same_rows_again() {
    // Larger batches than elsewhere: here the number of bodies matters, and each batch costs time.
    let filled = Filled::with(examples::all().await, 100).await;
    for table in ["events", "raw"] {
        filled.testbed.execute(&format!("TRUNCATE TABLE {table}")).await;
    }
    let all = BODIES as u64 + 1;
    filled.ends_complete(all, all).await;
}

#[tokio::test]
async fn dropped_tables_get_the_same_rows_again() {
    let filled = Filled::with(one_of_each_kind().await, SMALL_BATCH).await;
    for table in ["events", "raw"] {
        filled.testbed.execute(&format!("DROP TABLE {table} SYNC")).await;
    }
    let all = KINDS as u64 + 1;
    filled.ends_complete(all, all).await;
}

#[tokio::test]
async fn missing_rows_are_added_and_the_others_replaced() {
    let filled = Filled::with(one_of_each_kind().await, SMALL_BATCH).await;
    filled.testbed.execute("DELETE FROM events WHERE cityHash64(id) % 3 = 0").await;
    filled.testbed.execute("DELETE FROM raw WHERE cityHash64(id) % 3 = 1").await;
    let all = KINDS as u64 + 1;
    let (left, _) = filled.testbed.counts("raw").await;
    assert!(left < all);
    filled.ends_complete(all, all - left).await;
}

async fn one_of_each_kind() -> Vec<Example> {
    let mut examples = examples::all().await;
    examples.dedup_by(|one, other| one.kind == other.kind);
    examples
}

/// An `up` whose tables are filled, and what it held then.
struct Filled {
    testbed: Testbed,
    rows: [Vec<Map<String, Value>>; 2],
    published: Vec<u64>,
}

impl Filled {
    /// Fills the tables with these bodies, and with a large one besides. No batch, of a sink or of the replay, has more
    /// than `batch_max` events.
    async fn with(examples: Vec<Example>, batch_max: usize) -> Self {
        let settings = CLICKHOUSE.replace("batch_events_max = 10", &format!("batch_events_max = {batch_max}"));
        let testbed = Testbed::with_settings(&settings).await;
        let large = format!(r#"{{"sender":{{"login":"hubot"}},"x":"{}"}}"#, "x".repeat(LARGE_BYTES));
        testbed.hook.store("push", &guid(), large).await;
        let examples: Vec<(String, Example)> = examples.into_iter().map(|example| (guid(), example)).collect();
        let deliveries =
            examples.iter().map(|(guid, Example { kind, body })| (kind.as_str(), guid.as_str(), body.clone()));
        testbed.hook.store_all(deliveries).await;
        testbed.stored.settled().await;
        let (rows, published) = (testbed.dumps().await, testbed.published().await);
        assert_eq!(rows.each_ref().map(Vec::len), [examples.len() + 1; 2]);
        Self { testbed, rows, published }
    }

    /// Replays `count` deliveries, of which `added` bodies are missing. Then all rows must be as they were.
    async fn ends_complete(self, count: u64, added: u64) {
        let Self { testbed, rows, published } = self;
        let done = testbed.replay("", "--since 1h").await;
        done.says(&format!("{count} deliveries replayed into events, {added} bodies added to raw"));
        assert!(testbed.dumps().await == rows, "the rows differ: {:?}", testbed.counts("events").await);
        assert_eq!(testbed.published().await, published);
        testbed.up.stop().await;
    }
}
