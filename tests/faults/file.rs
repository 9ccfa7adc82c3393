//! The file sink as a process of its own: killed at each point of its work, and stopped under load.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::jetstream::consumer::{Consumer, FromConsumer as _, pull};
use futures::future::join_all;
use headrace_local::poll;
use headrace_runtime::component::batch::{Batch, Item};
use headrace_runtime::component::sink::{BatchResult, Sink as _};
use headrace_runtime::crash::{self, Point};
use headrace_runtime::message::payload::Payload as _;
use headrace_runtime::publish::Publisher;
use headrace_runtime::state::StateStore;
use headrace_schemas::event::Event;
use headrace_schemas::id::EventId;
use headrace_schemas::time::Timestamp;
use headrace_sinks::file::Config;
use headrace_tests::harness::samples::{Sample as _, guid};
use headrace_tests::harness::{CEILING, Nats, until};
use headrace_tests::product::process::Launch;
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::TURNS;

/// How many events an earlier process wrote.
const EARLIER: u16 = 10;
/// How many events there are for the process that dies: more than two batches, whichever it dies in.
const EVENTS: u16 = 2_500;
/// Far longer than a sync takes on a busy machine: a batch whose time has passed is written again.
const TIMEOUT_MS: u64 = 10_000;
/// Less than [`EARLIER`] events take, so that each batch finds a full file and sets it aside.
const ROTATE_BYTES: u64 = 4_096;
/// The consumer of the events.
const CONSUMER: &str = "file-events";
/// Where the state has the consumer's incarnation.
const INCARNATION: &str = "epoch.file-events";
/// How many processes die at once: each has a server, and all of them sync.
const AT_ONCE: usize = 3;

/// The points, at which passing of each the process dies, and whether the lines of its batch are in the file then. That
/// batch is not the first.
const POINTS: [(Point, usize, bool); 6] = [
    (Point::BeforeInsert, 2, false),
    (Point::AfterRename, 2, false),
    (Point::AfterRotation, 2, false),
    (Point::BeforeSync, 2, true),
    (Point::AfterInsert, 2, true),
    (Point::AfterAck, 1_500, true),
];

struct Testbed {
    nats: Nats,
    dir: TempDir,
}

impl Testbed {
    async fn start() -> Self {
        let testbed = Self { nats: Nats::start().await, dir: TempDir::new().unwrap() };
        let limits = "{ max_age_hours = 24, max_bytes = 268435456 }";
        let text = format!(
            "nats = {{ url = '{}', clock_skew_ms = 100 }}\nadmin.listen = '127.0.0.1:0'\n\
             streams = {{ raw = {limits}, events = {limits}, alerts = {limits}, dead = {limits} }}\n\
             [sinks.file]\ndir = '{}'\nrotate_bytes_max = {ROTATE_BYTES}\nkeep_files_max = 0\n\
             timeout_ms = {TIMEOUT_MS}\n",
            testbed.nats.server().url(),
            testbed.out().display()
        );
        fs::write(testbed.config(), text).unwrap();
        testbed.open_consumer().await;
        testbed
    }

    /// Runs a process until the consumer's incarnation is noted. What is published later cannot have been delivered
    /// before, so no process waits until earlier calls must have ended.
    async fn open_consumer(&self) {
        let running = self.launch("").start().await;
        let broker = self.nats.broker().await;
        let noted = async || {
            let store = StateStore::open(&broker).await.ok()?;
            store.load(INCARNATION).await.ok().flatten()
        };
        poll::until("the consumer's incarnation is noted", CEILING, noted).await.unwrap();
        running.stop().await;
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("headrace.toml")
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    /// A process with this sink alone, which ends as by `kill -9` at a named point.
    fn launch(&self, crash_at: &str) -> Launch {
        let launch = Launch::run(env!("CARGO_BIN_EXE_headrace"), "sinks", &self.config(), self.dir.path());
        launch.set(crash::VARIABLE, crash_at)
    }

    /// Writes events as an earlier process did, and returns their ids.
    async fn write_earlier(&self) -> Vec<String> {
        let events: Vec<Event> = (0..EARLIER).map(event).collect();
        let ids = ids_of(&events);
        let item =
            |value| Item { value, suspect: false, redelivered: false, sequence: 1, stored_at: Timestamp::default() };
        let batch = Batch::new(events.into_iter().map(item).collect(), Duration::from_secs(60));
        let sink = Config { dir: self.out(), ..Config::default() }.build::<Event>();
        let BatchResult::Each(results) = sink.deliver(&batch).await else { panic!("the directory can be written to") };
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        ids
    }

    /// The files of events, those set aside first.
    fn files(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.out()) else { return Vec::new() };
        let paths = entries.map(|entry| entry.unwrap().path());
        let is_of_events = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with("events.") && name.ends_with(".jsonl")
        };
        let mut paths: Vec<PathBuf> = paths.filter(is_of_events).collect();
        paths.sort();
        paths
    }

    fn bytes(&self) -> u64 {
        // A file may be renamed between the list and the question.
        self.files().iter().filter_map(|path| Some(fs::metadata(path).ok()?.len())).sum()
    }

    /// The file that is written to, unless it is just set aside.
    fn current(&self) -> PathBuf {
        self.out().join("events.jsonl")
    }

    /// How often each id is in the files.
    fn received(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for id in self.files().iter().flat_map(|path| ids_in(path)) {
            *counts.entry(id).or_default() += 1;
        }
        counts
    }

    /// Cuts off the end of the last line, as a kill in the middle of a write leaves it.
    fn tear(&self) {
        let file = OpenOptions::new().write(true).open(self.current()).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(length - 100).unwrap();
    }

    /// Shortens the consumer's `ack_wait`, so that the next process is given at once what a process that is gone still
    /// holds. The next process sets its own again. If it does so first, it only waits for its own.
    async fn expire(&self) {
        let stream = self.nats.jetstream().get_stream(Event::STREAM.name()).await.unwrap();
        let consumer: Consumer<pull::Config> = stream.get_consumer(CONSUMER).await.unwrap();
        let config = pull::Config::try_from_consumer_config(consumer.cached_info().config.clone()).unwrap();
        stream.update_consumer(pull::Config { ack_wait: Duration::from_millis(100), ..config }).await.unwrap();
    }

    /// Runs a process until everything is settled.
    async fn finish(&self) {
        let running = self.launch("").start().await;
        self.nats.settled(Event::STREAM, CONSUMER).await;
        running.stop().await;
        assert!(self.nats.dead_letters().await.is_empty());
    }
}

