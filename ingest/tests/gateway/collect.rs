//! The role that asks sources, on a real nats-server, with a source that is asked over HTTP and fails on command.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use axum::extract::{Query, State};
use axum::http::{Method, Uri};
use axum::routing::get;
use axum::{Json, Router};
use headrace_ingest::collect::{Collector, kept};
use headrace_ingest::source::pull::{CURSOR_BYTES_MAX, Cursor, Pace, Page, Pull};
use headrace_local::poll;
use headrace_runtime::broker::{Broker, CURSORS, Stream};
use headrace_runtime::config;
use headrace_runtime::fault::Fault;
use headrace_runtime::observe::health::{Health, State as HealthState};
use headrace_runtime::retry::RetryPolicy;
use headrace_runtime::state::StateStore;
use headrace_schemas::header;
use headrace_tests::harness::{CEILING, Nats, streams};
use headrace_tests::product::admin::sample;
use headrace_tests::product::process::{freeze, signal};
use headrace_tests::standin::server::{Failure, Protocol, Server, When, Which};
use metrics::LocalRecorderGuard;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::asked::AuditLog;

const COMPONENT: &str = "collect:auditlog.entries";
const NAME: &str = "auditlog.entries";
/// Entries in a page of the audit log.
const PAGE: u64 = 10;
const POLICY: RetryPolicy =
    RetryPolicy { attempts_max: 12, backoff_min: Duration::from_millis(20), backoff_max: Duration::from_millis(200) };
const PACE: Pace = Pace { interval: Duration::from_millis(30), pages_per_hour: None, timeout: Duration::from_secs(20) };
/// After this time another process takes over.
const LEASE: Duration = Duration::from_secs(1);

/// The protocol of the audit log's server.
struct Protocolled;

impl Protocol for Protocolled {
    fn is_delivery(&self, _method: &Method, _uri: &Uri) -> bool {
        false
    }

    fn error_body(&self, status: u16) -> String {
        json!({ "error": status }).to_string()
    }
}

#[derive(Deserialize)]
struct After {
    after: u64,
}

async fn entries(State(count): State<Arc<AtomicU64>>, Query(After { after }): Query<After>) -> Json<Value> {
    let count = count.load(Ordering::SeqCst);
    let last = count.min(after + PAGE);
    // Within the duplicate window, as what happens is read soon.
    let entry = |number: u64| json!({ "number": number, "at": *NOW, "kind": "login", "owner": "Acme" });
    Json(json!({ "entries": (after + 1..=last).map(entry).collect::<Vec<_>>(), "more": last < count }))
}

static NOW: LazyLock<String> = LazyLock::new(|| headrace_schemas::time::Timestamp::now().to_string());

/// An audit log, a broker, and the processes that read one into the other.
struct Bed {
    nats: Nats,
    log: Server<Protocolled>,
    count: Arc<AtomicU64>,
    metrics: PrometheusHandle,
    _recorder: LocalRecorderGuard<'static>,
}

/// A process that reads. Dropping this ends it at once, as `kill -9` would.
struct Process {
    health: Health,
    stop: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Bed {
    async fn start() -> Self {
        Self::with(streams()).await
    }

    async fn with(streams: config::Streams) -> Self {
        let recorder = Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
        let (metrics, guard) = (recorder.handle(), metrics::set_default_local_recorder(recorder));
        let count = Arc::<AtomicU64>::default();
        let router = Router::new().route("/entries", get(entries)).with_state(Arc::clone(&count));
        let log = Server::start(Protocolled, router).await;
        Self { nats: Nats::with(streams).await, log, count, metrics, _recorder: guard }
    }

    /// Adds entries to the audit log. Returns how many it has.
    fn happen(&self, entries: u64) -> u64 {
        self.count.fetch_add(entries, Ordering::SeqCst) + entries
    }

    async fn broker(&self) -> Broker {
        self.nats.broker_with(config::Nats { timeout_ms: 1_000, ..config::Nats::default() }).await
    }

    async fn read(&self, pace: Pace) -> Process {
        self.read_as("only", pace).await
    }

    /// Starts a process. The audit log is told its name.
    async fn read_as(&self, process: &str, pace: Pace) -> Process {
        let http = reqwest::Client::builder().user_agent(process).build().unwrap();
        self.run(Arc::new(AuditLog { http, url: self.log.url(), pace })).await
    }

    async fn run(&self, pull: Arc<dyn Pull>) -> Process {
        let health = Health::new();
        let collector = Collector::new(pull, &self.broker().await, POLICY, LEASE, &health);
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let own = stop.clone();
        tasks.spawn(async move { collector.run(own).await });
        Process { health, stop, tasks }
    }

    /// Waits until RAW has each of `count` entries, and each once.
    async fn stored(&self, count: u64) {
        let stored = async || (self.in_raw().await.len() as u64 >= count).then_some(());
        let waited = poll::until(&format!("{count} entries are in RAW"), CEILING, stored).await;
        waited.unwrap_or_else(|error| panic!("{error}: {}", self.metrics.render()));
        let (found, expected) = (self.in_raw().await, (1..=count).map(|number| format!("auditlog:{number}")));
        assert_eq!(found.len() as u64, count, "{found:?}");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected.collect::<BTreeSet<_>>());
    }

