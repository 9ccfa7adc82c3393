//! The servers and processes of a fault run, and what can be done to them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream;
use futures::TryStreamExt as _;
use headrace_local::install::{Installer, Silent};
use headrace_local::{clickhouse, nats, poll};
use headrace_runtime::broker::Stream;
use headrace_runtime::crash::Point;
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use tokio::time::sleep;

use super::Options;
use super::load::{SECRET, WINDOW_S};
use super::part::Part;
use super::plan::{Fault, Plan};
use super::proxy::{Proxy, Trouble};

/// `ack_wait` of the chains in these runs, in seconds.
const ACK_WAIT_S: u64 = 5;
/// The limit of one insert in these runs, in seconds.
const INSERT_S: u64 = 2;
/// `ack_wait` of the sinks that comes of it, in seconds (`sinks::clickhouse::Config::terms`).
const SINK_ACK_WAIT_S: u64 = (INSERT_S * 2 + 2) * 2;
/// How long a process that is to end at a point may take to come there.
const CRASH_PATIENCE: Duration = Duration::from_secs(15);

/// Everything that runs. Dropped, it is gone.
pub(super) struct World {
    nats: Vec<nats::Running>,
    clickhouse: clickhouse::Running,
    to_nats: Option<Proxy>,
    to_clickhouse: Proxy,
    to_gateway: Proxy,
    gateway: Part,
    pipelines: Vec<Part>,
    sinks: Vec<Part>,
    client: async_nats::Client,
    http: reqwest::Client,
    gateway_url: String,
}

