//! The ClickHouse sinks on the real engine, behind a proxy that fails on command.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use headrace_local::clickhouse::{self, Running};
use headrace_local::install::{Installer, Silent};
use headrace_runtime::batch::{Batch, Item};
use headrace_runtime::delivery::{Delivery, Sink as _, Terms};
use headrace_runtime::fault::{Fault, FaultClass, Reason};
use headrace_runtime::past::Window;
use headrace_runtime::payload::Payload as _;
use headrace_runtime::secret::Secret;
use headrace_schemas::event::Event;
use headrace_schemas::time::Timestamp;
use headrace_sinks::clickhouse::{Config, Events, Raw, Rewrite};
use headrace_tests::conformance::receiver::{Case, Promise};
use headrace_tests::harness::samples::Sample as _;
use headrace_tests::harness::{Nats, until};
use headrace_tests::product::process::{self, Launch, freeze, signal};
use headrace_tests::sink_conformance;
use headrace_tests::standin::clickhouse::{Passage, start};
use headrace_tests::standin::server::{Failure, Server, When, Which};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::time::Instant;

/// A server of its own, with a proxy before it.
struct ClickHouseCase {
    proxy: Server<Passage>,
    server: Running,
    _dir: TempDir,
}

impl ClickHouseCase {
    fn config(&self) -> Config {
        Config { url: self.proxy.url(), linger_ms: 50, insert_timeout_s: 1, ..Config::default() }
    }

    /// For what is tried once: with time for it on a busy machine.
    fn patient(&self) -> Config {
        Config { insert_timeout_s: 5, ..self.config() }
    }

    /// Asks the server itself. Blocking, because the suite asks between awaits.
    fn query(&self, sql: &str) -> String {
        let mut stream = TcpStream::connect(self.server.address()).unwrap();
        write!(stream, "POST / HTTP/1.0\r\nContent-Length: {}\r\n\r\n{sql}", sql.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(" 200 ") || body.contains("UNKNOWN_TABLE") || body.contains("UNKNOWN_DATABASE"),
            "{sql}: {answer}"
        );
        if head.contains(" 200 ") { body.to_owned() } else { String::new() }
    }

    fn create_events(&self) {
        let migration = include_str!("../../sinks/src/clickhouse/migrations/0001_events.sql");
        self.query(&migration.replace("NOT EXISTS events", "NOT EXISTS headrace.events"));
    }

    fn rows(&self) -> u64 {
        self.query("SELECT count() FROM headrace.events").trim().parse().unwrap()
    }
}

#[async_trait]
impl Case for ClickHouseCase {
    type Sink = Events;
    const PROMISE: Promise = Promise::Once;

    async fn start() -> Self {
        let install = || Installer::for_user(Arc::new(Silent))?.clickhouse_library();
        let library = tokio::task::spawn_blocking(install).await.unwrap().unwrap();
        let dir = TempDir::new().unwrap();
        let arguments = vec![OsString::from("clickhouse"), OsString::from("--library"), library.into_os_string()];
        let config = clickhouse::Config::new(env!("CARGO_BIN_EXE_headrace"), arguments, dir.path());
        let server = clickhouse::start(config).await.unwrap();
        Self { proxy: start(&server.url()).await, server, _dir: dir }
    }
    fn sink(&self) -> Events {
        self.config().events()
    }
    fn terms(&self) -> Terms {
        self.config().event_terms()
    }
    fn received(&self) -> Vec<String> {
        self.query("SELECT id FROM headrace.events ORDER BY raw_sequence").lines().map(str::to_owned).collect()
    }
    fn fail_next(&self, times: usize, failure: Failure, when: When, which: Which) {
        // A 2xx of a strange page cannot be told from success: the client looks at the status alone.
        let failure = if failure == Failure::Garbage { Failure::Status(502) } else { failure };
        self.proxy.fail_next(times, failure, when, which);
    }
    fn failures_left(&self) -> usize {
        self.proxy.failures_left()
    }
    fn held(&self) -> usize {
        self.proxy.held()
    }
    fn release(&self) {
        self.proxy.release();
    }
    fn refuse(&self, id: &str) {
        // The tables must be there to refuse a row.
        self.query("CREATE DATABASE IF NOT EXISTS headrace ENGINE = Atomic");
        self.create_events();
        let name = id.replace(|char: char| !char.is_ascii_alphanumeric(), "_");
        self.query(&format!("ALTER TABLE headrace.events ADD CONSTRAINT {name} CHECK id != '{id}'"));
    }
    fn down(&self) {
        self.proxy.down();
    }
    async fn up(&self) {
        self.proxy.up().await;
    }
    async fn break_access(&self) {
        // The sink's tables are gone: nothing that passes by itself.
        self.query("CREATE DATABASE IF NOT EXISTS headrace ENGINE = Atomic");
        self.query("CREATE TABLE IF NOT EXISTS headrace.events (nothing UInt8) ENGINE = Memory");
        self.query("RENAME TABLE headrace.events TO headrace.aside");
        self.query("CREATE TABLE headrace.events (nothing UInt8) ENGINE = Memory");
    }
    async fn mend(&self) {
        self.query("DROP TABLE headrace.events SYNC");
        if self.query("SELECT count() FROM system.columns WHERE database = 'headrace' AND table = 'aside'").trim()
            == "1"
        {
            self.query("DROP TABLE headrace.aside SYNC");
            self.create_events();
        } else {
            self.query("RENAME TABLE headrace.aside TO headrace.events");
        }
    }
}