    /// The ids of the messages of RAW.
    async fn in_raw(&self) -> Vec<String> {
        let messages = self.nats.messages(Stream::Raw).await;
        messages.iter().map(|message| message.headers.get(header::ID).unwrap().to_string()).collect()
    }

    /// The cursors that the audit log was asked with, by this process.
    fn asked_by(&self, process: &str) -> Vec<u64> {
        let recorded = self.log.recorded();
        let own = recorded.iter().filter(|request| request.header("user-agent") == Some(process));
        own.map(|request| request.line.rsplit_once('=').unwrap().1.parse().unwrap()).collect()
    }

    fn pages(&self, outcome: &str) -> f64 {
        let series = format!("headrace_collect_pages_total{{component=\"{COMPONENT}\",outcome=\"{outcome}\"}}");
        sample(&self.metrics.render(), &series).unwrap_or_default()
    }

    async fn until(&self, what: &str, condition: impl AsyncFn() -> bool) {
        let asked = poll::until(what, CEILING, async || condition().await.then_some(())).await;
        asked.unwrap_or_else(|error| panic!("{error}: {}", self.metrics.render()));
    }

    async fn cursor(&self) -> Option<Cursor> {
        let store = StateStore::open_cursors(&self.broker().await).await.unwrap();
        kept::progress(&store).await.unwrap().remove(NAME)?.cursor
    }

    async fn bucket(&self) -> async_nats::jetstream::kv::Store {
        self.nats.jetstream().get_key_value(CURSORS).await.unwrap()
    }
}

impl Process {
    fn state(&self) -> HealthState {
        self.health.snapshot()[COMPONENT].clone()
    }

    fn is_healthy(&self) -> bool {
        self.state() == HealthState::Healthy
    }

    /// Stops it in order.
    async fn stop(mut self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(CEILING, self.tasks.join_next()).await;
        assert!(matches!(ended, Ok(Some(Ok(Ok(()))))), "{ended:?}");
    }
}

#[tokio::test]
async fn a_source_is_read_to_its_end_and_then_for_what_is_new() {
    let bed = Bed::start().await;
    bed.happen(25);
    let process = bed.read(PACE).await;
    bed.stored(25).await;
    bed.until("the cursor is kept", async || bed.cursor().await == Some(json!(25))).await;
    assert_eq!(bed.asked_by("only")[..3], [0, 10, 20], "page after page, without a pause");
    bed.stored(bed.happen(5)).await;
    let messages = bed.nats.messages(Stream::Raw).await;
    assert_eq!(messages[0].subject.as_str(), "raw.acme.auditlog.login");
    let found = |name: &str| messages[0].headers.get(name).map(ToString::to_string);
    assert_eq!(found(header::SOURCE).as_deref(), Some("auditlog"));
    assert!(found(header::EVENT_TIME).is_some());
    bed.until("it was read completely", async || {
        let metrics = bed.metrics.render();
        let of = |name: &str| sample(&metrics, &format!("{name}{{component=\"{COMPONENT}\"}}"));
        of("headrace_collect_read_timestamp_seconds") > Some(1e9) && of("headrace_collect_leader") == Some(1.0)
    })
    .await;
    assert_eq!((bed.pages("stored"), bed.pages("failed")), (4.0, 0.0));
    let records = "headrace_ingest_records_total{source=\"auditlog\",outcome=\"stored\"}";
    assert_eq!(sample(&bed.metrics.render(), records), Some(30.0));
    process.stop().await;
    let before = bed.asked_by("only").len();
    let process = bed.read(PACE).await;
    bed.stored(bed.happen(1)).await;
    assert!(bed.asked_by("only")[before..].iter().all(|after| *after >= 30), "another process goes on");
    process.stop().await;
}

#[tokio::test]
async fn one_process_asks_and_another_takes_over_when_it_dies() {
    let bed = Bed::start().await;
    bed.happen(15);
    let first = bed.read_as("first", PACE).await;
    bed.stored(15).await;
    let second = bed.read_as("second", PACE).await;
    bed.stored(bed.happen(15)).await;
    assert_eq!(bed.asked_by("second"), [0; 0]);
    assert!(first.is_healthy() && second.is_healthy());
    drop(first);
    bed.stored(bed.happen(15)).await;
    assert!(bed.asked_by("second").iter().all(|after| *after >= 30), "{:?}", bed.asked_by("second"));
    // One that is stopped gives the lease back, so the next need not wait until it expires.
    second.stop().await;
    let third = bed.read_as("third", PACE).await;
    bed.stored(bed.happen(1)).await;
    third.stop().await;
}

