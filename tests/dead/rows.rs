//! An event has one row, however often its dead letter is redriven.

use std::path::Path;
use std::time::Duration;

use headrace_runtime::broker::Stream;
use headrace_runtime::message::payload::{Outgoing, RawDelivery};
use headrace_schemas::header;
use headrace_schemas::id::EventId;
use headrace_schemas::time::Timestamp;
use headrace_tests::harness::samples::Sample as _;
use headrace_tests::product::hook::{Hook, guid};
use headrace_tests::product::process::{Launch, command, complained};
use headrace_tests::product::stored::Stored;
use tempfile::TempDir;

use super::{PROGRAM, bury, dead};

/// More than fits into a message.
const LARGE_BYTES: usize = 9 << 20;

#[tokio::test]
async fn a_redriven_dead_letter_makes_no_second_row() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("headrace-data");
    let up = Launch::up(PROGRAM, dir.path()).replace("--data-dir", &data).start().await;
    let (hook, stored) = (Hook::of(up.ready()), Stored::of(up.ready()).await);
    let place = ["--data-dir", data.to_str().unwrap()];
    let body = |login: &str| {
        format!(r#"{{"action":"publicized","repository":{{"full_name":"acme/app"}},"sender":{{"login":"{login}"}}}}"#)
    };

    let (small, large) = (guid(), guid());
    hook.store("repository", &small, body("mona")).await;
    hook.store("push", &large, format!(r#"{{"sender":{{"login":"hubot"}},"x":"{}"}}"#, "x".repeat(LARGE_BYTES))).await;
    stored.settled().await;
    counts(&stored, 2).await;

    // Both have rows. Make dead letters of them all the same.
    for message in stored.messages(Stream::Raw).await {
        let (headers, payload) = (message.headers.clone(), message.payload.clone());
        let message = Outgoing { subject: message.subject.to_string(), message_id: String::new(), payload, headers };
        bury(stored.jetstream(), message, "clickhouse-raw", "exhausted").await;
    }
    let done = dead(place, "redrive --component clickhouse-raw").await;
    done.says("2 sent through again, 0 kept");
    // Where it was done, and no password of the server.
    let installation = format!("(`headrace up` on {}, named by the command line)\n", data.display());
    assert!(done.complained.ends_with(&installation) && !done.complained.contains('@'), "{}", done.complained);
    stored.settled().await;
    counts(&stored, 2).await;
    assert_eq!(stored.count(Stream::Raw).await, 4);

    // An old and a new event without rows, each a dead letter twice.
    let hour_ago = Timestamp::now().minus(Duration::from_secs(3_600));
    let old = RawDelivery { received_at: hour_ago, ..RawDelivery::sample(1) };
    let new = RawDelivery { id: EventId::github(&guid()), ..RawDelivery::sample(2) };
    for _ in 0..2 {
        for delivery in [&old, &new] {
            bury(stored.jetstream(), delivery.message(), "normalize", "exhausted").await;
        }
        dead(place, "redrive --all").await.says("2 sent through again, 0 kept");
        stored.settled().await;
        counts(&stored, 4).await;
    }
    let hashes: Vec<(String,)> = stored.rows("SELECT DISTINCT e.id FROM events e JOIN raw r ON e.id = r.id AND e.raw_sha256 = lower(hex(SHA256(r.body)))").await;
    assert_eq!(hashes.len(), 4);

    a_large_body_is_printed(place, &stored, &large).await;
    a_context_without_a_server_leaves_this_one_alone(dir.path(), &stored).await;
    up.stop().await;
}

/// A context without a server is used in the directory where the data directory of this `up` is the default.
async fn a_context_without_a_server_leaves_this_one_alone(dir: &Path, stored: &Stored) {
    let left = stored.count(Stream::Dead).await;
    assert!(left > 0);
    std::fs::write(dir.join("other.toml"), "pipeline.lanes = 2\n").unwrap();
    let own = format!("HEADRACE_CONFIG_DIR={}", dir.join("own").display());
    let run = async |arguments: &str| {
        let here = ["-C", dir.to_str().unwrap(), own.as_str(), PROGRAM];
        command("/usr/bin/env", here.into_iter().chain(arguments.split(' '))).await
    };
    let added = run("context add other --config other.toml").await;
    assert!(added.status.success(), "{added:?}");
    for asked in ["dead drop --all --yes", "query 1", "gaps", "replay --since 1h"] {
        let refused = run(&format!("{asked} --context other")).await;
        assert_eq!(refused.status.code(), Some(2), "{asked}: {refused:?}");
        assert!(complained(&refused).contains("context `other` names no server"), "{asked}: {refused:?}");
    }
    assert_eq!(stored.count(Stream::Dead).await, left);
}

/// `show` prints the body of a dead letter that only refers to it.
async fn a_large_body_is_printed(place: [&str; 2], stored: &Stored, guid: &str) {
    let messages = stored.messages(Stream::Raw).await;
    let message = messages.iter().find(|message| message.headers.get(header::BODY_OBJECT).is_some()).unwrap();
    assert!(message.payload.is_empty());
    let (subject, headers) = (message.subject.to_string(), message.headers.clone());
    let message = Outgoing { subject, message_id: String::new(), payload: message.payload.clone(), headers };
    let number = bury(stored.jetstream(), message, "normalize", "exhausted").await;
    let shown = dead(place, &format!("show {number} --payload --json")).await.json();
    assert_eq!(shown[0]["event_id"], format!("github:{guid}"));
    assert!(shown[0]["payload"].as_str().unwrap().len() > LARGE_BYTES);
}

/// Checks that both tables have `count` rows, and every event once.
async fn counts(stored: &Stored, count: u64) {
    for table in ["events", "raw"] {
        let found: Vec<(u64, u64)> = stored.rows(&format!("SELECT count(), uniqExact(id) FROM {table}")).await;
        assert_eq!(found, [(count, count)], "{table}");
    }
}
