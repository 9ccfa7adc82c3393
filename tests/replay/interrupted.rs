//! A replay is killed at a named moment as by `kill -9`. The same command again leaves the right rows: none is lost,
//! none is there twice.

use super::{ASSETS, Testbed};

/// Deliveries, in five batches.
const COUNT: usize = 44;

#[tokio::test]
async fn a_replay_that_was_killed_before_a_batch_is_finished_by_the_same_command() {
    replaces_every_row_though_killed_at(&["before_replace:2"]).await;
}

#[tokio::test]
async fn a_replay_that_was_killed_before_a_removal_is_finished_by_the_same_command() {
    replaces_every_row_though_killed_at(&["before_removal:3"]).await;
}

#[tokio::test]
async fn a_replay_that_was_killed_twice_beside_its_progress_is_finished_by_the_same_command() {
    // The second process has noted everything.
    replaces_every_row_though_killed_at(&["before_progress:2", "after_progress:4"]).await;
}

async fn replaces_every_row_though_killed_at(points: &[&str]) {
    let testbed = Testbed::start().await;
    testbed.publicize("acme", COUNT).await;
    let ids = testbed.dump("id, received_at", "events").await;
    // Each of the five batches removes rows from `events` once, and none from `raw`.
    for point in points {
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
async fn a_rebuild_that_was_killed_before_a_removal_is_finished_by_the_same_command() {
    fills_empty_tables_though_killed_at(&["before_removal:4"]).await;
}

#[tokio::test]
async fn a_rebuild_that_was_killed_before_its_proof_is_finished_by_the_same_command() {
    // Nothing is noted before it is proven, so the next process begins with the first batch again.
    fills_empty_tables_though_killed_at(&["after_progress:5"]).await;
}

#[tokio::test]
async fn a_rebuild_that_was_killed_before_its_progress_is_finished_by_the_same_command() {
    fills_empty_tables_though_killed_at(&["before_progress:3"]).await;
}

async fn fills_empty_tables_though_killed_at(points: &[&str]) {
    let testbed = Testbed::start().await;
    testbed.publicize("acme", COUNT).await;
    let before = testbed.dumps().await;
    testbed.execute("TRUNCATE TABLE events").await;
    testbed.execute("TRUNCATE TABLE raw").await;
    for point in points {
        let killed = testbed.replay_until(point, "", "--since 1h").await;
        assert_eq!(killed.code, None, "{point}: {killed:?}");
    }
    let done = testbed.replay("", "--since 1h").await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(testbed.dumps().await == before, "the rows differ: {:?}", testbed.counts("events").await);
    testbed.up.stop().await;
}

#[tokio::test]
async fn a_side_table_that_was_killed_twice_is_finished_by_the_same_command() {
    fills_a_side_table_though_killed_at(&["before_removal:2", "before_progress:1"]).await;
}

#[tokio::test]
async fn a_side_table_that_was_killed_after_its_progress_is_finished_by_the_same_command() {
    fills_a_side_table_though_killed_at(&["after_progress:2"]).await;
}

async fn fills_a_side_table_though_killed_at(points: &[&str]) {
    let testbed = Testbed::start().await;
    testbed.publicize("acme", COUNT).await;
    for point in points {
        let killed = testbed.replay_until(point, "", "--since 1h --into tried").await;
        assert_eq!(killed.code, None, "{point}: {killed:?}");
    }
    let done = testbed.replay("", "--since 1h --into tried").await;
    done.says(&format!("{COUNT} deliveries replayed into tried"));
    assert_eq!(testbed.dump(super::COLUMNS, "tried").await, testbed.dump(super::COLUMNS, "events").await);
    testbed.up.stop().await;
}
