//! An empty ClickHouse is filled again from RAW, with the same rows.

use headrace_tests::examples::{self, BODIES};
use headrace_tests::product::hook::guid;

use super::Testbed;

/// More than fits into a message.
const LARGE_BYTES: usize = 9 << 20;

#[tokio::test]
async fn lost_tables_are_filled_with_the_same_rows() {
    let testbed = Testbed::start().await;
    for example in examples::all().await {
        testbed.hook.store(&example.kind, &guid(), example.body).await;
    }
    let large = format!(r#"{{"sender":{{"login":"hubot"}},"x":"{}"}}"#, "x".repeat(LARGE_BYTES));
    testbed.hook.store("push", &guid(), large).await;
    testbed.stored.settled().await;
    let (before, published) = (testbed.dumps().await, testbed.published().await);
    let count = BODIES as u64 + 1;
    assert_eq!(before.each_ref().map(Vec::len), [BODIES + 1; 2]);

    let told = format!("{count} deliveries replayed into events, {count} bodies added to raw");
    for table in ["events", "raw"] {
        testbed.execute(&format!("TRUNCATE TABLE {table}")).await;
    }
    testbed.replay("", "--since 1h").await.says(&told);
    assert!(testbed.dumps().await == before, "the rows differ after TRUNCATE");
    for table in ["events", "raw"] {
        testbed.execute(&format!("DROP TABLE {table} SYNC")).await;
    }
    testbed.replay("", "--since 1h").await.says(&told);
    assert!(testbed.dumps().await == before, "the rows differ after DROP");

    // Some are missing: those are added, the others replaced.
    testbed.execute("DELETE FROM events WHERE cityHash64(id) % 3 = 0").await;
    testbed.execute("DELETE FROM raw WHERE cityHash64(id) % 3 = 1").await;
    let (left, _) = testbed.counts("raw").await;
    assert!(left < count);
    let told = format!("{count} deliveries replayed into events, {} bodies added to raw", count - left);
    testbed.replay("", "--since 1h").await.says(&told);
    assert!(testbed.dumps().await == before, "the rows differ after some were lost");
    assert_eq!(testbed.published().await, published);
    testbed.up.stop().await;
}
