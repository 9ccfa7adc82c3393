//! The file sink as a process of its own: killed at each point of its work, and stopped under load.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::time::Duration;

use futures::future::join_all;
use headrace_runtime::component::batch::{Batch, Item};
use headrace_runtime::component::sink::{BatchResult, Sink as _};
use headrace_runtime::crash::{self, Point};
use headrace_runtime::message::payload::Payload as _;
use headrace_runtime::publish::Publisher;
use headrace_schemas::event::Event;
use headrace_schemas::id::EventId;
use headrace_sinks::file::Config;
use headrace_tests::harness::samples::{Sample as _, guid};
use headrace_tests::harness::{Nats, until};
use headrace_tests::product::process::Launch;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::TURNS;

/// How many events there are before the process dies, and for the process that dies.
const EVENTS: u16 = 10;
/// Twice this is the time after which the events of a dead process come again.
const TIMEOUT_MS: u64 = 3_000;
/// Less than [`EVENTS`] take, so that each batch finds a full file and sets it aside.
const ROTATE_BYTES: u64 = 4_096;

/// The points, and whether the lines of the batch are in the file then.
const POINTS: [(Point, bool); 6] = [
    (Point::BeforeInsert, false),
    (Point::AfterRename, false),
    (Point::AfterRotation, false),
    (Point::BeforeSync, true),
    (Point::AfterInsert, true),
    (Point::AfterAck, true),
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
        testbed
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
        let events: Vec<Event> = (0..EVENTS).map(event).collect();
        let ids = ids_of(&events);
        let item = |value| Item { value, suspect: false, redelivered: false, sequence: 1 };
        let batch = Batch::new(events.into_iter().map(item).collect(), Instant::now() + Duration::from_secs(60));
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

    /// How often each id is in the files. Every line must be whole.
    fn received(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for path in self.files() {
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.is_empty() || text.ends_with('\n'), "half a line ends {}", path.display());
            for line in text.lines() {
                let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
                *counts.entry(value["id"].as_str().unwrap().to_owned()).or_default() += 1;
            }
        }
        counts
    }

    /// Cuts off the end of the last line, as a kill in the middle of a write leaves it.
    fn tear(&self) {
        let path = self.out().join("events.jsonl");
        let file = OpenOptions::new().write(true).open(path).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(length - 100).unwrap();
    }

    /// Runs a process until everything is settled.
    async fn finish(&self) {
        let running = self.launch("").start().await;
        self.nats.settled(Event::STREAM, "file-events").await;
        running.stop().await;
        assert!(self.nats.dead_letters().await.is_empty());
    }
}

/// An event of this moment. Its first message is no suspect.
fn event(number: u16) -> Event {
    Event { id: EventId::github(&guid(number)), ..Event::sample(number) }
}

fn ids_of(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| event.id.to_string()).collect()
}

/// Kills a process at `point`, lets another one go on, and checks what is in the files.
async fn dies_at(point: Point, is_written: bool) {
    let testbed = Testbed::start().await;
    let earlier = testbed.write_earlier().await;
    let events: Vec<Event> = (EVENTS..EVENTS * 2).map(event).collect();
    testbed.nats.publish_all(events.iter().map(Event::message)).await;
    let (code, log) = testbed.launch(&format!("{}:1", point.name())).refused().await;
    assert_eq!(code, None, "{point:?}: it must be killed: {log}");

    let left: usize = testbed.received().values().sum();
    let written = left.checked_sub(earlier.len()).expect("what an earlier process wrote stays");
    assert_eq!(written > 0, is_written, "{point:?}: {written} lines were written");
    if point == Point::BeforeSync {
        testbed.tear();
    }
    testbed.finish().await;

    let received = testbed.received();
    let sent: BTreeSet<String> = earlier.iter().cloned().chain(ids_of(&events)).collect();
    assert_eq!(received.keys().cloned().collect::<BTreeSet<_>>(), sent, "{point:?}");
    assert!(earlier.iter().all(|id| received[id] == 1), "{point:?}: what was there is there once");
    // Only what was written and not acknowledged may be there twice.
    let repeats = received.values().sum::<usize>() - received.len();
    assert!(repeats <= written, "{point:?}: {repeats} repeats of {written} lines");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_sink_that_dies_anywhere_loses_nothing_and_repeats_one_batch_at_most() {
    let _turn = TURNS.acquire().await.unwrap();
    join_all(POINTS.map(|(point, is_written)| dies_at(point, is_written))).await;
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
    testbed.finish().await;
    let received = testbed.received();
    assert_eq!(received.keys().cloned().collect::<BTreeSet<_>>(), sent);
    let twice: Vec<&String> = received.iter().filter(|(_, count)| **count > 1).map(|(id, _)| id).collect();
    assert!(twice.is_empty(), "written more than once: {twice:?}");
}
