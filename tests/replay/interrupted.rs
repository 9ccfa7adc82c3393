//! `kill -9` at any moment, then the same command again: right rows, none lost, none twice.

use crate::{ASSETS, Site};

const COUNT: usize = 220;

#[tokio::test]
async fn a_killed_replay_is_finished_by_the_same_command() {
    let site = Site::start().await;
    site.publicize("acme", COUNT).await;
    let ids = site.dump("id, received_at", "events").await;
    // Of five batches; each is a removal from `events` and none from `raw`.
    for point in ["before_replace:2", "before_removal:3", "before_progress:2", "after_progress:1"] {
        let killed = site.replay_until(point, ASSETS, "--from 1h").await;
        assert_eq!(killed.code, None, "{point}: {killed:?}");
        assert_eq!(site.counts("events").await.1, COUNT as u64, "{point}: an event is never absent");
    }
    let done = site.replay(ASSETS, "--from 1h").await;
    done.says(&format!("{COUNT} deliveries replayed into events, 0 bodies added to raw"));
    assert!(done.complained.contains("that was interrupted after"), "{}", done.complained);
    assert_eq!(site.dump("id, received_at", "events").await, ids);
    assert_eq!(site.value("SELECT countIf(asset_owner = 'payments') FROM events").await, COUNT as u64);
    assert_eq!(site.counts("raw").await, (COUNT as u64, COUNT as u64));
    site.up.stop().await;
}

#[tokio::test]
async fn a_killed_rebuild_is_finished_by_the_same_command() {
    let site = Site::start().await;
    site.publicize("acme", COUNT).await;
    let before = site.dumps().await;
    site.execute("TRUNCATE TABLE events").await;
    site.execute("TRUNCATE TABLE raw").await;
    for point in ["before_removal:4", "before_progress:3", "after_progress:5"] {
        let killed = site.replay_until(point, "", "--from 1h").await;
        assert_eq!(killed.code, None, "{point}: {killed:?}");
    }
    let done = site.replay("", "--from 1h").await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(site.dumps().await == before, "the rows differ: {:?}", site.counts("events").await);
    site.up.stop().await;
}

#[tokio::test]
async fn a_killed_side_table_is_finished_by_the_same_command() {
    let site = Site::start().await;
    site.publicize("acme", COUNT).await;
    for point in ["before_removal:2", "before_progress:1", "after_progress:2"] {
        let killed = site.replay_until(point, "", "--from 1h --into tried").await;
        assert_eq!(killed.code, None, "{point}: {killed:?}");
    }
    let done = site.replay("", "--from 1h --into tried").await;
    done.says(&format!("{COUNT} deliveries replayed into tried"));
    assert_eq!(site.dump(crate::COLUMNS, "tried").await, site.dump(crate::COLUMNS, "events").await);
    site.up.stop().await;
}