/// An event of this moment. Its first message is no suspect.
pub(super) fn event(number: u16) -> Event {
    Event { id: EventId::github(&guid(number)), ..Event::sample(number) }
}

fn ids_of(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| event.id.to_string()).collect()
}

/// The ids in a file, line by line. Every line must be whole.
fn ids_in(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "half a line ends {}", path.display());
    let id = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        value["id"].as_str().unwrap().to_owned()
    };
    text.lines().map(id).collect()
}

/// Kills a process at a passing of `point`, lets another one go on, and checks what is in the files.
async fn dies_at(point: Point, passing: usize, is_written: bool) {
    let testbed = Testbed::start().await;
    let earlier = testbed.write_earlier().await;
    let events: Vec<Event> = (EARLIER..EARLIER + EVENTS).map(event).collect();
    testbed.nats.publish_all(events.iter().map(Event::message)).await;
    let (code, log) = testbed.launch(&format!("{}:{passing}", point.name())).refused().await;
    assert_eq!(code, None, "{point:?}: it must be killed: {log}");
    testbed.expire().await;

    // Each batch has a file of its own, so the current one holds the lines that may not be acknowledged.
    let last: BTreeSet<String> =
        if is_written { ids_in(&testbed.current()).into_iter().collect() } else { BTreeSet::new() };
    assert_eq!(!last.is_empty(), is_written, "{point:?}");
    assert!(last.len() <= Config::default().options::<Event>().batching.events_max, "{point:?}: {}", last.len());
    let left = testbed.received();
    assert!(left.values().all(|count| *count == 1), "{point:?}: a process that dies repeats nothing itself");
    let written = left.len().checked_sub(earlier.len()).expect("what an earlier process wrote stays");
    assert!(last.len() < written && written < events.len(), "{point:?}: {written} lines were written");
    if point == Point::BeforeSync {
        testbed.tear();
    }
    testbed.finish().await;

    let received = testbed.received();
    let sent: BTreeSet<String> = earlier.iter().cloned().chain(ids_of(&events)).collect();
    assert_eq!(received.keys().cloned().collect::<BTreeSet<_>>(), sent, "{point:?}");
    // Only what was written and not acknowledged may be there twice.
    let repeated: Vec<&String> = received.iter().filter(|(_, count)| **count > 1).map(|(id, _)| id).collect();
    let others = repeated.iter().filter(|id| !last.contains(**id)).count();
    assert_eq!(others, 0, "{point:?}: {} repeats, {others} of them of acknowledged events", repeated.len());
    assert!(received.values().all(|count| *count <= 2), "{point:?}: only one batch comes again, and once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_sink_that_dies_anywhere_loses_nothing_and_repeats_one_batch_at_most() {
    let _turn = TURNS.acquire().await.unwrap();
    for deaths in POINTS.chunks(AT_ONCE) {
        join_all(deaths.iter().map(|&(point, passing, is_written)| dies_at(point, passing, is_written))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_sink_that_is_stopped_under_load_loses_and_repeats_nothing() {
    let _turn = TURNS.acquire().await.unwrap();
    let testbed = Testbed::start().await;
    let publisher = Publisher::new(&testbed.nats.broker().await);
    let done = CancellationToken::new();
    let load = async {
        let (mut sent, mut ticks) = (BTreeSet::new(), tokio::time::interval(Duration::from_millis(20)));
        let mut numbers = (0..=u16::MAX).cycle();
        while !done.is_cancelled() {
            ticks.tick().await;
            let events: Vec<Event> = numbers.by_ref().take(20).map(event).collect();
            for event in &events {
                let unconfirmed = publisher.send(event.message(), None).await.unwrap();
                unconfirmed.confirmed().await.unwrap();
            }
            sent.extend(ids_of(&events));
        }
        sent
    };
    let stops = async {
        for _ in 0..3 {
            let before = testbed.bytes();
            let running = testbed.launch("").start().await;
            until("it writes", || testbed.bytes() > before).await;
            running.stop().await;
            // It checks that no line is half-written: nobody has repaired the file yet.
            testbed.received();
        }
        done.cancel();
    };
    let (sent, ()) = tokio::join!(load, stops);
    // A process that stops leaves the messages that were on their way to it.
    testbed.expire().await;
    testbed.finish().await;
    let received = testbed.received();
    assert_eq!(received.keys().cloned().collect::<BTreeSet<_>>(), sent);
    let twice: Vec<&String> = received.iter().filter(|(_, count)| **count > 1).map(|(id, _)| id).collect();
    assert!(twice.is_empty(), "written more than once: {twice:?}");
}
