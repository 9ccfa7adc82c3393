//! Every published example body becomes one event, one row and one stored body, however often it is sent.

use std::collections::{BTreeMap, BTreeSet};

use headrace_local::poll;
use headrace_runtime::broker::Stream;
use headrace_tests::examples::{self, BODIES, Example};
use headrace_tests::harness::CEILING;
use headrace_tests::product::admin::get;
use headrace_tests::product::hook::{Hook, guid, sha256};
use headrace_tests::product::process::{Launch, Running, command, complained, gone, said, signal};
use headrace_tests::product::stored::Stored;
use rustix::process::Signal;
use tempfile::TempDir;

use super::PROGRAM;

/// Id and SHA-256 of a body, in order.
type Bodies = Vec<(String, String)>;

#[tokio::test]
async fn every_example_is_one_row_however_often_it_is_sent() {
    let dir = TempDir::new().unwrap();
    let up = Launch::up(PROGRAM, dir.path()).start().await;
    let deliveries: Vec<(String, Example)> =
        examples::all().await.into_iter().map(|example| (guid(), example)).collect();
    let mut sent: Bodies =
        deliveries.iter().map(|(guid, example)| (format!("github:{guid}"), sha256(&example.body))).collect();
    sent.sort();

    let hook = Hook::of(up.ready());
    for (guid, example) in &deliveries {
        hook.store(&example.kind, guid, example.body.clone()).await;
    }
    let stored = Stored::of(up.ready()).await;
    holds_exactly(&stored, &sent).await;
    every_kind_has_its_category(&stored).await;

    for (guid, example) in &deliveries {
        let answer = hook.send(&example.kind, guid, example.body.clone()).await;
        assert_eq!((answer.status, answer.body["status"].as_str()), (200, Some("duplicate")), "{}", answer.body);
    }
    holds_exactly(&stored, &sent).await;
    up.stop().await;

    let up = Launch::up(PROGRAM, dir.path()).start().await;
    let (hook, stored) = (Hook::of(up.ready()), Stored::of(up.ready()).await);
    for (guid, example) in &deliveries {
        let answer = hook.send(&example.kind, guid, example.body.clone()).await;
        assert!(answer.is_stored(), "{}: {}", example.kind, answer.body);
    }
    holds_exactly(&stored, &sent).await;

    the_command_sends_the_same(&up, &dir, &stored, sent).await;
    up.stop().await;
}

/// `headrace send --examples`: its GUIDs are made of the bodies, so that they are the same each time.
async fn the_command_sends_the_same(up: &Running, dir: &TempDir, stored: &Stored, mut sent: Bodies) {
    let index = examples::index().await;
    let data = dir.path().join("data");
    let send = async || {
        let output = command(
            PROGRAM,
            ["send".as_ref(), "--examples".as_ref(), index.as_os_str(), "--data-dir".as_ref(), data.as_os_str()],
        )
        .await;
        assert!(output.status.success(), "{}", complained(&output));
        said(&output)
    };
    assert!(send().await.starts_with(&format!("{BODIES} stored, 0 known already, 0 refused by http://")));
    stored.settled().await;
    let before: BTreeSet<String> = sent.iter().map(|(id, _)| id.clone()).collect();
    let all: Bodies = stored.rows("SELECT id, raw_sha256 FROM events").await;
    let mut added: Bodies = all.into_iter().filter(|(id, _)| !before.contains(id)).collect();
    let hashes = |bodies: &Bodies| {
        let mut hashes: Vec<String> = bodies.iter().map(|(_, hash)| hash.clone()).collect();
        hashes.sort();
        hashes
    };
    assert_eq!(hashes(&added), hashes(&sent), "the command sends the very bodies of the package");
    sent.append(&mut added);
    sent.sort();
    holds_exactly(stored, &sent).await;

    assert!(send().await.starts_with(&format!("0 stored, {BODIES} known already, 0 refused by http://")));
    holds_exactly(stored, &sent).await;

    // A broker that has forgotten them takes them for new; ClickHouse does not.
    for stream in [Stream::Raw, Stream::Events] {
        stored.stream(stream).await.purge().await.unwrap();
    }
    let nats = up.ready_now().pids["nats"];
    signal(nats, Signal::KILL);
    gone(nats).await;
    up.started_again("nats", nats).await;
    // It answers; the gateway must have found that out.
    let readyz = format!("{}/readyz", up.ready().metrics);
    poll::until("up is ready again", CEILING, async || (get(&readyz).await.0 == 200).then_some(())).await.unwrap();
    assert!(send().await.starts_with(&format!("{BODIES} stored, 0 known already, 0 refused by http://")));
    holds_exactly(stored, &sent).await;
}

/// Waits until nothing happens any more; then both tables hold `sent` and nothing else, and DEAD nothing.
async fn holds_exactly(stored: &Stored, sent: &Bodies) {
    stored.settled().await;
    let dead = stored.messages(Stream::Dead).await;
    assert!(dead.is_empty(), "{dead:#?}");
    let of_events: Bodies = stored.rows("SELECT id, raw_sha256 FROM events ORDER BY id").await;
    let of_raw: Bodies = stored.rows("SELECT id, lower(hex(SHA256(body))) FROM raw ORDER BY id").await;
    assert_eq!(differences(&of_events, sent), [] as [&(String, String); 0], "events");
    assert_eq!(differences(&of_raw, sent), [] as [&(String, String); 0], "raw");
}

/// What is not as often in one list as in the other.
fn differences<'a>(found: &'a Bodies, sent: &'a Bodies) -> Vec<&'a (String, String)> {
    let mut counts: BTreeMap<&(String, String), i32> = BTreeMap::new();
    found.iter().for_each(|body| *counts.entry(body).or_default() += 1);
    sent.iter().for_each(|body| *counts.entry(body).or_default() -= 1);
    counts.into_iter().filter(|(_, count)| *count != 0).map(|(body, _)| body).collect()
}

async fn every_kind_has_its_category(stored: &Stored) {
    let kinds: Vec<(String,)> = stored.rows("SELECT DISTINCT kind FROM events ORDER BY kind").await;
    assert_eq!(kinds.len(), examples::KINDS, "{kinds:?}");
    // Sponsoring somebody is the one kind that belongs to no category.
    let other: Vec<(String,)> = stored.rows("SELECT DISTINCT kind FROM events WHERE category = 'other'").await;
    assert!(other.iter().all(|(kind,)| kind == "sponsorship"), "{other:?}");
}
