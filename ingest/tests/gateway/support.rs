//! A gateway for one test, and clients that misbehave.

use std::net::SocketAddr;
use std::time::Duration;

use headrace_ingest::config::Config;
use headrace_ingest::gateway::{Gateway, Mount};
use headrace_ingest::source::Push;
use headrace_ingest::tenant::Tenants;
use headrace_ingest::{github, sources};
use headrace_runtime::broker::Broker;
use headrace_runtime::http::admin::Admin;
use headrace_runtime::observe::health::Health;
use headrace_runtime::publish::store_health::StoreHealth;
use headrace_runtime::secret::Secret;
use headrace_tests::harness::{CEILING, Nats};
use headrace_tests::product::admin::sample;
use headrace_tests::product::hook::{Hook, guid, signature};
use metrics::LocalRecorderGuard;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long readiness depends on the last failure to store.
pub(crate) const FAILURE_TTL: Duration = Duration::from_millis(300);
/// The pause between two bytes of a slow client.
const TRICKLE: Duration = Duration::from_millis(50);

/// The gateway's secret.
pub(crate) const SECRET: &str = "It's a Secret to Everybody";

/// A configuration with that secret.
pub(crate) fn config() -> Config {
    let github = github::config::Config { secrets: vec![Secret::new(SECRET)], scoped: Vec::new() };
    Config { github, ..Config::default() }
}

/// A running gateway. Its metrics go to a recorder of this thread, on which the test's tasks run.
pub(crate) struct TestGateway {
    nats: Option<Nats>,
    address: SocketAddr,
    admin_address: SocketAddr,
    http: reqwest::Client,
    metrics: PrometheusHandle,
    stop: CancellationToken,
    _tasks: JoinSet<anyhow::Result<()>>,
    _recorder: LocalRecorderGuard<'static>,
}

impl TestGateway {
    pub(crate) async fn start(config: Config) -> Self {
        Self::with_tenants(config, &Tenants::default()).await
    }

    pub(crate) async fn with_tenants(config: Config, tenants: &Tenants) -> Self {
        let problems = [config.validate("ingest"), sources::validate(&config, "ingest")].concat();
        assert_eq!(problems, []);
        Self::serving(|broker, stores| Gateway::new(&config, tenants, broker, stores)).await
    }

    /// A gateway with a source that no registry knows.
    pub(crate) async fn with_source(source: impl Push) -> Self {
        let config = Config::default();
        Self::serving(|broker, stores| Gateway::with(vec![Mount::of(source)], &config, broker, stores)).await
    }

    async fn serving(make: impl FnOnce(&Broker, StoreHealth) -> Gateway) -> Self {
        let nats = Nats::start().await;
        let recorder = Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
        let metrics = recorder.handle();
        let guard = metrics::set_default_local_recorder(recorder);
        let broker = nats.broker().await;
        let health = Health::new();
        let stores = StoreHealth::new(health.register("ingest"), FAILURE_TTL);
        let admin = Admin { metrics: metrics.clone(), health, broker: broker.clone(), stores: Some(stores.clone()) };
        let gateway = make(&broker, stores);
        let (listener, admin_listener) = (listener().await, listener().await);
        let (address, admin_address) = (listener.local_addr().unwrap(), admin_listener.local_addr().unwrap());
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        tasks.spawn(gateway.serve(listener, stop.clone()));
        tasks.spawn(admin.serve(admin_listener, stop.clone()));
        let http = reqwest::Client::new();
        Self { nats: Some(nats), address, admin_address, http, metrics, stop, _tasks: tasks, _recorder: guard }
    }

    pub(crate) fn nats(&self) -> &Nats {
        self.nats.as_ref().unwrap()
    }

    /// The same gateway after its broker was killed.
    pub(crate) async fn without_nats(mut self) -> Self {
        let pid = self.nats().server().pid().unwrap();
        drop(self.nats.take());
        headrace_tests::product::process::gone(pid).await;
        self
    }

    /// Asks it to end.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) const fn http(&self) -> &reqwest::Client {
        &self.http
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The webhook's URL, followed by a family's path.
    pub(crate) fn webhook(&self, family: &str) -> String {
        self.url(&format!("/webhooks/github{family}"))
    }

