//! An audit log that fails on command, a broker, and the processes that read one into the other.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{Method, Uri};
use axum::routing::get;
use axum::{Json, Router};
use headrace_ingest::collect::{Collector, kept};
use headrace_ingest::source::pull::{Cursor, Pace, Pull};
use headrace_local::poll;
use headrace_runtime::broker::{Broker, CURSORS, Stream};
use headrace_runtime::config;
use headrace_runtime::observe::health::{Health, State as HealthState};
use headrace_runtime::retry::RetryPolicy;
use headrace_runtime::state::StateStore;
use headrace_schemas::header;
use headrace_schemas::time::Timestamp;
use headrace_tests::harness::{CEILING, Nats, streams};
use headrace_tests::product::admin::sample;
use headrace_tests::standin::server::{Protocol, Server};
use metrics::LocalRecorderGuard;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::super::asked::AuditLog;

pub(crate) const COMPONENT: &str = "collect:auditlog.entries";
pub(crate) const NAME: &str = "auditlog.entries";
/// Entries in a page of the audit log.
pub(crate) const PAGE: u64 = 10;
const POLICY: RetryPolicy = RetryPolicy {
    attempts_max: 12,
    backoff_min: Duration::from_millis(20),
    backoff_max: Duration::from_millis(200),
    retry_after_max: RetryPolicy::RETRY_AFTER_MAX,
};
pub(crate) const PACE: Pace =
    Pace { interval: Duration::from_millis(30), pages_per_hour: None, timeout: Duration::from_secs(20) };
/// After this time another process takes over.
const LEASE: Duration = Duration::from_secs(1);

/// The protocol of the audit log's server.
pub(crate) struct Protocolled;

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

static NOW: LazyLock<String> = LazyLock::new(|| Timestamp::now().to_string());

/// An audit log, a broker, and the processes that read one into the other.
pub(crate) struct Bed {
    pub(crate) nats: Nats,
    pub(crate) log: Server<Protocolled>,
    count: Arc<AtomicU64>,
    pub(crate) metrics: PrometheusHandle,
    _recorder: LocalRecorderGuard<'static>,
}

/// A process that reads. Dropping this ends it at once, as `kill -9` would.
pub(crate) struct Process {
    health: Health,
    stop: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Bed {
    pub(crate) async fn start() -> Self {
        Self::with(streams()).await
    }

    pub(crate) async fn with(streams: config::Streams) -> Self {
        let recorder = Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
        let (metrics, guard) = (recorder.handle(), metrics::set_default_local_recorder(recorder));
        let count = Arc::<AtomicU64>::default();
        let router = Router::new().route("/entries", get(entries)).with_state(Arc::clone(&count));
        let log = Server::start(Protocolled, router).await;
        Self { nats: Nats::with(streams).await, log, count, metrics, _recorder: guard }
    }

    /// Adds entries to the audit log. Returns how many it has.
    pub(crate) fn happen(&self, entries: u64) -> u64 {
        self.count.fetch_add(entries, Ordering::SeqCst) + entries
    }

    pub(crate) async fn broker(&self) -> Broker {
        self.nats.broker_with(config::Nats { timeout_ms: 1_000, ..config::Nats::default() }).await
    }

    pub(crate) async fn read(&self, pace: Pace) -> Process {
        self.read_as("only", pace).await
    }

    /// Starts a process. The audit log is told its name.
    pub(crate) async fn read_as(&self, process: &str, pace: Pace) -> Process {
        let http = reqwest::Client::builder().user_agent(process).build().unwrap();
        self.run(Arc::new(AuditLog { http, url: self.log.url(), pace })).await
    }

    pub(crate) async fn run(&self, pull: Arc<dyn Pull>) -> Process {
        let health = Health::new();
        let collector = Collector::new(pull, &self.broker().await, POLICY, LEASE, &health);
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let own = stop.clone();
        tasks.spawn(async move { collector.run(own).await });
        Process { health, stop, tasks }
    }

    /// Waits until RAW has each of `count` entries, and each once.
    pub(crate) async fn stored(&self, count: u64) {
        let stored = async || (self.in_raw().await.len() as u64 >= count).then_some(());
        let waited = poll::until(&format!("{count} entries are in RAW"), CEILING, stored).await;
        waited.unwrap_or_else(|error| panic!("{error}: {}", self.metrics.render()));
        let (found, expected) = (self.in_raw().await, (1..=count).map(|number| format!("auditlog:{number}")));
        assert_eq!(found.len() as u64, count, "{found:?}");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected.collect::<BTreeSet<_>>());
    }

    /// The ids of the messages of RAW.
    pub(crate) async fn in_raw(&self) -> Vec<String> {
        let messages = self.nats.messages(Stream::Raw).await;
        messages.iter().map(|message| message.headers.get(header::ID).unwrap().to_string()).collect()
    }

    /// The cursors that the audit log was asked with, by this process.
    pub(crate) fn asked_by(&self, process: &str) -> Vec<u64> {
        let recorded = self.log.recorded();
        let own = recorded.iter().filter(|request| request.header("user-agent") == Some(process));
        own.map(|request| request.line.rsplit_once('=').unwrap().1.parse().unwrap()).collect()
    }

    pub(crate) fn pages(&self, outcome: &str) -> f64 {
        let series = format!("headrace_collect_pages_total{{component=\"{COMPONENT}\",outcome=\"{outcome}\"}}");
        sample(&self.metrics.render(), &series).unwrap_or_default()
    }

    pub(crate) async fn until(&self, what: &str, condition: impl AsyncFn() -> bool) {
        let asked = poll::until(what, CEILING, async || condition().await.then_some(())).await;
        asked.unwrap_or_else(|error| panic!("{error}: {}", self.metrics.render()));
    }

    pub(crate) async fn cursor(&self) -> Option<Cursor> {
        let store = StateStore::open_cursors(&self.broker().await).await.unwrap();
        kept::progress(&store).await.unwrap().remove(NAME)?.cursor
    }

    pub(crate) async fn bucket(&self) -> async_nats::jetstream::kv::Store {
        self.nats.jetstream().get_key_value(CURSORS).await.unwrap()
    }
}

impl Process {
    pub(crate) fn state(&self) -> HealthState {
        self.health.snapshot()[COMPONENT].clone()
    }

    pub(crate) fn is_healthy(&self) -> bool {
        self.state() == HealthState::Healthy
    }

    /// Stops it in order.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(CEILING, self.tasks.join_next()).await;
        assert!(matches!(ended, Ok(Some(Ok(Ok(()))))), "{ended:?}");
    }
}
