//! Full streams: nothing is accepted that cannot be stored, and nothing is lost that was accepted.
//!
//! The streams are small, and ClickHouse is suspended until they are full. When ClickHouse goes on, everything else must
//! go on by itself.

use std::collections::BTreeSet;

use headrace_local::poll;
use headrace_runtime::broker::Stream;
use headrace_schemas::header;
use headrace_tests::harness::CEILING;
use headrace_tests::product::admin::{get, sample};
use headrace_tests::product::hook::{Hook, guid};
use headrace_tests::product::process::{Launch, Running, freeze, signal};
use headrace_tests::product::stored::{self, Stored};
use reqwest::header::RETRY_AFTER;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::PROGRAM;

/// More deliveries than any of these streams has room for.
const DELIVERIES_MAX: usize = 5_000;

/// An `up` with small streams.
struct Testbed {
    up: Running,
    hook: Hook,
    stored: Stored,
    _dir: TempDir,
}

impl Testbed {
    async fn start(raw_bytes: u64, events_bytes: u64) -> Self {
        let dir = TempDir::new().unwrap();
        let config = dir.path().join("headrace.toml");
        let text = format!(
            "[streams]\nraw.max_bytes = {raw_bytes}\nevents.max_bytes = {events_bytes}\n\
             alerts.max_bytes = 33554432\ndead.max_bytes = 33554432\n\
             [retry]\nbackoff_max_ms = 1000\n[nats]\nclock_skew_ms = 100\n\
             [sinks.clickhouse]\ninsert_timeout_s = 1\nclock_skew_ms = 200\n\
             [sinks.file]\ndir = '{}'\ntimeout_ms = 1000\n",
            dir.path().join("out").display()
        );
        std::fs::write(&config, text).unwrap();
        let up = Launch::up(PROGRAM, dir.path()).argument("--config").argument(&config).start().await;
        let (hook, stored) = (Hook::of(up.ready()), Stored::of(up.ready()).await);
        let testbed = Self { up, hook, stored, _dir: dir };
        for stream in Stream::ALL {
            let config = testbed.stored.stream(stream).await.cached_info().config.clone();
            let discard = async_nats::jetstream::stream::DiscardPolicy::New;
            assert_eq!(config.discard, discard, "a full {} refuses", stream.name());
        }
        testbed
    }

    async fn stop_clickhouse(&self) {
        freeze(self.up.ready().pids["clickhouse"]).await;
    }

    fn continue_clickhouse(&self) {
        signal(self.up.ready().pids["clickhouse"], Signal::CONT);
    }

    /// Sends this many events, a few at once. All must be stored. Returns their ids.
    async fn store(&self, count: usize) -> Vec<String> {
        let (mut senders, mut ids) = (JoinSet::new(), Vec::new());
        for _ in 0..count {
            let (hook, guid) = (self.hook.clone(), guid());
            ids.push(format!("github:{guid}"));
            senders.spawn(async move { hook.store("team", &guid, long_name()).await });
            if senders.len() == 16 {
                senders.join_next().await.unwrap().unwrap();
            }
        }
        senders.join_all().await;
        ids
    }

    /// The value of a series. 0 when nothing was counted yet.
    async fn metric(&self, series: &str) -> f64 {
        let (_, metrics) = get(&format!("{}/metrics", self.up.ready().metrics)).await;
        sample(&metrics, series).unwrap_or_default()
    }

    async fn until(&self, what: &str, condition: impl AsyncFn() -> bool) {
        let waited = poll::until(what, CEILING, async || condition().await.then_some(())).await;
        waited.unwrap_or_else(|error| panic!("{error}: {}", self.up.log()));
    }

    /// Checks that every event that was answered 2xx has one row in each table, and that there is no other row.
    async fn assert_all_once(&self, accepted: &BTreeSet<String>) {
        self.stored.settled().await;
        let accepted: Vec<(String,)> = accepted.iter().map(|id| (id.clone(),)).collect();
        for table in ["events", "raw"] {
            let ids: Vec<(String,)> = self.stored.rows(&format!("SELECT id FROM {table} ORDER BY id")).await;
            assert!(ids == accepted, "{table}: {} rows of {} deliveries", ids.len(), accepted.len());
        }
        assert_eq!(self.stored.count(Stream::Dead).await, 0, "dead letters");
    }
}

/// A delivery that no rule matches, so that the consumer of the stage alert has nothing to settle.
fn body(bytes: usize) -> Vec<u8> {
    let mut body = br#"{"action":"created","organization":{"login":"acme"},"padding":""#.to_vec();
    body.resize(bytes.max(body.len() + 2) - 2, b'x');
    body.extend_from_slice(b"\"}");
    body
}