    pub(crate) fn hook(&self) -> Hook {
        Hook::new(self.webhook(""), SECRET)
    }

    /// A URL on the port for operators.
    pub(crate) fn admin(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin_address)
    }

    pub(crate) const fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// A metric's value. 0 when nothing was counted yet.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        sample(&self.metrics.render(), series).unwrap_or_default()
    }

    /// How many connections of `listener` were dropped for `reason`.
    pub(crate) fn dropped(&self, listener: &str, reason: &str) -> f64 {
        let labels = format!("{{listener=\"{listener}\",reason=\"{reason}\"}}");
        self.metric(&format!("headrace_connections_dropped_total{labels}"))
    }

    /// How many requests ended for `reason`.
    pub(crate) fn counted(&self, reason: &str) -> f64 {
        self.metric(&format!("headrace_ingest_requests_total{{reason=\"{reason}\"}}"))
    }
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// A connection on which the test sends every byte itself.
pub(crate) struct Caller(BufReader<TcpStream>);

impl Caller {
    /// A connection that has sent nothing yet.
    pub(crate) async fn connect(gateway: &TestGateway) -> Self {
        Self::to(gateway.address).await
    }

    /// A connection to `address`.
    pub(crate) async fn to(address: SocketAddr) -> Self {
        Self(BufReader::new(TcpStream::connect(address).await.unwrap()))
    }

    /// Sends the head of a request with a body of `length` bytes. The signature is that of [`crate::BODY`], so it is good
    /// only for that body.
    pub(crate) async fn begin(gateway: &TestGateway, length: usize, more: &str) -> Self {
        let signature = signature(SECRET, crate::BODY.as_bytes());
        let head = format!(
            "POST /webhooks/github HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
             X-GitHub-Event: ping\r\nX-GitHub-Delivery: {}\r\nX-Hub-Signature-256: {signature}\r\n{more}\r\n",
            gateway.address,
            guid(),
        );
        let mut caller = Self::connect(gateway).await;
        caller.write(head.as_bytes()).await;
        caller
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).await.unwrap();
    }

    /// Writes as much of `bytes` as the gateway takes.
    pub(crate) async fn write_some(&mut self, bytes: &[u8]) {
        let _ = self.0.get_mut().write_all(bytes).await;
    }

    /// Sends `start` byte by byte, then further bytes for ever, until the gateway closes the connection. If `reason` is
    /// given, the gateway's answer must name it.
    pub(crate) async fn trickle(self, start: &'static [u8], reason: Option<&'static str>) {
        let (mut reader, mut writer) = self.0.into_inner().into_split();
        let write = async {
            let mut bytes = start.iter().chain(std::iter::repeat(&b'a'));
            while let Some(byte) = bytes.next()
                && writer.write_all(&[*byte]).await.is_ok()
            {
                tokio::time::sleep(TRICKLE).await;
            }
            std::future::pending::<()>().await;
        };
        let mut answer = Vec::new();
        tokio::select! {
            _ = reader.read_to_end(&mut answer) => {}
            () = write => {}
        }
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains(reason.unwrap_or_default()), "expected {reason:?} in `{answer}`");
    }

    /// Closes the writing side.
    pub(crate) async fn close_writing(&mut self) {
        self.0.get_mut().shutdown().await.unwrap();
    }

    /// Reads to the connection's end. Returns the status of the answer, if there was one.
    pub(crate) async fn last_status(mut self) -> Option<u16> {
        let mut answer = Vec::new();
        // Bytes that the gateway did not read turn the end into a reset.
        let _ = tokio::time::timeout(CEILING, self.0.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer).split(' ').nth(1)?.parse().ok()
    }

    /// The status and the body of the next answer.
    pub(crate) async fn answer(&mut self) -> (u16, String) {
        tokio::time::timeout(CEILING, self.read()).await.unwrap()
    }

    async fn read(&mut self) -> (u16, String) {
        let mut line = String::new();
        self.0.read_line(&mut line).await.unwrap();
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no answer: `{line}`"));
        let mut length = 0;
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).await.unwrap();
            let Some((name, value)) = line.split_once(": ") else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.unwrap();
        (status, String::from_utf8(body).unwrap())
    }
}