#[tokio::test]
async fn a_process_that_lost_its_lease_cannot_move_the_cursor() {
    let bed = Bed::start().await;
    bed.happen(10);
    let process = bed.read(PACE).await;
    bed.stored(10).await;
    bed.until("the cursor is kept", async || bed.cursor().await == Some(json!(10))).await;
    // While it waits for a page, another process reads on.
    bed.log.fail_next(1, Failure::Hold, When::Before, Which::Any);
    bed.until("the page is held", async || bed.log.held() == 1).await;
    let bucket = bed.bucket().await;
    bucket.put(format!("cursor.{NAME}"), "12".into()).await.unwrap();
    bed.happen(10);
    bed.log.release();
    bed.until("it goes on from the other's cursor", async || bed.asked_by("only").contains(&12)).await;
    bed.until("the cursor is at the end", async || bed.cursor().await == Some(json!(20))).await;
    bed.stored(20).await;

    // Somebody else has the lease.
    bucket.put(format!("lease.{NAME}"), "another 600000".into()).await.unwrap();
    let leader = format!("headrace_collect_leader{{component=\"{COMPONENT}\"}}");
    bed.until("it stands by", async || sample(&bed.metrics.render(), &leader) == Some(0.0)).await;
    let asked = bed.asked_by("only").len();
    bed.happen(5);
    bucket.put(format!("lease.{NAME}"), "".into()).await.unwrap();
    bed.stored(25).await;
    assert!(bed.asked_by("only").len() > asked);
    process.stop().await;
}

#[tokio::test]
async fn a_source_that_fails_is_asked_again_as_it_wishes() {
    let bed = Bed::start().await;
    bed.happen(5);
    bed.log.fail_next(1, Failure::StatusAfter(503, 1), When::Before, Which::Any);
    let (process, began) = (bed.read(PACE).await, Instant::now());
    bed.until("it is degraded", async || matches!(process.state(), HealthState::Degraded(_))).await;
    bed.stored(5).await;
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    bed.until("it is healthy", async || process.is_healthy()).await;
    assert_eq!(bed.pages("failed"), 1.0);

    bed.log.fail_next(3, Failure::Status(401), When::Before, Which::Any);
    bed.until("it is broken", async || matches!(process.state(), HealthState::Broken(_))).await;
    let HealthState::Broken(why) = process.state() else { panic!("it was broken a moment ago") };
    assert!(why.contains("renew the token"), "{why}");
    bed.until("a person has mended it", async || process.is_healthy()).await;
    for failure in [Failure::Reset, Failure::Garbage, Failure::Torn] {
        bed.log.fail_next(2, failure, When::Before, Which::Any);
        bed.stored(bed.happen(1)).await;
    }
    bed.log.down();
    bed.until("it is degraded", async || matches!(process.state(), HealthState::Degraded(_))).await;
    bed.log.up().await;
    bed.stored(bed.happen(1)).await;
    process.stop().await;
}

#[tokio::test]
async fn a_page_that_does_not_come_is_given_up_and_a_stop_does_not_wait_for_it() {
    let bed = Bed::start().await;
    bed.happen(1);
    bed.log.fail_next(1, Failure::Hang, When::Before, Which::Any);
    let process = bed.read(Pace { timeout: Duration::from_millis(100), ..PACE }).await;
    bed.stored(1).await;
    assert_eq!(bed.pages("failed"), 1.0);
    process.stop().await;
    bed.log.fail_next(1, Failure::Hold, When::Before, Which::Any);
    let process = bed.read(Pace { timeout: CEILING * 10, ..PACE }).await;
    bed.until("a page is under way", async || bed.log.held() == 1).await;
    process.stop().await;
}

#[tokio::test]
async fn no_hour_has_more_pages_than_its_budget_over_all_processes() {
    let bed = Bed::start().await;
    bed.happen(50);
    let pace = Pace { pages_per_hour: Some(3), ..PACE };
    let first = bed.read_as("first", pace).await;
    bed.until("the budget is used up", async || bed.pages("over_budget") >= 1.0).await;
    bed.stored(30).await;
    assert!(first.is_healthy(), "it is as configured");
    first.stop().await;
    let second = bed.read_as("second", pace).await;
    bed.until("so it is for the next process", async || bed.pages("over_budget") >= 2.0).await;
    assert_eq!((bed.asked_by("first").len(), bed.asked_by("second").len()), (3, 0));
    second.stop().await;
}

