//! The file sink on a real directory.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use headrace_runtime::component::batch::{Batch, Item, Key};
use headrace_runtime::component::sink::{BatchResult, Sink, SinkOptions};
use headrace_runtime::fault::{Fault, FaultClass};
use headrace_schemas::alert::Alert;
use headrace_schemas::event::Event;
use headrace_schemas::time::Timestamp;
use headrace_sinks::file::{Config, File, Folder};
use headrace_tests::conformance::receiver::{Case, HeldCase, Promise};
use headrace_tests::harness::samples::Sample as _;
use headrace_tests::sink_conformance;
use headrace_tests::standin::server::{Failure, When};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;

/// The sink's directory is below the temporary one, so that a file can take its place.
struct FileCase {
    dir: TempDir,
    gate: Arc<Gate>,
}

/// Holds calls of the sink. A disk cannot be told to wait.
#[derive(Default)]
struct Gate {
    planned: Mutex<VecDeque<(Failure, When)>>,
    held: watch::Sender<usize>,
    released: watch::Sender<usize>,
}

impl Gate {
    fn next(&self) -> Option<(Failure, When)> {
        self.planned.lock().unwrap().pop_front()
    }

    async fn pass(&self, failure: Failure) {
        match failure {
            Failure::Hang => std::future::pending::<()>().await,
            Failure::Hold => {
                let mut released = self.released.subscribe();
                self.held.send_modify(|held| *held += 1);
                let own = *self.held.borrow();
                released.wait_for(|released| *released >= own).await.unwrap();
            }
            other => panic!("no disk fails like this: {other:?}"),
        }
    }
}

/// The sink behind its gate.
struct Gated {
    sink: File<Event>,
    gate: Arc<Gate>,
}

#[async_trait]
impl Sink for Gated {
    type Item = Event;

    async fn check(&self) -> Result<(), Fault> {
        self.sink.check().await
    }

    fn key(&self, event: &Event) -> Key {
        self.sink.key(event)
    }

    async fn deliver(&self, batch: &Batch<Event>) -> BatchResult {
        let planned = self.gate.next();
        if let Some((failure, When::Before)) = planned {
            self.gate.pass(failure).await;
        }
        let result = self.sink.deliver(batch).await;
        if let Some((failure, When::After)) = planned {
            self.gate.pass(failure).await;
        }
        result
    }
}

fn config(dir: &TempDir) -> Config {
    Config { dir: dir.path().join("out"), timeout_ms: 1_000, ..Config::default() }
}

/// The ids in all files of a kind. Each line must be JSON.
fn ids(dir: &Path, kind: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let is_of_kind = |path: &&std::path::PathBuf| {
        path.file_name().unwrap().to_string_lossy().starts_with(kind)
            && path.extension().is_some_and(|end| end == "jsonl")
    };
    let read = |path: &std::path::PathBuf| fs::read_to_string(path).unwrap();
    let id = |line: &str| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned();
    let texts: Vec<String> = paths.iter().filter(is_of_kind).map(read).collect();
    texts.iter().flat_map(|text| text.lines().map(id)).collect()
}

#[async_trait]
impl Case for FileCase {
    type Sink = Gated;
    const PROMISE: Promise = Promise::AtLeastOnce;

    async fn start() -> Self {
        Self { dir: TempDir::new().unwrap(), gate: Arc::default() }
    }
    fn sink(&self) -> Gated {
        Gated { sink: config(&self.dir).build(), gate: Arc::clone(&self.gate) }
    }
    fn options(&self) -> SinkOptions {
        config(&self.dir).options::<Event>()
    }
    fn received(&self) -> Vec<String> {
        ids(&config(&self.dir).dir, "events")
    }
    async fn break_access(&self) {
        // A mode would not stop root. A file in the directory's place does.
        let dir = config(&self.dir).dir;
        let _ = fs::rename(&dir, self.dir.path().join("aside"));
        fs::write(&dir, "not a directory").unwrap();
    }
    async fn mend(&self) {
        let dir = config(&self.dir).dir;
        let aside = self.dir.path().join("aside");
        if aside.exists() {
            // In one step: if there were nothing for a moment, the sink would make a new directory.
            renameat_with(CWD, &aside, CWD, &dir, RenameFlags::EXCHANGE).unwrap();
            fs::remove_file(&aside).unwrap();
        } else {
            fs::remove_file(&dir).unwrap();
        }
    }
}

