//! An empty ClickHouse is filled again from RAW, with the same rows.

use headrace_tests::examples::{self, BODIES};
use headrace_tests::product::hook::guid;

use crate::Site;

/// More than fits into a message.
const LARGE_BYTES: usize = 9 << 20;

#[tokio::test]
async fn lost_tables_are_filled_with_the_same_rows() {
    let site = Site::start().await;
    for example in examples::all().await {
        site.hook.store(&example.kind, &guid(), example.body).await;
    }
    let large = format!(r#"{{"sender":{{"login":"hubot"}},"x":"{}"}}"#, "x".repeat(LARGE_BYTES));
    site.hook.store("push", &guid(), large).await;
    site.stored.settled().await;
    let (before, published) = (site.dumps().await, site.published().await);
    let count = BODIES as u64 + 1;
    assert_eq!(before.each_ref().map(Vec::len), [BODIES + 1; 2]);

    let told = format!("{count} deliveries replayed into events, {count} bodies added to raw");
    for table in ["events", "raw"] {
        site.execute(&format!("TRUNCATE TABLE {table}")).await;
    }
    site.replay("", "--from 1h").await.says(&told);
    assert!(site.dumps().await == before, "the rows differ after TRUNCATE");
    for table in ["events", "raw"] {
        site.execute(&format!("DROP TABLE {table} SYNC")).await;
    }
    site.replay("", "--from 1h").await.says(&told);
    assert!(site.dumps().await == before, "the rows differ after DROP");

    // Some are missing: those are added, the others replaced.
    site.execute("DELETE FROM events WHERE cityHash64(id) % 3 = 0").await;
    site.execute("DELETE FROM raw WHERE cityHash64(id) % 3 = 1").await;
    let (left, _) = site.counts("raw").await;
    assert!(left < count);
    let told = format!("{count} deliveries replayed into events, {} bodies added to raw", count - left);
    site.replay("", "--from 1h").await.says(&told);
    assert!(site.dumps().await == before, "the rows differ after some were lost");
    assert_eq!(site.published().await, published);
    site.up.stop().await;
}
