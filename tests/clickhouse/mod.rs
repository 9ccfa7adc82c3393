//! The ClickHouse sinks on the real engine, behind a proxy that fails on command.

mod columns;
mod comments;
mod exactly_once;
mod identity;
mod large;
mod lossless;
mod missed;
mod moved;
mod owner;
mod rewritten;
mod upgraded;

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use headrace_local::clickhouse::{self, Running};
use headrace_local::install::{Installer, Silent};
use headrace_runtime::component::batch::{Batch, Item};
use headrace_runtime::component::sink::{BatchResult, Sink as _, SinkOptions};
use headrace_runtime::fault::{DeadReason, Fault, FaultClass};
use headrace_runtime::message::payload::Payload as _;
use headrace_runtime::secret::Secret;
use headrace_schemas::event::Event;
use headrace_schemas::time::Timestamp;
use headrace_sinks::clickhouse::{Config, Events, Raw};
use headrace_tests::conformance::receiver::{Case, Promise, ServerCase};
use headrace_tests::harness::samples::Sample as _;
use headrace_tests::sink_conformance;
use headrace_tests::standin::clickhouse::{Proxy, start};
use headrace_tests::standin::server::Server;
use tempfile::TempDir;

/// A server for one test, with a proxy before it.
struct ClickHouseCase {
    proxy: Server<Proxy>,
    server: Running,
    _dir: TempDir,
}

impl ClickHouseCase {
    fn config(&self) -> Config {
        // All processes use one machine's clock.
        Config { url: self.proxy.url(), linger_ms: 50, insert_timeout_s: 1, clock_skew_ms: 200, ..Config::default() }
    }

    /// For calls that are made once: even on a busy machine they must not time out.
    fn with_long_timeout(&self) -> Config {
        Config { insert_timeout_s: 5, clock_skew_ms: 2_000, ..self.config() }
    }

    /// Makes a view of somebody's that reads `events` and fails at every row, because it computes `refusing`.
    fn fail_a_view(&self, refusing: &str) {
        self.query("CREATE TABLE IF NOT EXISTS headrace.mine (number UInt8) ENGINE = MergeTree ORDER BY number");
        self.query(&format!(
            "CREATE MATERIALIZED VIEW headrace.view TO headrace.mine AS SELECT toUInt8({refusing}) AS number \
             FROM headrace.events SETTINGS allow_custom_error_code_in_throwif = 1"
        ));
    }

    /// Queries the server, not through the proxy. It blocks, because [`Case::received`] is not async.
    fn query(&self, sql: &str) -> String {
        self.query_in("default", sql)
    }

