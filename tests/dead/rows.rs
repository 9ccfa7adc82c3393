//! An event has one row, however often its dead letter is redriven.

use std::time::Duration;

use headrace_runtime::broker::Stream;
use headrace_runtime::message::payload::{Outgoing, RawDelivery};
use headrace_schemas::header;
use headrace_schemas::id::EventId;
use headrace_schemas::time::Timestamp;
use headrace_tests::harness::samples::Sample as _;
use headrace_tests::product::hook::{Hook, guid};
use headrace_tests::product::process::Launch;
use headrace_tests::product::stored::Stored;
use tempfile::TempDir;

use super::{PROGRAM, bury, dead};

/// More than fits into a message.
const LARGE_BYTES: usize = 9 << 20;

#[tokio::test]
async fn a_redriven_dead_letter_makes_no_second_row() {
    let dir = TempDir::new().unwrap();
    let up = Launch::up(PROGRAM, dir.path()).start().await;
    let (hook, stored) = (Hook::of(up.ready()), Stored::of(up.ready()).await);
    let data = dir.path().join("data");
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
    up.stop().await;
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