impl HeldCase for FileCase {
    fn hold_next(&self, failure: Failure, when: When) {
        self.gate.planned.lock().unwrap().push_back((failure, when));
    }
    fn holds_left(&self) -> usize {
        self.gate.planned.lock().unwrap().len()
    }
    fn held(&self) -> usize {
        *self.gate.held.borrow()
    }
    fn release(&self) {
        self.gate.released.send_replace(self.held());
    }
}

sink_conformance!(
    FileCase: success,
    unreadable_messages,
    panics,
    timeouts,
    broken,
    duplicates,
    shutdown,
    crash,
);

/// The sink with a folder for each tenant. Samples are all of one.
struct FolderCase(FileCase);

impl FolderCase {
    fn config(&self) -> Config {
        Config { folders: vec![Folder::Tenant], ..config(&self.0.dir) }
    }
}

#[async_trait]
impl Case for FolderCase {
    type Sink = File<Event>;
    const PROMISE: Promise = Promise::AtLeastOnce;

    async fn start() -> Self {
        Self(FileCase::start().await)
    }
    fn sink(&self) -> File<Event> {
        self.config().build()
    }
    fn options(&self) -> SinkOptions {
        self.config().options::<Event>()
    }
    fn received(&self) -> Vec<String> {
        ids(&self.config().dir.join("acme"), "events")
    }
    async fn break_access(&self) {
        self.0.break_access().await;
    }
    async fn mend(&self) {
        self.0.mend().await;
    }
}

mod folders {
    headrace_tests::sink_conformance!(super::FolderCase: success, panics, broken, duplicates);
}

/// Delivers `events` as the loop does: what is of one key together.
async fn deliver_by_key(sink: &File<Event>, events: Vec<Event>) {
    let mut batches: Vec<(Key, Vec<Item<Event>>)> = Vec::new();
    for event in events {
        let key = sink.key(&event);
        match batches.iter_mut().find(|(own, _)| *own == key) {
            Some((_, items)) => items.push(item(event)),
            None => batches.push((key, vec![item(event)])),
        }
    }
    for (_, items) in batches {
        assert_eq!(class_of(sink.deliver(&Batch::new(items, Duration::from_secs(60))).await), None);
    }
}

#[tokio::test]
async fn each_tenant_and_day_has_a_folder() {
    let dir = TempDir::new().unwrap();
    let sink = Config { folders: vec![Folder::Tenant, Folder::Day], ..config(&dir) }.build::<Event>();
    sink.check().await.unwrap();
    let event = |number: u16, tenant: &str, at: &str| Event {
        tenant: tenant.to_owned(),
        received_at: Timestamp::parse(at).unwrap(),
        ..Event::sample(number)
    };
    let (evening, night) = ("2026-01-31T23:59:59.999999Z", "2026-02-01T00:00:00Z");
    let mut events = vec![event(0, "acme", evening), event(1, "octo", evening), event(2, "acme", night)];
    events.push(event(3, "acme", evening));
    events.push(event(4, "../octo", night));
    deliver_by_key(&sink, events).await;
    let out = config(&dir).dir;
    for (folder, numbers) in [
        ("acme/2026-01-31", vec![0, 3]),
        ("octo/2026-01-31", vec![1]),
        ("acme/2026-02-01", vec![2]),
        ("_2e_2e_2focto/2026-02-01", vec![4]),
    ] {
        let expected: Vec<String> = numbers.into_iter().map(|number| Event::sample(number).id.to_string()).collect();
        assert_eq!(ids(&out.join(folder), "events"), expected, "{folder}");
    }
    assert!(!out.join("events.jsonl").exists());
    let fault = Config { folders: vec![Folder::Day], ..config(&dir) }.build::<Event>().check().await.unwrap_err();
    assert!(fault.to_string().contains("another process"), "{fault}");
}

#[tokio::test]
async fn more_folders_than_files_may_be_open_are_written_all_the_same() {
    let dir = TempDir::new().unwrap();
    let sink = Config { folders: vec![Folder::Tenant], ..config(&dir) }.build::<Event>();
    for round in 0..2 {
        let event = |number: u16| Event { tenant: format!("tenant-{number}"), ..Event::sample(round * 100 + number) };
        deliver_by_key(&sink, (0..80).map(event).collect()).await;
    }
    for number in 0..80 {
        let expected = [number, 100 + number].map(|number| Event::sample(number).id.to_string());
        assert_eq!(ids(&config(&dir).dir.join(format!("tenant-{number}")), "events"), expected);
    }
}

