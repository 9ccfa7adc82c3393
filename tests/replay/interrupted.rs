//! `kill -9` at any moment, then the same command again: right rows, none lost, none twice.

use crate::{ASSETS, Testbed};

const COUNT: usize = 220;

#[tokio::test]
async fn a_killed_replay_is_finished_by_the_same_command() {
    let testbed = Testbed::start().await;
    testbed.publicize("acme", COUNT).await;
    let ids = testbed.dump("id, received_at", "events").await;
    // Of five batches; each is a removal from `events` and none from `raw`.
    for point in ["before_replace:2", "before_removal:3", "before_progress:2", "after_progress:1"] {
        let killed = testbed.replay_until(point, ASSETS, "--since 1h").await;
        assert_eq!(killed.code, None, "{point}: {killed:?}");
        assert_eq!(testbed.counts("events").await.1, COUNT as u64, "{point}: an event is never absent");
    }
    let done = testbed.replay(ASSETS, "--since 1h").await;
    done.says(&format!("{COUNT} deliveries replayed into events, 0 bodies added to raw"));
    assert!(done.complained.contains("that was interrupted after"), "{}", done.complained);
    assert_eq!(testbed.dump("id, received_at", "events").await, ids);
    assert_eq!(testbed.value("SELECT countIf(asset_owner = 'payments') FROM events").await, COUNT as u64);
    assert_eq!(testbed.counts("raw").await, (COUNT as u64, COUNT as u64));
    testbed.up.stop().await;
}

#[tokio::test]
async fn a_killed_rebuild_is_finished_by_the_same_command() {
    let testbed = Testbed::start().await;
    testbed.publicize("acme", COUNT).await;
    let before = testbed.dumps().await;
    testbed.execute("TRUNCATE TABLE events").await;
    testbed.execute("TRUNCATE TABLE raw").await;
    for point in ["before_removal:4", "before_progress:3", "after_progress:5"] {
        let killed = testbed.replay_until(point, "", "--since 1h").await;
        assert_eq!(killed.code, None, "{point}: {killed:?}");
    }
    let done = testbed.replay("", "--since 1h").await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(testbed.dumps().await == before, "the rows differ: {:?}", testbed.counts("events").await);
    testbed.up.stop().await;
}

#[tokio::test]
async fn a_killed_side_table_is_finished_by_the_same_command() {
    let testbed = Testbed::start().await;
    testbed.publicize("acme", COUNT).await;
    for point in ["before_removal:2", "before_progress:1", "after_progress:2"] {
        let killed = testbed.replay_until(point, "", "--since 1h --into tried").await;
        assert_eq!(killed.code, None, "{point}: {killed:?}");
    }
    let done = testbed.replay("", "--since 1h --into tried").await;
    done.says(&format!("{COUNT} deliveries replayed into tried"));
    assert_eq!(testbed.dump(crate::COLUMNS, "tried").await, testbed.dump(crate::COLUMNS, "events").await);
    testbed.up.stop().await;
}