impl World {
    pub(super) async fn start(options: &Options) -> anyhow::Result<Self> {
        let install = || {
            let installer = Installer::for_user(Arc::new(Silent))?;
            Ok::<_, headrace_local::install::Error>((installer.nats_server()?, installer.clickhouse_library()?))
        };
        let (nats_program, library) = tokio::task::spawn_blocking(install).await??;
        let nats = start_nats(&nats_program, &options.dir, options.nats_servers).await?;
        let mut arguments = options.program.1.clone();
        arguments.extend(["clickhouse".into(), "--library".into(), library.into_os_string()]);
        let engine = clickhouse::Config::new(&options.program.0, arguments, options.dir.join("clickhouse"));
        let clickhouse = clickhouse::start(engine).await?;

        // A cluster tells its clients of all its servers, so that a proxy before one would be passed by.
        let to_nats = if nats.len() == 1 { Some(Proxy::start(nats[0].address()).await?) } else { None };
        let to_clickhouse = Proxy::start(clickhouse.address()).await?;
        let gateway_address = free_port().await?;
        let to_gateway = Proxy::start(gateway_address).await?;
        let direct: Vec<String> = nats.iter().map(nats::Running::url).collect();
        let nats_url = to_nats.as_ref().map_or_else(|| direct.join(","), |proxy| format!("nats://{}", proxy.address()));
        let config = options.dir.join("headrace.toml");
        let text = configuration(&nats_url, to_clickhouse.address(), gateway_address, options.nats_servers);
        std::fs::write(&config, text).context("cannot write the configuration")?;

        let part = |role: &'static str, number: usize| {
            let name = format!("{role}-{number}");
            let (log, config) = (options.dir.join(format!("{name}.log")), config.clone());
            async move { Part::start(&options.program, role, &name, config, log).await }
        };
        let gateway = part("ingest", 0).await?;
        let (mut pipelines, mut sinks) = (Vec::new(), Vec::new());
        for number in 0..options.workers {
            pipelines.push(part("pipeline", number).await?);
            sinks.push(part("sinks", number).await?);
        }
        let client = async_nats::connect(direct).await.context("cannot connect to NATS")?;
        let gateway_url = format!("http://{}", to_gateway.address());
        let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?;
        Ok(Self {
            nats,
            clickhouse,
            to_nats,
            to_clickhouse,
            to_gateway,
            gateway,
            pipelines,
            sinks,
            client,
            http,
            gateway_url,
        })
    }

    pub(super) fn gateway(&self) -> &str {
        &self.gateway_url
    }

    /// Makes one fault happen, all of it.
    pub(super) async fn inject(&mut self, fault: Fault, plan: &mut Plan) -> anyhow::Result<()> {
        let worker = plan.below(self.pipelines.len());
        match fault {
            Fault::KillGateway => self.gateway.kill().await?,
            Fault::KillPipeline => self.pipelines[worker].kill().await?,
            Fault::KillSink => self.sinks[worker].kill().await?,
            Fault::KillNats => {
                let server = plan.below(self.nats.len());
                kill(self.nats[server].pid());
            }
            Fault::KillClickHouse => kill(self.clickhouse.pid()),
            Fault::KillAll => self.kill_all().await?,
            Fault::FreezePipeline => freeze(&self.pipelines[worker], ACK_WAIT_S).await,
            Fault::FreezeSink => freeze(&self.sinks[worker], SINK_ACK_WAIT_S).await,
            Fault::FreezeClickHouse => self.freeze_clickhouse().await,
            Fault::CrashGateway => {
                let points = [Point::BeforeStore, Point::BeforeStoreAck, Point::AfterStoreAck];
                let (point, passing) = plan.point(&points, 300);
                self.gateway.crash_at(point, passing, CRASH_PATIENCE).await?;
            }
            Fault::CrashPipeline => {
                let points = [Point::BeforePublish, Point::BeforePubAck, Point::AfterPubAck, Point::AfterAck];
                let (point, passing) = plan.point(&points, 500);
                self.pipelines[worker].crash_at(point, passing, CRASH_PATIENCE).await?;
            }
            Fault::CrashSink => {
                let points = [Point::BeforeInsert, Point::AfterInsert, Point::AfterAck];
                let passings = if plan.below(2) == 0 { 1 } else { 4 };
                let (point, passing) = plan.point(&points, passings);
                self.sinks[worker].crash_at(point, passing, CRASH_PATIENCE).await?;
            }
            Fault::RollingRestart => {
                self.gateway.restart().await?;
                for part in self.pipelines.iter_mut().chain(&mut self.sinks) {
                    part.restart().await?;
                }
            }
            Fault::NetworkNats => misbehave(self.to_nats.as_ref(), plan).await,
            Fault::NetworkClickHouse => misbehave(Some(&self.to_clickhouse), plan).await,
            Fault::NetworkGateway => misbehave(Some(&self.to_gateway), plan).await,
            Fault::KillLeader => self.kill_leader(Stream::ALL[plan.below(3)]).await?,
            Fault::RollingNats => {
                for server in &self.nats {
                    kill(server.pid());
                    self.cluster_whole().await?;
                }
            }
        }
        Ok(())
    }

    async fn kill_all(&mut self) -> anyhow::Result<()> {
        kill(self.clickhouse.pid());
        self.nats.iter().for_each(|server| kill(server.pid()));
        for part in self.pipelines.iter_mut().chain(&mut self.sinks).chain([&mut self.gateway]) {
            part.kill().await?;
        }
        Ok(())
    }

    async fn freeze_clickhouse(&self) {
        let Some(pid) = self.clickhouse.pid() else { return };
        signal(pid, Signal::STOP);
        sleep(Duration::from_secs(INSERT_S * 2 + 1)).await;
        signal(pid, Signal::CONT);
    }

    async fn kill_leader(&self, stream: Stream) -> anyhow::Result<()> {
        let stream = jetstream::new(self.client.clone()).get_stream(stream.name()).await?;
        let leader = stream.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone());
        let number = leader.as_deref().and_then(|name| name.strip_prefix("node-")?.parse::<usize>().ok());
        kill(number.and_then(|number| self.nats.get(number)).and_then(nats::Running::pid));
        Ok(())
    }

    /// Waits until every server has all streams' copies up to date.
    async fn cluster_whole(&self) -> anyhow::Result<()> {
        let whole = async || {
            for stream in Stream::ALL {
                let stream = jetstream::new(self.client.clone()).get_stream(stream.name()).await.ok()?;
                let cluster = stream.cached_info().cluster.clone()?;
                cluster.leader?;
                cluster.replicas.iter().all(|replica| replica.current && !replica.offline).then_some(())?;
            }
            Some(())
        };
        poll::until("the cluster is whole", Duration::from_secs(120), whole).await?;
        Ok(())
    }

    /// Ends all trouble.
    pub(super) async fn heal(&self) -> anyhow::Result<()> {
        self.to_nats.iter().chain([&self.to_clickhouse, &self.to_gateway]).for_each(Proxy::heal);
        self.pipelines.iter().chain(&self.sinks).for_each(Part::thaw);
        if self.nats.len() > 1 {
            self.cluster_whole().await?;
        }
        Ok(())
    }

    /// Waits until every message is settled by every component.
    pub(super) async fn settled(&self, within: Duration) -> anyhow::Result<()> {
        let settled = async || self.backlog().await.ok().filter(Vec::is_empty);
        if let Err(error) = poll::until("every message is settled", within, settled).await {
            anyhow::bail!("{error}; left: {:?}\n{}", self.backlog().await, self.logs());
        }
        Ok(())
    }

    async fn backlog(&self) -> anyhow::Result<Vec<(String, u64, usize)>> {
        let mut backlog = Vec::new();
        for stream in Stream::ALL {
            let stream = jetstream::new(self.client.clone()).get_stream(stream.name()).await?;
            let consumers: Vec<_> = stream.consumers().try_collect().await?;
            let busy = consumers.into_iter().filter(|info| info.num_pending > 0 || info.num_ack_pending > 0);
            backlog.extend(busy.map(|info| (info.name, info.num_pending, info.num_ack_pending)));
        }
        Ok(backlog)
    }

    pub(super) async fn dead_letters(&self) -> anyhow::Result<u64> {
        let dead = jetstream::new(self.client.clone()).get_stream(Stream::Dead.name()).await?;
        Ok(dead.cached_info().state.messages)
    }

    pub(super) async fn has_row(&self, id: &str) -> anyhow::Result<bool> {
        let rows: Vec<(u64,)> = self.rows(&format!("SELECT count() FROM events WHERE id = '{id}'")).await?;
        Ok(rows.first().is_some_and(|(count,)| *count > 0))
    }

    /// The rows of a query, each as a tuple; asked of the server itself.
    pub(super) async fn rows<T: DeserializeOwned>(&self, sql: &str) -> anyhow::Result<Vec<T>> {
        let url = format!("{}/?database=headrace&output_format_json_quote_64bit_integers=0", self.clickhouse.url());
        let response = self.http.post(url).body(format!("{sql} FORMAT JSONCompactEachRow")).send().await?;
        let (status, text) = (response.status(), response.text().await?);
        anyhow::ensure!(status.is_success(), "{sql}: {status} {text}");
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// The ends of all logs.
    pub(super) fn logs(&self) -> String {
        let parts = [&self.gateway].into_iter().chain(&self.pipelines).chain(&self.sinks);
        parts.map(Part::log_tail).collect::<Vec<_>>().join("\n\n")
    }

    pub(super) async fn stop(self) {
        for part in [&self.gateway].into_iter().chain(&self.pipelines).chain(&self.sinks) {
            part.stop().await;
        }
        for server in self.nats {
            server.stop().await;
        }
        self.clickhouse.stop().await;
    }
}