fn item<T>(value: T) -> Item<T> {
    Item { value, suspect: false, redelivered: false, sequence: 1, stored_at: Timestamp::default() }
}

fn batch(numbers: std::ops::Range<u16>) -> Batch<Event> {
    let items = numbers.map(|number| item(Event::sample(number))).collect();
    Batch::new(items, Duration::from_secs(60))
}

fn sample_ids(numbers: std::ops::Range<u16>) -> Vec<String> {
    numbers.map(|number| Event::sample(number).id.to_string()).collect()
}

fn class_of(result: BatchResult) -> Option<FaultClass> {
    match result {
        BatchResult::Whole(Fault { class, .. }) | BatchResult::TooMuch(Fault { class, .. }) => Some(class),
        BatchResult::AlreadyThere | BatchResult::Told(_) => None,
        BatchResult::Each(results) => results.into_iter().find_map(Result::err).map(|fault| fault.class),
    }
}

#[tokio::test]
async fn events_and_alerts_share_a_directory() {
    let dir = TempDir::new().unwrap();
    let (events, alerts) = (config(&dir).build::<Event>(), config(&dir).build::<Alert>());
    events.check().await.unwrap();
    alerts.check().await.unwrap();
    assert_eq!(class_of(events.deliver(&batch(0..3)).await), None);
    let items = vec![item(Alert::sample(1))];
    assert_eq!(class_of(alerts.deliver(&Batch::new(items, Duration::ZERO)).await), None);
    assert_eq!(ids(&config(&dir).dir, "events"), sample_ids(0..3));
    assert_eq!(ids(&config(&dir).dir, "alerts"), [Alert::sample(1).id]);
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let dir = TempDir::new().unwrap();
    let first = config(&dir).build::<Event>();
    first.check().await.unwrap();
    let second = config(&dir).build::<Event>();
    let fault = second.check().await.unwrap_err();
    assert_eq!(fault.class, FaultClass::Broken);
    assert!(fault.to_string().contains("another process"), "{fault}");
    drop(first);
    second.check().await.unwrap();
}

#[tokio::test]
async fn a_full_disk_is_transient() {
    let dir = TempDir::new().unwrap();
    let path = config(&dir).dir.join("events.jsonl");
    fs::create_dir(config(&dir).dir).unwrap();
    // The kernel's device that is always full.
    symlink("/dev/full", &path).unwrap();
    let sink = config(&dir).build::<Event>();
    for _ in 0..2 {
        let class = class_of(sink.deliver(&batch(0..3)).await);
        assert_eq!(class, Some(FaultClass::Transient { retry_after: None }));
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(class_of(sink.deliver(&batch(0..3)).await), None);
    assert_eq!(ids(&config(&dir).dir, "events"), sample_ids(0..3));
}

#[tokio::test]
async fn a_file_that_was_moved_away_is_created_again() {
    let dir = TempDir::new().unwrap();
    let sink = config(&dir).build::<Event>();
    assert_eq!(class_of(sink.deliver(&batch(0..3)).await), None);
    fs::rename(config(&dir).dir.join("events.jsonl"), dir.path().join("moved")).unwrap();
    assert_eq!(class_of(sink.deliver(&batch(3..5)).await), None);
    assert_eq!(ids(&config(&dir).dir, "events"), sample_ids(3..5));
}

#[tokio::test]
async fn rotation_keeps_every_line_whole() {
    let dir = TempDir::new().unwrap();
    let sink = Config { rotate_bytes_max: 8_192, keep_files_max: 0, ..config(&dir) }.build::<Event>();
    for number in 0..30 {
        assert_eq!(class_of(sink.deliver(&batch(number * 2..number * 2 + 2)).await), None);
    }
    let found: BTreeSet<String> = ids(&config(&dir).dir, "events").into_iter().collect();
    assert_eq!(found, sample_ids(0..60).into_iter().collect());
    assert!(fs::read_dir(config(&dir).dir).unwrap().count() > 4);
}
