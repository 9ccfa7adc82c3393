//! Whatever is killed, no event that was answered 2xx is lost, none is stored twice, and nobody has to do anything.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use headrace_runtime::broker::Stream;
use headrace_tests::examples;
use headrace_tests::product::hook::Hook;
use headrace_tests::product::load::Load;
use headrace_tests::product::process::{Launch, gone, signal};
use headrace_tests::product::stored::Stored;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::time::Instant;

use super::with_short_limits;

/// Requests under way at once.
const SENDERS: usize = 8;
/// Events before and after each kill.
const EVENTS: usize = 100;
/// Ctrl-C ends everything within this time.
const STOP_MAX: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_killed_server_is_started_again_and_nothing_is_lost() {
    let dir = TempDir::new().unwrap();
    let up = launch(&dir).start().await;
    let load = Load::start(SENDERS, &Hook::of(up.ready()), &Arc::new(examples::all().await));
    let before = up.ready().clone();
    for name in ["nats", "clickhouse"] {
        load.advance(EVENTS).await;
        signal(before.pids[name], Signal::KILL);
        let now = up.started_again(name, before.pids[name]).await;
        assert_eq!((&now.nats, &now.clickhouse), (&before.nats, &before.clickhouse), "addresses stay");
        load.advance(EVENTS).await;
    }
    let sent = load.finish().await;
    holds_once(&Stored::of(up.ready()).await, &sent).await;
    up.stop().await;
}

#[tokio::test]
async fn a_stopped_or_killed_up_goes_on_where_it_stopped() {
    let dir = TempDir::new().unwrap();
    let examples = Arc::new(examples::all().await);
    let up = launch(&dir).start().await;
    let load = Load::start(SENDERS, &Hook::of(up.ready()), &examples);
    load.advance(EVENTS).await;
    let began = Instant::now();
    let status = up.interrupt().await;
    assert!(began.elapsed() < STOP_MAX, "it took {:?}", began.elapsed());
    assert_eq!(status.code(), Some(0), "{}", up.log());
    let mut sent = load.finish().await;

    let up = launch(&dir).start().await;
    holds_once(&Stored::of(up.ready()).await, &sent).await;
    let load = Load::start(SENDERS, &Hook::of(up.ready()), &examples);
    load.advance(EVENTS).await;
    let pids = up.ready().pids.clone();
    up.kill().await;
    for pid in pids.into_values() {
        gone(pid).await;
    }
    sent.append(&mut load.finish().await);

    let up = launch(&dir).start().await;
    holds_once(&Stored::of(up.ready()).await, &sent).await;
    up.stop().await;
}

/// `up`, which delivers a message again soon after its holder was killed.
fn launch(dir: &TempDir) -> Launch {
    with_short_limits(dir, "pipeline.ack_wait_s = 2")
}

/// Waits until everything is settled. Then both tables must hold all of `sent`, and nothing twice.
async fn holds_once(stored: &Stored, sent: &BTreeSet<String>) {
    stored.settled().await;
    let dead = stored.messages(Stream::Dead).await;
    assert!(dead.is_empty(), "{dead:#?}");
    for table in ["events", "raw"] {
        let rows: Vec<(String, u64)> = stored.rows(&format!("SELECT id, count() FROM {table} GROUP BY id")).await;
        let repeated: Vec<_> = rows.iter().filter(|(_, count)| *count != 1).collect();
        assert!(repeated.is_empty(), "{table}: {repeated:?}");
        // There may be more rows: an event may be stored although its answer was lost.
        let found: BTreeSet<String> = rows.into_iter().map(|(id, _)| id).collect();
        let lost: Vec<_> = sent.difference(&found).collect();
        assert!(lost.is_empty(), "{table}: of {} events, {} are lost: {lost:?}", sent.len(), lost.len());
    }
}