#[tokio::test]
async fn a_bucket_that_was_deleted_only_has_the_source_read_again() {
    let bed = Bed::start().await;
    bed.happen(25);
    let process = bed.read(PACE).await;
    bed.stored(25).await;
    bed.until("the cursor is kept", async || bed.cursor().await == Some(json!(25))).await;
    bed.nats.jetstream().delete_stream(format!("KV_{CURSORS}")).await.unwrap();
    bed.until("it is missed", async || matches!(process.state(), HealthState::Degraded(_))).await;
    let from = bed.asked_by("only").len();
    bed.broker().await.ensure_topology(&streams()).await.unwrap();
    bed.until("it is read again", async || bed.asked_by("only")[from..].contains(&20)).await;
    assert!(bed.asked_by("only")[from..].contains(&0));
    bed.until("it works again", async || process.is_healthy()).await;
    bed.stored(bed.happen(1)).await;
    process.stop().await;
}

#[tokio::test]
async fn a_cursor_that_is_removed_has_the_source_read_again() {
    let bed = Bed::start().await;
    bed.happen(5);
    let process = bed.read(PACE).await;
    bed.until("the cursor is kept", async || bed.cursor().await == Some(json!(5))).await;
    let from = bed.asked_by("only").len();
    let store = StateStore::open_cursors(&bed.broker().await).await.unwrap();
    assert!(kept::forget(&store, NAME).await.unwrap());
    bed.until("it is read again", async || bed.asked_by("only")[from..].contains(&0)).await;
    bed.until("the cursor is kept", async || bed.cursor().await == Some(json!(5))).await;
    bed.stored(5).await;
    assert!(!kept::forget(&store, "auditlog.unknown").await.unwrap());
    process.stop().await;
}

#[tokio::test]
async fn a_broker_that_is_away_is_waited_for() {
    let bed = Bed::start().await;
    bed.happen(5);
    let process = bed.read(PACE).await;
    bed.stored(5).await;
    let pid = bed.nats.server().pid().unwrap();
    freeze(pid).await;
    bed.happen(30);
    bed.until("the broker is missed", async || matches!(process.state(), HealthState::Degraded(_))).await;
    signal(pid, Signal::CONT);
    bed.stored(35).await;
    bed.until("it works again", async || process.is_healthy()).await;
    assert_eq!(bed.pages("failed"), 0.0, "the source did not fail");
    process.stop().await;
}

#[tokio::test]
async fn a_full_stream_does_not_have_the_source_asked_again() {
    let small = config::Limits { max_age_hours: 24, max_bytes: 4 << 10 };
    let bed = Bed::with(config::Streams { raw: small, ..streams() }).await;
    bed.happen(PAGE * 10);
    let process = bed.read(PACE).await;
    bed.until("RAW is full", async || bed.pages("unstored") >= 3.0).await;
    let HealthState::Degraded(why) = process.state() else { panic!("{:?}", process.state()) };
    assert!(why.contains("RAW is full"), "{why}");
    let asked = bed.asked_by("only");
    assert_eq!(asked.iter().collect::<BTreeSet<_>>().len(), asked.len(), "no page twice: {asked:?}");
    // Make room again and again, as retention does.
    let raw = bed.nats.jetstream().get_stream(Stream::Raw.name()).await.unwrap();
    bed.until("everything is stored", async || {
        raw.purge().await.unwrap();
        bed.cursor().await == Some(json!(PAGE * 10))
    })
    .await;
    assert_eq!(bed.pages("failed"), 0.0);
    process.stop().await;
}

/// A source with a defect.
struct Defective(fn() -> Page);

#[async_trait]
impl Pull for Defective {
    fn source(&self) -> &'static str {
        "auditlog"
    }

    fn name(&self) -> &str {
        "entries"
    }

    fn pace(&self) -> Pace {
        PACE
    }

    async fn check(&self) -> Result<(), Fault> {
        Ok(())
    }

    async fn page(&self, _cursor: Option<&Cursor>) -> Result<Page, Fault> {
        Ok((self.0)())
    }
}

#[tokio::test]
async fn a_defect_of_a_source_is_told_with_its_name() {
    let bed = Bed::start().await;
    let too_large = || Page { records: Vec::new(), cursor: Some(json!("x".repeat(CURSOR_BYTES_MAX))), has_more: false };
    let endless = || Page { records: Vec::new(), cursor: None, has_more: true };
    for (defect, words) in [(too_large as fn() -> Page, "262144 bytes"), (endless, "expected another cursor")] {
        let process = bed.run(Arc::new(Defective(defect))).await;
        bed.until("it is broken", async || matches!(process.state(), HealthState::Broken(_))).await;
        let HealthState::Broken(why) = process.state() else { panic!("{:?}", process.state()) };
        assert!(why.contains(words) && why.contains(NAME), "{why}");
        assert_eq!(bed.cursor().await, None);
        process.stop().await;
    }
}
