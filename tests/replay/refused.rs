//! Replays that are refused. The error says what RAW still holds.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::time::Duration;

use headrace_runtime::broker::{Broker, Stream};
use headrace_runtime::config;
use headrace_runtime::state::StateStore;
use headrace_runtime::state::lease::Lease;
use headrace_tests::harness::streams;
use headrace_tests::product::process::{command, complained};
use rustix::process::geteuid;
use serde_json::json;
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

#[tokio::test]
async fn root_comes_upon_no_servers_and_files_of_another_account() {
    // Only root can give something away.
    if !geteuid().is_root() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("headrace-data");
    std::fs::create_dir(&data).unwrap();
    set_permissions(&data, Permissions::from_mode(0o700)).unwrap();
    let nobody = Some(65_534);
    let servers = json!({
        "HEADRACE__NATS__URL": "nats://127.0.0.1:1",
        "HEADRACE__SINKS__CLICKHOUSE__URL": "http://127.0.0.1:1",
    });
    let last_up = json!({ "directory": dir.path(), "file": null, "environment": servers });
    let ready = json!({
        "gateway": "http://127.0.0.1:1",
        "nats": "nats://127.0.0.1:1",
        "clickhouse": "http://127.0.0.1:1",
        "metrics": "http://127.0.0.1:1",
        "webhook_secret": "theirs",
        "pids": {},
    });
    for (name, content) in [("last-up.json", last_up), ("ready.json", ready)] {
        std::fs::write(data.join(name), content.to_string()).unwrap();
        set_permissions(data.join(name), Permissions::from_mode(0o600)).unwrap();
        chown(data.join(name), nobody, None).unwrap();
    }
    std::fs::write(dir.path().join("body.json"), "{}").unwrap();
    let here = async |arguments: &str| {
        let directory = ["-C", dir.path().to_str().unwrap(), PROGRAM];
        command("/usr/bin/env", directory.into_iter().chain(arguments.split(' '))).await
    };
    // First the files alone are another's, then the directory too.
    for owner in [None, nobody] {
        chown(&data, owner, None).unwrap();
        for arguments in ["replay --since 1h", "query 1", "gaps", "dead list", "send body.json --event push"] {
            let refused = here(arguments).await;
            assert_eq!(refused.status.code(), Some(1), "{arguments}: {refused:?}");
            let why = complained(&refused);
            assert!(why.contains("user id 65534") && why.contains("--data-dir"), "{arguments}: {why}");
        }
    }
    let named = complained(&here("replay --since 1h --data-dir headrace-data").await);
    assert!(named.contains("using the configuration of the last `headrace up` here"), "root may name it: {named}");
    set_permissions(data.join("last-up.json"), Permissions::from_mode(0o620)).unwrap();
    let open = complained(&here("replay --since 1h --data-dir headrace-data").await);
    assert!(open.contains("last-up.json to be writable by its owner alone"), "{open}");
}
