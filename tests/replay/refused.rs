//! Replays that are refused. The error says what RAW still holds.

use std::time::Duration;

use headrace_runtime::broker::{Broker, Stream};
use headrace_runtime::config;
use headrace_runtime::state::StateStore;
use headrace_runtime::state::lease::Lease;
use headrace_tests::harness::streams;
use headrace_tests::product::process::{command, complained};
use tempfile::TempDir;

use super::{PROGRAM, Testbed};

#[tokio::test]
async fn impossible_windows_and_tables_are_refused() {
    let testbed = Testbed::start().await;
    testbed.replay("", "--since 1h").await.complains(1, "RAW holds no delivery");
    testbed.publicize("acme", 3).await;
    let before = testbed.dump("*", "events").await;
    for (arguments, code, text) in [
        ("--since soon", 2, "expected a time"),
        ("--since 1h --until 2h", 2, "expected --since before --until, found "),
        // The options' earlier names.
        ("--from 1h --to 2h", 2, "expected --since before --until, found "),
        ("--since 2999-01-01T00:00:00Z", 2, "expected --since before --until, found 2999-"),
        ("--since 1h --into events", 2, "expected a table of its own"),
        ("--since 1h --into migrations", 2, "expected a table of its own"),
        ("--since 1h --into a.b", 2, "expected up to 64 letters, digits and `_`"),
        ("--tenant acme", 2, "--since <TIME>"),
        ("--since 2020-01-01T00:00:00Z --until 2020-01-02T00:00:00Z", 1, "its oldest delivery was stored at 20"),
    ] {
        testbed.replay("", arguments).await.complains(code, text);
    }
    assert_eq!(testbed.dump("*", "events").await, before);
    testbed.execute("CREATE TABLE mine (id String) ENGINE = MergeTree ORDER BY id COMMENT 'not yours'").await;
    testbed.replay("", "--since 1h --into mine").await.complains(1, "found one with the comment `not yours`");
    assert_eq!(testbed.counts("mine").await, (0, 0));

    let done = testbed.replay("", "--since 1h --until 2999-01-01T00:00:00Z").await;
    done.says("3 deliveries replayed into events, 0 bodies added to raw");
    assert!(done.complained.contains("is in the future; up to now is replayed"), "{}", done.complained);
    assert_eq!(testbed.stored.count(Stream::Raw).await, 3);
    testbed.up.stop().await;
}

#[tokio::test]
async fn one_replay_runs_at_a_time() {
    let testbed = Testbed::start().await;
    testbed.publicize("acme", 3).await;
    let before = testbed.dump("*", "events").await;
    let nats = config::Nats { url: testbed.up.ready().nats.clone().unwrap(), ..config::Nats::default() };
    let broker = Broker::connect(&nats, &streams(), "test").await.unwrap();
    let store = StateStore::open(&broker).await.unwrap();
    // Longer than the replay's own lease. The replay must wait for as long as this holder counts on its lease.
    let mut lease = Lease::new(store, "lease.replay", "another", Duration::from_secs(4));
    assert!(lease.claim().await.unwrap());
    let refused = tokio::select! {
        refused = testbed.replay("", "--since 1h") => refused,
        () = lease.keep() => panic!("the lease was taken from its holder"),
    };
    refused.complains(1, "another replay is running; wait for its end, or stop it");
    assert_eq!(testbed.dump("*", "events").await, before);
    testbed.up.stop().await;
}

#[tokio::test]
async fn servers_must_be_named() {
    let dir = TempDir::new().unwrap();
    let arguments = ["replay", "--defaults", "--since", "1h", "--data-dir", dir.path().to_str().unwrap()];
    let refused = command(PROGRAM, arguments).await;
    assert_eq!(refused.status.code(), Some(4), "nobody answers: {refused:?}");
    assert!(complained(&refused).contains("expected the addresses of NATS and ClickHouse"), "{refused:?}");
}