sink_conformance!(
    ClickHouseCase: success,
    unreadable_messages,
    partial_failure,
    poison,
    panics,
    transient,
    down,
    timeouts,
    lost_answers,
    broken,
    duplicates,
    copies,
    shutdown,
    crash,
);

/// The same server with the sink for bodies.
struct RawCase(ClickHouseCase);

#[async_trait]
impl Case for RawCase {
    type Sink = Raw;
    const PROMISE: Promise = Promise::Once;

    async fn start() -> Self {
        Self(ClickHouseCase::start().await)
    }
    fn sink(&self) -> Raw {
        self.0.config().raw()
    }
    fn terms(&self) -> Terms {
        self.0.config().raw_terms()
    }
    fn received(&self) -> Vec<String> {
        self.0.query("SELECT id FROM headrace.raw ORDER BY sequence").lines().map(str::to_owned).collect()
    }
    fn fail_next(&self, times: usize, failure: Failure, when: When, which: Which) {
        self.0.fail_next(times, failure, when, which);
    }
    fn failures_left(&self) -> usize {
        self.0.failures_left()
    }
    fn held(&self) -> usize {
        self.0.held()
    }
    fn release(&self) {
        self.0.release();
    }
    fn down(&self) {
        self.0.down();
    }
    async fn up(&self) {
        self.0.up().await;
    }
    async fn break_access(&self) {
        self.0.break_access().await;
    }
    async fn mend(&self) {
        self.0.mend().await;
    }
}

mod raw {
    headrace_tests::sink_conformance!(super::RawCase: success, transient, down, timeouts, lost_answers, duplicates, copies, shutdown, crash);
}

fn batch(numbers: std::ops::Range<u16>, suspect: bool, valid_for: Duration) -> Batch<Event> {
    let item =
        |number: u16| Item { value: Event::sample(number), suspect, redelivered: suspect, sequence: u64::from(number) };
    Batch::new(numbers.map(item).collect(), Instant::now() + valid_for)
}

async fn ready() -> (ClickHouseCase, Events) {
    let case = ClickHouseCase::start().await;
    let sink = case.patient().events();
    sink.check().await.unwrap();
    (case, sink)
}

const MINUTE: Duration = Duration::from_secs(60);