async fn start_nats(program: &Path, dir: &Path, count: usize) -> anyhow::Result<Vec<nats::Running>> {
    let mut configs: Vec<nats::Config> = Vec::new();
    let mut routes = Vec::new();
    for number in 0..count {
        let mut config = nats::Config::new(program, dir.join(format!("nats-{number}")));
        config.name = format!("node-{number}");
        routes.push(free_port().await?);
        configs.push(config);
    }
    if count > 1 {
        for (config, listen) in configs.iter_mut().zip(&routes) {
            config.cluster = Some(nats::Cluster { name: "faults".to_owned(), listen: *listen, routes: routes.clone() });
        }
    }
    // All at once: a server of a cluster is ready only when the others are there.
    let started = futures::future::try_join_all(configs.into_iter().map(nats::start)).await?;
    Ok(started)
}

fn configuration(nats: &str, clickhouse: SocketAddr, gateway: SocketAddr, servers: usize) -> String {
    let replicas = if servers > 1 { 3 } else { 1 };
    let limits = "max_age_hours = 24, max_bytes = 4294967296";
    format!(
        "admin.listen = '127.0.0.1:0'\n\
         nats = {{ url = '{nats}', timeout_ms = 3000 }}\n\
         ingest = {{ listen = '{gateway}', answer_max_ms = 4000, github.secrets = ['{SECRET}'] }}\n\
         pipeline = {{ ack_wait_s = {ACK_WAIT_S} }}\n\
         retry = {{ backoff_min_ms = 200, backoff_max_ms = 2000 }}\n\
         sinks.clickhouse = {{ url = 'http://{clickhouse}', insert_timeout_s = {INSERT_S}, linger_ms = 200 }}\n\
         [streams]\n\
         replicas = {replicas}\n\
         duplicate_window_s = {WINDOW_S}\n\
         raw = {{ {limits} }}\n\
         events = {{ {limits} }}\n\
         alerts = {{ {limits} }}\n\
         dead = {{ {limits} }}\n"
    )
}

async fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(tokio::net::TcpListener::bind("127.0.0.1:0").await?.local_addr()?)
}

async fn freeze(part: &Part, ack_wait_s: u64) {
    part.freeze();
    sleep(Duration::from_secs(ack_wait_s + 3)).await;
    part.thaw();
}

async fn misbehave(proxy: Option<&Proxy>, plan: &mut Plan) {
    let Some(proxy) = proxy else { return };
    let slow = plan.millis(50, 400);
    let late = Duration::from_secs(INSERT_S) + plan.millis(500, 3_000);
    let troubles = [Trouble::Drop, Trouble::Delay(slow), Trouble::Reset, Trouble::Truncate, Trouble::Late(late)];
    let trouble = troubles[plan.below(troubles.len())];
    tracing::info!(?trouble, "the network misbehaves");
    let duration = plan.millis(500, 6_000);
    proxy.trouble(trouble, duration).await;
}

fn kill(pid: Option<u32>) {
    // Without a process it is just being started again: it is down, as was wanted.
    if let Some(pid) = pid {
        signal(pid, Signal::KILL);
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}