    /// The same, where tables without a database are those of `database`.
    fn query_in(&self, database: &str, sql: &str) -> String {
        let mut stream = TcpStream::connect(self.server.address()).unwrap();
        write!(
            stream,
            "POST /?database={database} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{sql}",
            sql.len()
        )
        .unwrap();
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
        let migration = include_str!("../../sinks/src/clickhouse/write/migrations/0010_events.sql");
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
    fn options(&self) -> SinkOptions {
        self.config().event_options()
    }
    fn received(&self) -> Vec<String> {
        self.query("SELECT id FROM headrace.events ORDER BY raw_sequence").lines().map(str::to_owned).collect()
    }
    async fn break_access(&self) {
        // Put another table in the place of the sink's. This does not pass by itself.
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

impl ServerCase for ClickHouseCase {
    type Protocol = Proxy;

    fn peer(&self) -> &Server<Proxy> {
        &self.proxy
    }
    fn refuse(&self, id: &str) {
        // The tables must be there to refuse a row.
        self.query("CREATE DATABASE IF NOT EXISTS headrace ENGINE = Atomic");
        self.create_events();
        let name = id.replace(|char: char| !char.is_ascii_alphanumeric(), "_");
        self.query(&format!("ALTER TABLE headrace.events ADD CONSTRAINT {name} CHECK id != '{id}'"));
    }
}

sink_conformance!(
    ClickHouseCase: success,
    unreadable_messages,
    partial_failure,
    poison,
    refuses_all,
    panics,
    transient,
    down,
    timeouts,
    lost_answers,
    broken,
    duplicates,
    late_duplicates,
    shutdown,
    crash,
    breaker,
);

/// The same server, with the sink for bodies.
struct RawCase(ClickHouseCase);

#[async_trait]
impl Case for RawCase {
    type Sink = Raw;
    const PROMISE: Promise = Promise::Once;

    async fn start() -> Self {
        let case = ClickHouseCase::start().await;
        // The tables must be there to refuse a row.
        case.with_long_timeout().migrate().await.unwrap();
        Self(case)
    }
    fn sink(&self) -> Raw {
        self.0.config().raw()
    }
    fn options(&self) -> SinkOptions {
        self.0.config().raw_options()
    }
    fn received(&self) -> Vec<String> {
        self.0.query("SELECT id FROM headrace.raw ORDER BY sequence").lines().map(str::to_owned).collect()
    }
    async fn break_access(&self) {
        self.0.query("RENAME TABLE headrace.raw TO headrace.aside");
        self.0.query("CREATE TABLE headrace.raw (nothing UInt8) ENGINE = Memory");
    }
    async fn mend(&self) {
        self.0.query("DROP TABLE headrace.raw SYNC");
        self.0.query("RENAME TABLE headrace.aside TO headrace.raw");
    }
}

impl ServerCase for RawCase {
    type Protocol = Proxy;

    fn peer(&self) -> &Server<Proxy> {
        &self.0.proxy
    }
    fn refuse(&self, id: &str) {
        let name = id.replace(|char: char| !char.is_ascii_alphanumeric(), "_");
        self.0.query(&format!("ALTER TABLE headrace.raw ADD CONSTRAINT {name} CHECK id != '{id}'"));
    }
}

mod raw {
    headrace_tests::sink_conformance!(
        super::RawCase: success,
        partial_failure,
        poison,
        refuses_all,
        panics,
        transient,
        down,
        timeouts,
        lost_answers,
        broken,
        duplicates,
        late_duplicates,
        shutdown,
        crash,
    );
}

fn batch(numbers: std::ops::Range<u16>, suspect: bool, valid_for: Duration) -> Batch<Event> {
    let item = |number: u16| Item {
        value: Event::sample(number),
        suspect,
        redelivered: suspect,
        sequence: u64::from(number),
        stored_at: Timestamp::from_micros(1_700_000_000_000_000 + i64::from(number)),
    };
    Batch::new(numbers.map(item).collect(), valid_for)
}

async fn ready() -> (ClickHouseCase, Events) {
    let case = ClickHouseCase::start().await;
    let sink = case.with_long_timeout().events();
    sink.check().await.unwrap();
    (case, sink)
}

const MINUTE: Duration = Duration::from_secs(60);

fn assert_all(result: &BatchResult, count: usize) {
    match result {
        BatchResult::Each(results) => {
            assert!(results.len() == count && results.iter().all(Result::is_ok), "{results:?}");
        }
        BatchResult::Told(results) => panic!("a table takes all or nothing: {results:?}"),
        BatchResult::AlreadyThere => {}
        BatchResult::Whole(fault) | BatchResult::TooMuch(fault) => panic!("{fault}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_row_is_poison_and_tables_of_a_later_release_are_broken() {
    let (case, sink) = ready().await;
    case.refuse(Event::sample(3).id());
    let BatchResult::Whole(Fault { class, .. }) = sink.deliver(&batch(0..5, false, MINUTE)).await else {
        panic!("one is refused")
    };
    assert_eq!(class, FaultClass::Poison(DeadReason::Rejected));
    case.query("INSERT INTO headrace.migrations (version, name) VALUES (999, 'from the future')");
    let fault = sink.check().await.unwrap_err();
    assert_eq!(fault.class, FaultClass::Broken);
    assert!(fault.to_string().contains("later release"), "{fault}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_password_is_sent_and_never_printed() {
    let (case, _) = ready().await;
    let config = Config { password: Secret::new("hunter2"), ..case.with_long_timeout() };
    config.reach().await.unwrap();
    assert!(case.proxy.recorded().iter().any(|request| request.header("x-clickhouse-key") == Some("hunter2")));
    assert!(!format!("{config:?}").contains("hunter2"));
}
