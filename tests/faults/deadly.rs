//! A message on which every process dies. The others go through, and it ends in DEAD with a reason.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use headrace_local::poll;
use headrace_runtime::broker::Stream;
use headrace_runtime::crash::{self, Point};
use headrace_runtime::message::payload::{Payload as _, RawDelivery};
use headrace_runtime::settle::trials;
use headrace_runtime::state::StateStore;
use headrace_schemas::event::Event;
use headrace_schemas::header;
use headrace_tests::harness::samples::Sample as _;
use headrace_tests::harness::{CEILING, Nats};
use headrace_tests::product::process::Launch;
use serde_json::Value;
use tempfile::TempDir;

use super::TURNS;
use super::file::event;

/// More processes than this need not die: three on the whole batch, some on smaller and smaller groups, two on the
/// message alone.
const DEATHS_MAX: usize = 8;

struct Testbed {
    nats: Nats,
    dir: TempDir,
    role: &'static str,
    /// The stream and the consumer that the message kills.
    stream: Stream,
    consumer: &'static str,
}

impl Testbed {
    async fn start(role: &'static str, stream: Stream, consumer: &'static str) -> Self {
        let testbed = Self { nats: Nats::start().await, dir: TempDir::new().unwrap(), role, stream, consumer };
        let limits = "{ max_age_hours = 24, max_bytes = 268435456 }";
        let text = format!(
            "nats = {{ url = '{}', clock_skew_ms = 100 }}\nadmin.listen = '127.0.0.1:0'\n\
             streams = {{ raw = {limits}, events = {limits}, alerts = {limits}, dead = {limits} }}\n\
             pipeline.ack_wait_s = 1\n[sinks.file]\ndir = '{}'\ntimeout_ms = 1000\n",
            testbed.nats.server().url(),
            testbed.out().display()
        );
        fs::write(testbed.dir.path().join("headrace.toml"), text).unwrap();
        if role == "sinks" {
            testbed.note_incarnation().await;
        }
        testbed
    }

    /// Runs a process until the consumer's incarnation is noted. What is stored before waits until earlier calls must
    /// have ended.
    async fn note_incarnation(&self) {
        let store = StateStore::open(&self.nats.broker().await).await.unwrap();
        let noted = async {
            let key = format!("epoch.{}", self.consumer);
            let noted = async || store.load(&key).await.ok().flatten();
            poll::until("the consumer's incarnation is noted", CEILING, noted).await.unwrap();
        };
        assert!(self.launch("").until(noted).await, "it goes on running");
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn launch(&self, crash_at: &str) -> Launch {
        let config = self.dir.path().join("headrace.toml");
        let launch = Launch::run(env!("CARGO_BIN_EXE_headrace"), self.role, &config, self.dir.path());
        launch.set(crash::VARIABLE, crash_at)
    }

    /// Runs processes, each of which dies on the event `victim`, until one has settled everything. Returns how many
    /// died.
    async fn run_until_settled(&self, victim: &str) -> usize {
        let crash_at = format!("{}:{victim}", Point::BeforeRead.name());
        for deaths in 0..=DEATHS_MAX {
            let ended = async {
                self.nats.settled(self.stream, self.consumer).await;
                self.nothing_on_trial().await;
            };
            if self.launch(&crash_at).until(Box::pin(ended)).await {
                return deaths;
            }
        }
        panic!("processes go on dying; dead letters {:#?}", self.nats.dead_letters().await);
    }

    /// Waits until nothing is on trial any more. A process notes that soon after the messages are settled.
    async fn nothing_on_trial(&self) {
        let store = StateStore::open(&self.nats.broker().await).await.unwrap();
        let marks = async || {
            let marks = store.load(&trials::key(self.consumer)).await.ok().flatten()?;
            (marks.value == b"[]"[..]).then_some(())
        };
        poll::until("nothing is on trial", CEILING, marks).await.unwrap();
    }

    /// Checks that the event `victim` alone is in DEAD.
    async fn assert_given_up(&self, victim: &str) {
        let dead = self.nats.dead_letters().await;
        let found: Vec<_> = dead.iter().map(|dead| (dead.id.as_str(), dead.reason.as_str())).collect();
        assert_eq!(found, [(victim, "crashed")], "{dead:#?}");
        assert!(dead[0].detail.contains("found that it ended 2 times"), "{}", dead[0].detail);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_on_which_every_pipeline_dies_is_given_up_and_the_others_go_through_once() {
    let _turn = TURNS.acquire().await.unwrap();
    let testbed = Testbed::start("pipeline", Stream::Raw, "normalize").await;
    let deliveries: Vec<RawDelivery> = (0..100).map(RawDelivery::sample).collect();
    testbed.nats.publish_all(deliveries.iter().map(RawDelivery::message)).await;
    let victim = deliveries[50].id();
    let deaths = testbed.run_until_settled(victim).await;
    assert!(deaths > trials::UNANSWERED_MIN as usize, "{deaths} deaths");
    testbed.assert_given_up(victim).await;
    let events = testbed.nats.messages(Stream::Events).await;
    let ids: Vec<String> = events.iter().map(|event| event.headers.get(header::ID).unwrap().to_string()).collect();
    let others: BTreeSet<&str> = deliveries.iter().map(RawDelivery::id).filter(|id| *id != victim).collect();
    assert_eq!(ids.iter().map(String::as_str).collect::<BTreeSet<_>>(), others);
    assert_eq!(ids.len(), others.len(), "each once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_on_which_every_sink_dies_is_given_up_and_the_others_are_delivered() {
    let _turn = TURNS.acquire().await.unwrap();
    let testbed = Testbed::start("sinks", Stream::Events, "file-events").await;
    let events: Vec<Event> = (0..10).map(event).collect();
    testbed.nats.publish_all(events.iter().map(Event::message)).await;
    let victim = events[5].id();
    // Few are tried one by one at once. On a busy machine a delivery may end without an answer and without a death, or an
    // answer about a mark is lost.
    let deaths = testbed.run_until_settled(victim).await;
    assert!((4..=6).contains(&deaths), "{deaths} deaths; expected three on all, two on it alone");
    testbed.assert_given_up(victim).await;
    let text = fs::read_to_string(testbed.out().join("events.jsonl")).unwrap();
    let delivered = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].to_string());
    // A file has an event twice when a write took longer than its time, as on a busy machine.
    let delivered: BTreeSet<String> = delivered.collect();
    let others = events.iter().map(Event::id).filter(|id| *id != victim).map(|id| format!("\"{id}\""));
    assert_eq!(delivered, others.collect());
}