fn assert_all(delivery: &Delivery, count: usize) {
    match delivery {
        Delivery::Each(results) => assert!(results.len() == count && results.iter().all(Result::is_ok), "{results:?}"),
        Delivery::Whole(fault) => panic!("{fault}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_batch_again_makes_no_second_rows() {
    let (case, sink) = ready().await;
    assert_all(&sink.deliver(&batch(0..100, false, MINUTE)).await, 100);
    assert_all(&sink.deliver(&batch(0..100, false, MINUTE)).await, 100);
    assert_eq!(case.rows(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_deliveries_whose_answer_was_lost_are_inserted_once() {
    let (case, sink) = ready().await;
    for (number, failure) in (0..).zip([Failure::Reset, Failure::Torn, Failure::Hang, Failure::Status(504)]) {
        let batch = batch(number * 10..number * 10 + 10, false, MINUTE);
        case.proxy.fail_next(1, failure, When::After, Which::Deliveries);
        let Delivery::Whole(fault) = sink.deliver(&batch).await else { panic!("the answer was lost") };
        assert_eq!(fault.class, FaultClass::Transient { retry_after: None }, "{fault}");
        assert_all(&sink.deliver(&batch).await, 10);
        assert_eq!(case.rows(), u64::from(number + 1) * 10, "{failure:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_suspects_only_the_absent_are_inserted() {
    let (case, sink) = ready().await;
    assert_all(&sink.deliver(&batch(0..60, false, MINUTE)).await, 60);
    assert_all(&sink.deliver(&batch(30..90, true, MINUTE)).await, 60);
    assert_eq!(case.rows(), 90);
    assert_eq!(case.query("SELECT uniqExact(id) FROM headrace.events").trim(), "90");
    // More than fit into one look-up.
    assert_all(&sink.deliver(&batch(0..9_000, true, MINUTE)).await, 9_000);
    assert_all(&sink.deliver(&batch(0..9_001, true, MINUTE)).await, 9_001);
    assert_eq!(case.rows(), 9_001);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_was_received_later_is_found() {
    let (case, sink) = ready().await;
    let received_at = Timestamp::now().minus(MINUTE);
    let value = Event { received_at, ..Event::sample(0) };
    let earlier = Item { value, suspect: true, redelivered: true, sequence: 1 };
    assert_all(&sink.deliver(&batch(0..10, false, MINUTE)).await, 10);
    assert_all(&sink.deliver(&Batch::new(vec![earlier], Instant::now() + MINUTE)).await, 1);
    assert_eq!(case.rows(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_refuses_rows_that_come_too_late() {
    let (case, sink) = ready().await;
    // Two seconds are kept for the clocks.
    let Delivery::Whole(fault) = sink.deliver(&batch(0..10, false, Duration::from_millis(500))).await else {
        panic!("expected the server to refuse the late rows")
    };
    assert_eq!(fault.class, FaultClass::Transient { retry_after: None }, "{fault}");
    assert!(fault.to_string().contains("held too long"), "{fault}");
    assert_eq!(case.rows(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unclear_insert_of_suspects_waits_for_the_servers_limit() {
    let (case, sink) = ready().await;
    case.proxy.fail_next(1, Failure::Reset, When::After, Which::Deliveries);
    let Delivery::Whole(fault) = sink.deliver(&batch(0..10, true, MINUTE)).await else { panic!("the answer was lost") };
    assert_eq!(fault.class, FaultClass::Transient { retry_after: Some(Duration::from_secs(6)) }, "{fault}");
    assert_all(&sink.deliver(&batch(0..10, true, MINUTE)).await, 10);
    assert_eq!(case.rows(), 10);
}

/// Starts a process with the sinks alone, which has ClickHouse at `url`.
async fn sinks(nats: &Nats, url: &str, dir: &Path) -> process::Running {
    let limits = "{ max_age_hours = 24, max_bytes = 67108864 }";
    let text = format!(
        "nats.url = '{}'\nadmin.listen = '127.0.0.1:0'\n\
         sinks.clickhouse = {{ url = '{url}', linger_ms = 50, insert_timeout_s = 1 }}\n\
         streams = {{ raw = {limits}, events = {limits}, alerts = {limits}, dead = {limits} }}\n",
        nats.server().url()
    );
    std::fs::create_dir_all(dir).unwrap();
    let config = dir.join("headrace.toml");
    std::fs::write(&config, text).unwrap();
    Launch::run(env!("CARGO_BIN_EXE_headrace"), "sinks", &config, dir).start().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_was_stopped_in_a_failing_insert_leaves_its_batch_to_who_has_it() {
    let (case, nats, dir) = (ClickHouseCase::start().await, Nats::start().await, TempDir::new().unwrap());
    let publish =
        async |numbers: std::ops::Range<u16>| nats.publish_all(numbers.map(|n| Event::sample(n).message())).await;
    let first = sinks(&nats, &case.proxy.url(), &dir.path().join("first")).await;
    case.proxy.fail_next(1, Failure::Hold, When::Before, Which::Deliveries);
    publish(0..3).await;
    until("an insert is on its way", || case.proxy.held() == 1).await;
    freeze(first.pid()).await;
    // With these another batch comes of it: ClickHouse cannot know it by its token.
    publish(3..5).await;
    let second = sinks(&nats, &case.server.url(), &dir.path().join("second")).await;
    until("another process inserts them", || case.rows() == 5).await;
    signal(first.pid(), Signal::CONT);
    until("the first leaves them", || first.log().contains("held longer than its ack_wait")).await;
    nats.settled(Event::STREAM, "clickhouse").await;
    assert_eq!((case.rows(), case.query("SELECT uniqExact(id) FROM headrace.events").trim()), (5, "5"));
    for running in [first, second] {
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_releases_tables_and_a_refused_row_are_told_apart() {
    let (case, sink) = ready().await;
    case.refuse(Event::sample(3).id());
    let Delivery::Whole(Fault { class, .. }) = sink.deliver(&batch(0..5, false, MINUTE)).await else {
        panic!("one is refused")
    };
    assert_eq!(class, FaultClass::Poison(Reason::Rejected));
    case.query("INSERT INTO headrace.migrations (version, name) VALUES (999, 'from the future')");
    let fault = sink.check().await.unwrap_err();
    assert_eq!(fault.class, FaultClass::Broken);
    assert!(fault.to_string().contains("later release"), "{fault}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_password_is_used_and_never_shown() {
    let (case, _) = ready().await;
    let config = Config { password: Secret::new("hunter2"), ..case.patient() };
    config.reach().await.unwrap();
    assert!(case.proxy.recorded().iter().any(|request| request.header("x-clickhouse-key") == Some("hunter2")));
    assert!(!format!("{config:?}").contains("hunter2"));
}

/// A rewriting of everything that was received within a minute.
fn rewriting(case: &ClickHouseCase, since: Timestamp, writer: &str) -> Rewrite<Event> {
    let to = Timestamp::from_micros(since.as_micros() + 60_000_000);
    case.patient().events_rewritten(&Window { from: since.minus(MINUTE), to, tenant: None }, since, writer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewritten_row_takes_the_place_of_the_older() {
    let (case, sink) = ready().await;
    let first = batch(0..50, false, MINUTE);
    assert_all(&sink.deliver(&first).await, 50);
    let since = case.patient().now().await.unwrap();
    for writer in ["one", "another"] {
        // The same messages again, as one that was interrupted presents them.
        let written = rewriting(&case, since, writer).write(first.items()).await.unwrap();
        assert_eq!((written.fresh, written.kept), (50, 0), "{writer}");
        assert_eq!(written.inserted, if writer == "one" { 50 } else { 0 });
        assert_eq!((case.rows(), case.query("SELECT uniqExact(id) FROM headrace.events").trim()), (50, "50"));
    }
    let older = format!(
        "SELECT count() FROM headrace.events WHERE toUnixTimestamp64Micro(inserted_at) < {}",
        since.as_micros()
    );
    assert_eq!(case.query(&older).trim(), "0");
    // A later one, of the same messages in the same order, and by a writer of the same name.
    let since = case.patient().now().await.unwrap();
    let written = rewriting(&case, since, "one").write(first.items()).await;
    assert!(matches!(written, Err(Fault { class: FaultClass::Broken, .. })), "the token is known: {written:?}");
    assert_eq!(case.rows(), 50, "nothing is deleted before its successor is seen");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewriting_whose_answer_was_lost_is_repeated_without_a_second_row() {
    let (case, sink) = ready().await;
    let items = batch(0..50, false, MINUTE);
    assert_all(&sink.deliver(&items).await, 50);
    let since = case.patient().now().await.unwrap();
    let events = rewriting(&case, since, "one");
    for (failure, when) in [(Failure::Reset, When::Before), (Failure::Reset, When::After), (Failure::Torn, When::After)]
    {
        case.proxy.fail_next(1, failure, when, Which::Deliveries);
        if let Err(fault) = events.write(items.items()).await {
            let FaultClass::Transient { retry_after: Some(wait) } = fault.class else { panic!("{fault}") };
            assert!(wait > Duration::from_secs(1), "the server's limit must have passed");
        }
    }
    assert_eq!(events.write(items.items()).await.unwrap().fresh, 50);
    assert_eq!((case.rows(), case.query("SELECT uniqExact(id) FROM headrace.events").trim()), (50, "50"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_writers_of_an_absent_row_one_remains() {
    let (case, sink) = ready().await;
    let items = batch(0..50, false, MINUTE);
    let since = case.patient().now().await.unwrap();
    let events = rewriting(&case, since, "one");
    let written = events.write(items.items()).await.unwrap();
    assert!(!written.unproven.is_empty());
    // A sink looked before these were there.
    assert_all(&sink.deliver(&batch(0..20, false, MINUTE)).await, 20);
    assert_eq!(case.rows(), 70);
    for _ in 0..2 {
        events.prove(&written.unproven).await.unwrap();
        assert_eq!((case.rows(), case.query("SELECT uniqExact(id) FROM headrace.events").trim()), (50, "50"));
    }
    // What was there before has one writer.
    let since = case.patient().now().await.unwrap();
    let written = rewriting(&case, since, "another").write(items.items()).await.unwrap();
    assert!(written.unproven.is_empty() && written.inserted == 50, "{written:?}");
}