/// Such a delivery with a long name. It makes a large event, so that fewer events fill the stream.
fn long_name() -> String {
    let name = "x".repeat(1_000);
    format!(r#"{{"action":"created","organization":{{"login":"acme"}},"repository":{{"full_name":"acme/{name}"}}}}"#)
}

#[tokio::test]
async fn a_full_raw_stream_refuses_deliveries_and_loses_none() {
    const RAW_BYTES: u64 = 4 << 20;
    let testbed = Testbed::start(RAW_BYTES, 32 << 20).await;
    let body = body(32 << 10);
    testbed.stop_clickhouse().await;

    let (mut accepted, mut refused) = (BTreeSet::new(), Vec::new());
    while refused.len() < 20 {
        assert!(accepted.len() < DELIVERIES_MAX, "RAW never becomes full");
        let guid = guid();
        let answer = testbed.hook.send("team", &guid, body.clone()).await;
        if answer.is_stored() {
            assert!(refused.is_empty(), "the stream was full, and nothing has made room: {}", answer.body);
            accepted.insert(format!("github:{guid}"));
            continue;
        }
        assert_eq!((answer.status, answer.body["error"].as_str()), (503, Some("stream_full")), "{}", answer.body);
        let message = answer.body["message"].as_str().unwrap();
        assert!(message.contains("RAW is full") && message.contains("nothing was stored"), "{message}");
        assert!(answer.headers.contains_key(RETRY_AFTER));
        refused.push(guid);
    }
    let counted = testbed.metric("headrace_ingest_requests_total{reason=\"stream_full\"}").await;
    assert_eq!(counted, refused.len() as f64);

    // Retention has looked at the stream, and has kept what ClickHouse has not settled.
    let is_logged = async || {
        testbed.up.log().lines().any(|line| line.contains("nearly full") && line.contains(r#""clickhouse-raw""#))
    };
    testbed.until("retention logs who is behind", is_logged).await;
    let kept = testbed.stored.messages(Stream::Raw).await;
    let kept: BTreeSet<String> = kept.iter().map(|message| stored::header(message, header::ID)).collect();
    assert!(kept == accepted, "{} of {} deliveries are in RAW", kept.len(), accepted.len());

    testbed.continue_clickhouse();
    for guid in refused {
        testbed
            .until("the gateway accepts again", async || {
                testbed.hook.send("team", &guid, body.clone()).await.is_stored()
            })
            .await;
        accepted.insert(format!("github:{guid}"));
    }
    let purged = async || testbed.metric("headrace_stream_purged_total{stream=\"RAW\"}").await > 0.0;
    testbed.until("the purged messages are counted", purged).await;
    testbed.assert_all_once(&accepted).await;
    testbed.up.stop().await;
}

#[tokio::test]
async fn a_full_events_stream_makes_the_chain_wait() {
    const UNPUBLISHED: &str = "headrace_settled_total{component=\"normalize\",outcome=\"unpublished\"}";
    const HEALTHY: &str = "headrace_healthy{component=\"normalize\"}";
    let testbed = Testbed::start(64 << 20, 1 << 20).await;
    testbed.stop_clickhouse().await;

    let mut accepted = BTreeSet::new();
    // RAW has room, so no delivery is refused.
    while testbed.metric(UNPUBLISHED).await == 0.0 {
        accepted.extend(testbed.store(100).await);
        assert!(accepted.len() < DELIVERIES_MAX, "EVENTS never becomes full");
    }
    // More than retention makes room for at once, which is half of the stream.
    accepted.extend(testbed.store(accepted.len() * 2 / 3).await);
    let before = testbed.metric(UNPUBLISHED).await;
    testbed.until("the chain tries again", async || testbed.metric(UNPUBLISHED).await > before).await;
    assert_eq!(testbed.metric(HEALTHY).await, 0.0, "a chain that cannot publish is not healthy");
    assert_eq!(testbed.stored.count(Stream::Dead).await, 0, "a full stream is no event's fault");
    let state = testbed.stored.stream(Stream::Events).await.cached_info().state.clone();
    assert_eq!((state.first_sequence, state.messages), (1, state.last_sequence), "nothing was removed");

    testbed.continue_clickhouse();
    testbed.assert_all_once(&accepted).await;
    let purged = async || testbed.metric("headrace_stream_purged_total{stream=\"EVENTS\"}").await > 0.0;
    testbed.until("the purged messages are counted", purged).await;
    testbed.until("the chain is healthy", async || testbed.metric(HEALTHY).await == 1.0).await;
    testbed.up.stop().await;
}
