//! Every published example body becomes one event row and one stored body, however often it is sent.

use std::collections::BTreeMap;

use headrace_local::poll;
use headrace_runtime::broker::Stream;
use headrace_tests::examples::{self, BODIES, Example};
use headrace_tests::harness::CEILING;
use headrace_tests::product::admin::get;
use headrace_tests::product::hook::{Hook, guid, sha256};
use headrace_tests::product::process::{command, complained, gone, said, signal};
use headrace_tests::product::stored::Stored;
use rustix::process::Signal;
use tempfile::TempDir;

use super::{PROGRAM, with_short_limits};

/// The id and the SHA-256 of each body, in order.
type Bodies = Vec<(String, String)>;

#[tokio::test]
async fn every_example_is_one_row_however_often_it_is_sent() {
    let dir = TempDir::new().unwrap();
    let up = with_short_limits(&dir, "").start().await;
    let deliveries: Vec<(String, Example)> =
        examples::all().await.into_iter().map(|example| (guid(), example)).collect();
    let mut sent: Bodies =
        deliveries.iter().map(|(guid, example)| (format!("github:{guid}"), sha256(&example.body))).collect();
    sent.sort();
    let requests =
        || deliveries.iter().map(|(guid, Example { kind, body })| (kind.as_str(), guid.as_str(), body.clone()));

    let (hook, stored) = (Hook::of(up.ready()), Stored::of(up.ready()).await);
    hook.store_all(requests()).await;
    holds_exactly(&stored, &sent).await;
    every_kind_has_its_category(&stored).await;

    for answer in hook.send_all(requests()).await {
        assert_eq!((answer.status, answer.body["status"].as_str()), (200, Some("duplicate")), "{}", answer.body);
    }
    holds_exactly(&stored, &sent).await;
    up.stop().await;

    let up = with_short_limits(&dir, "").start().await;
    let (hook, stored) = (Hook::of(up.ready()), Stored::of(up.ready()).await);
    for answer in hook.send_all(requests()).await {
        assert!(answer.is_stored(), "{}", answer.body);
    }
    holds_exactly(&stored, &sent).await;
    up.stop().await;
}

/// `headrace send --examples` makes each GUID from the body, so it sends the same GUIDs each time.
#[tokio::test]
async fn the_command_sends_every_example_and_a_broker_that_forgot_them_makes_no_second_row() {
    let dir = TempDir::new().unwrap();
    let up = with_short_limits(&dir, "").start().await;
    let stored = Stored::of(up.ready()).await;
    let (index, data) = (examples::index().await, dir.path().join("data"));
    let send = async || {
        let arguments = ["send".as_ref(), "--examples".as_ref(), index.as_os_str(), "--data-dir".as_ref()];
        let output = command(PROGRAM, arguments.into_iter().chain([data.as_os_str()])).await;
        assert!(output.status.success(), "{}", complained(&output));
        said(&output)
    };
    assert!(send().await.starts_with(&format!("{BODIES} stored, 0 known already, 0 refused by http://")));
    stored.settled().await;
    let sent: Bodies = stored.rows("SELECT id, raw_sha256 FROM events ORDER BY id").await;
    let mut hashes: Vec<String> = sent.iter().map(|(_, hash)| hash.clone()).collect();
    let mut published: Vec<String> = examples::all().await.iter().map(|example| sha256(&example.body)).collect();
    hashes.sort();
    published.sort();
    assert_eq!(hashes, published, "the command sends the bodies of the package unchanged");
    holds_exactly(&stored, &sent).await;

    assert!(send().await.starts_with(&format!("0 stored, {BODIES} known already, 0 refused by http://")));
    holds_exactly(&stored, &sent).await;

    // A broker that has forgotten the deliveries takes them for new. ClickHouse does not.
    for stream in [Stream::Raw, Stream::Events] {
        stored.stream(stream).await.purge().await.unwrap();
    }
    let nats = up.ready_now().pids["nats"];
    signal(nats, Signal::KILL);
    gone(nats).await;
    up.started_again("nats", nats).await;
    // NATS answers. The gateway must have noticed that too.
    let readyz = format!("{}/readyz", up.ready().metrics);
    poll::until("up is ready again", CEILING, async || (get(&readyz).await.0 == 200).then_some(())).await.unwrap();
    assert!(send().await.starts_with(&format!("{BODIES} stored, 0 known already, 0 refused by http://")));
    holds_exactly(&stored, &sent).await;
    up.stop().await;
}

/// Waits until everything is settled. Then both tables must hold `sent` and nothing else, and DEAD nothing.
async fn holds_exactly(stored: &Stored, sent: &Bodies) {
    stored.settled().await;
    let dead = stored.messages(Stream::Dead).await;
    assert!(dead.is_empty(), "{dead:#?}");
    let of_events: Bodies = stored.rows("SELECT id, raw_sha256 FROM events ORDER BY id").await;
    let of_raw: Bodies = stored.rows("SELECT id, lower(hex(SHA256(body))) FROM raw ORDER BY id").await;
    assert_eq!(differences(&of_events, sent), [] as [&(String, String); 0], "events");
    assert_eq!(differences(&of_raw, sent), [] as [&(String, String); 0], "raw");
}

/// The bodies that one list holds more often than the other.
fn differences<'a>(found: &'a Bodies, sent: &'a Bodies) -> Vec<&'a (String, String)> {
    let mut counts: BTreeMap<&(String, String), i32> = BTreeMap::new();
    found.iter().for_each(|body| *counts.entry(body).or_default() += 1);
    sent.iter().for_each(|body| *counts.entry(body).or_default() -= 1);
    counts.into_iter().filter(|(_, count)| *count != 0).map(|(body, _)| body).collect()
}

async fn every_kind_has_its_category(stored: &Stored) {
    let kinds: Vec<(String,)> = stored.rows("SELECT DISTINCT kind FROM events ORDER BY kind").await;
    assert_eq!(kinds.len(), examples::KINDS, "{kinds:?}");
    // Only a sponsorship belongs to no category.
    let other: Vec<(String,)> = stored.rows("SELECT DISTINCT kind FROM events WHERE category = 'other'").await;
    assert!(other.iter().all(|(kind,)| kind == "sponsorship"), "{other:?}");
}
