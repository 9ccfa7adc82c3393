//! The servers and processes of a fault run, and the faults that can be made in them.

mod aside;
mod collected;
mod full;
mod settled;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream;
use futures::future::join_all;
use headrace_local::{clickhouse, nats, poll};
use headrace_runtime::broker::Stream;
use headrace_runtime::crash::Point;
use serde::de::DeserializeOwned;
use tokio::time::sleep;

use self::aside::SetAsides;
use super::Options;
use super::bucket::Bucket;
use super::inject::{crash, freeze, kill, misbehave, pause, starve};
use super::lines::Place;
use super::load::Load;
use super::plan::{Fault, Plan};
use super::process::Process;
use super::proxy::Proxy;
use super::receivers::Receivers;
use super::servers::{Disks, Servers};
use super::setup::{ACK_WAIT_S, INSERT_S, LEASE_S, SINK_ACK_WAIT_S, configuration};
use crate::harness::servers::free_address;

/// The tables that must hold each id once.
const TABLES: [&str; 2] = ["events", "raw"];
/// The most processes of one role.
const WORKERS_MAX: usize = 3;

/// Everything that runs. Dropping this ends it.
pub(super) struct Testbed {
    nats: Vec<nats::Running>,
    clickhouse: clickhouse::Running,
    to_nats: Option<Proxy>,
    to_clickhouse: Proxy,
    to_gateway: Proxy,
    gateway: Process,
    collects: Vec<Process>,
    pipelines: Vec<Process>,
    sinks: Vec<Process>,
    starter: Starter,
    client: async_nats::Client,
    http: reqwest::Client,
    gateway_url: String,
    place: Place,
    /// Deliveries per second.
    rate: u32,
    disks: Option<Disks>,
    receivers: Option<Receivers>,
    set_asides: SetAsides,
}

/// Starts processes of Headrace.
struct Starter {
    program: (PathBuf, Vec<OsString>),
    dir: PathBuf,
    config: PathBuf,
    started: usize,
}

impl Starter {
    async fn start(&mut self, role: &str) -> anyhow::Result<Process> {
        let name = format!("{role}-{}", self.started);
        self.started += 1;
        let log = self.dir.join(format!("{name}.log"));
        Process::start(&self.program, role, &name, self.config.clone(), log).await
    }
}

impl Testbed {
    pub(super) async fn start(options: &Options) -> anyhow::Result<Self> {
        let Servers { disks, clickhouse, nats } = Servers::start(options).await?;
        // A cluster tells its clients the addresses of all its servers, so they would bypass a proxy before one of
        // them.
        let to_nats = if nats.len() == 1 { Some(Proxy::start(nats[0].address()).await?) } else { None };
        let to_clickhouse = Proxy::start(clickhouse.address()).await?;
        let gateway_address = free_address()?;
        let to_gateway = Proxy::start(gateway_address).await?;
        let direct: Vec<String> = nats.iter().map(nats::Running::url).collect();
        let nats_url = to_nats.as_ref().map_or_else(|| direct.join(","), |proxy| format!("nats://{}", proxy.address()));
        let config = options.dir.join("headrace.toml");
        let receivers = if options.scenario.receivers { Some(Receivers::start().await) } else { None };
        let of_receivers = receivers.as_ref().map(Receivers::configuration).unwrap_or_default();
        let place = Place::make(options.scenario.origin, &options.dir).await?;
        let (read, to_clickhouse_address) = (place.configuration(), to_clickhouse.address());
        let text = configuration(&nats_url, to_clickhouse_address, gateway_address, &read, options, &of_receivers);
        std::fs::write(&config, text).context("cannot write the configuration")?;

        let (program, dir) = (options.program.clone(), options.dir.clone());
        let mut starter = Starter { program, dir, config, started: 0 };
        let gateway = starter.start("ingest").await?;
        // One reads, the other stands by.
        let collects = vec![starter.start("collect").await?, starter.start("collect").await?];
        let (mut pipelines, mut sinks) = (Vec::new(), Vec::new());
        for _ in 0..options.workers {
            pipelines.push(starter.start("pipeline").await?);
            sinks.push(starter.start("sinks").await?);
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
            collects,
            pipelines,
            sinks,
            starter,
            client,
            http,
            gateway_url,
            place,
            rate: options.rate,
            disks,
            receivers,
            set_asides: SetAsides::new(options.scenario.death),
        })
    }

    pub(super) const fn receivers(&self) -> Option<&Receivers> {
        self.receivers.as_ref()
    }

    fn own_receivers(&self) -> anyhow::Result<&Receivers> {
        self.receivers.as_ref().context("expected receivers for this fault, found none")
    }

    pub(super) fn gateway(&self) -> &str {
        &self.gateway_url
    }

    /// Makes one fault happen, from its beginning to its end. Returns false if it did not happen.
    pub(super) async fn inject(&mut self, fault: Fault, plan: &mut Plan, load: &Load) -> anyhow::Result<bool> {
        let pipeline = plan.below(self.pipelines.len());
        let sink = plan.below(self.sinks.len());
        let collect = plan.below(self.collects.len());
        match fault {
            Fault::KillGateway => self.gateway.kill().await?,
            Fault::KillCollect => self.collects[collect].kill().await?,
            Fault::KillPipeline => self.pipelines[pipeline].kill().await?,
            Fault::KillSink => self.sinks[sink].kill().await?,
            Fault::KillNats => kill(self.nats[plan.below(self.nats.len())].pid()),
            Fault::KillClickHouse => kill(self.clickhouse.pid()),
            Fault::KillAll => self.kill_all().await?,
            Fault::FreezeCollect => {
                for process in &self.collects {
                    freeze(process, LEASE_S).await;
                }
            }
            Fault::FreezePipeline => freeze(&self.pipelines[pipeline], ACK_WAIT_S).await,
            Fault::FreezeSink => freeze(&self.sinks[sink], SINK_ACK_WAIT_S).await,
            Fault::FreezeClickHouse => {
                pause(self.clickhouse.pid(), Duration::from_secs(INSERT_S * 2 + 1)).await;
            }
            Fault::FreezeNats => {
                let server = plan.below(self.nats.len());
                pause(self.nats[server].pid(), plan.lasting(2_000, 12_000)).await;
            }
            Fault::CrashGateway => return self.crash_gateway(plan).await,
            Fault::CrashCollect => return self.crash_collect(collect, plan).await,
            Fault::CrashPipeline => return self.crash_pipeline(pipeline, plan).await,
            Fault::CrashSink => return self.crash_sink(sink, plan).await,
            Fault::RollingRestart => {
                self.gateway.restart().await?;
                let processes = self.collects.iter_mut().chain(&mut self.pipelines).chain(&mut self.sinks);
                for process in processes {
                    process.restart().await?;
                }
            }
            Fault::Rescale => self.rescale(plan).await?,
            Fault::SinksAway => self.sinks_away(plan.lasting(5_000, 20_000)).await?,
            Fault::ReadOnlyClickHouse => self.with_setting("table_readonly", plan.lasting(2_000, 10_000)).await?,
            Fault::TooManyParts => self.with_setting("parts_to_throw_insert", plan.lasting(2_000, 10_000)).await?,
            Fault::ReceiversFail => self.own_receivers()?.fail(plan),
            Fault::ReceiversAway => self.own_receivers()?.away(plan.lasting(2_000, 15_000)).await,
            Fault::SetAside => return self.set_aside(plan, load).await,
            Fault::BucketFails => self.fail_bucket(plan).await?,
            Fault::MemoryLimit => starve(self.clickhouse.pid(), plan.lasting(2_000, 8_000)).await?,
            Fault::DiskFullNats => self.fill_nats(plan, load).await?,
            Fault::DiskFullClickHouse => self.fill_clickhouse(plan).await?,
            Fault::FullStreams => self.fill_streams(plan.millis(500, 2_000), load).await?,
            Fault::NetworkNats => misbehave(self.to_nats.as_ref(), false, plan).await,
            Fault::NetworkClickHouse => misbehave(Some(&self.to_clickhouse), true, plan).await,
            Fault::NetworkGateway => misbehave(Some(&self.to_gateway), true, plan).await,
            Fault::NetworkBucket => misbehave(self.place.bucket().map(Bucket::proxy), false, plan).await,
            Fault::KillLeader => self.kill_leader(Stream::ALL[plan.below(3)]).await?,
            Fault::RollingNats => self.roll_nats().await?,
        }
        Ok(true)
    }

    async fn crash_gateway(&mut self, plan: &mut Plan) -> anyhow::Result<bool> {
        let points = [Point::BeforeStore, Point::BeforeStoreAck, Point::AfterStoreAck];
        let passings = passings_at(self.rate, 300);
        crash(&mut self.gateway, &points, passings, plan).await
    }

    async fn crash_pipeline(&mut self, pipeline: usize, plan: &mut Plan) -> anyhow::Result<bool> {
        let points = [Point::BeforePublish, Point::BeforePubAck, Point::AfterPubAck, Point::AfterAck];
        let passings = passings_at(self.rate, 500);
        crash(&mut self.pipelines[pipeline], &points, passings, plan).await
    }

    async fn crash_sink(&mut self, sink: usize, plan: &mut Plan) -> anyhow::Result<bool> {
        let points = [Point::BeforeInsert, Point::AfterInsert, Point::AfterAck];
        let passings = if plan.below(2) == 0 { 1 } else { 4 };
        crash(&mut self.sinks[sink], &points, passings, plan).await
    }

    /// Adds or removes one process of the pipeline or of the sinks.
    async fn rescale(&mut self, plan: &mut Plan) -> anyhow::Result<()> {
        let (role, processes) =
            if plan.below(2) == 0 { ("pipeline", &mut self.pipelines) } else { ("sinks", &mut self.sinks) };
        let more = processes.len() == 1 || processes.len() < WORKERS_MAX && plan.below(2) == 0;
        tracing::info!(role, more, "rescaling");
        if more {
            processes.push(self.starter.start(role).await?);
        } else {
            processes.swap_remove(plan.below(processes.len())).end().await;
        }
        Ok(())
    }

    async fn sinks_away(&mut self, time: Duration) -> anyhow::Result<()> {
        for sink in &self.sinks {
            sink.end().await;
        }
        sleep(time).await;
        for sink in &mut self.sinks {
            sink.start_again().await?;
        }
        Ok(())
    }

    /// Sets `name` of the tables to 1 for a while. Otherwise ClickHouse works.
    async fn with_setting(&self, name: &str, time: Duration) -> anyhow::Result<()> {
        for table in TABLES {
            self.execute(&format!("SYSTEM STOP MERGES {table}")).await?;
            self.execute(&format!("ALTER TABLE {table} MODIFY SETTING {name} = 1")).await?;
        }
        sleep(time).await;
        for table in TABLES {
            self.execute(&format!("ALTER TABLE {table} RESET SETTING {name}")).await?;
            self.execute(&format!("SYSTEM START MERGES {table}")).await?;
        }
        Ok(())
    }

    async fn kill_all(&mut self) -> anyhow::Result<()> {
        kill(self.clickhouse.pid());
        self.nats.iter().for_each(|server| kill(server.pid()));
        let processes = self.pipelines.iter_mut().chain(&mut self.sinks).chain(&mut self.collects);
        for process in processes.chain([&mut self.gateway]) {
            process.kill().await?;
        }
        Ok(())
    }

    async fn kill_leader(&self, stream: Stream) -> anyhow::Result<()> {
        // The fault before this one may have left the stream without a leader, and then no server answers.
        let led = async || {
            let stream = jetstream::new(self.client.clone()).get_stream(stream.name()).await.ok()?;
            stream.cached_info().cluster.as_ref()?.leader.clone()
        };
        let leader = poll::until("the stream has a leader", Duration::from_secs(120), led).await?;
        let number = leader.strip_prefix("node-").and_then(|number| number.parse::<usize>().ok());
        kill(number.and_then(|number| self.nats.get(number)).and_then(nats::Running::pid));
        Ok(())
    }

    /// Replaces the NATS servers, one after the other.
    async fn roll_nats(&self) -> anyhow::Result<()> {
        for server in &self.nats {
            kill(server.pid());
            self.cluster_whole().await?;
        }
        Ok(())
    }

    /// Waits until every server's replicas of all streams are up to date.
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

    /// Ends all impairments.
    pub(super) async fn heal(&self) -> anyhow::Result<()> {
        let proxies = self.to_nats.iter().chain(self.place.bucket().map(Bucket::proxy));
        proxies.chain([&self.to_clickhouse, &self.to_gateway]).for_each(Proxy::heal);
        self.collects.iter().chain(&self.pipelines).chain(&self.sinks).for_each(Process::thaw);
        if self.nats.len() > 1 {
            self.cluster_whole().await?;
        }
        Ok(())
    }

    pub(super) async fn has_row(&self, id: &str) -> anyhow::Result<bool> {
        let rows: Vec<(u64,)> = self.rows(&format!("SELECT count() FROM events WHERE id = '{id}'")).await?;
        Ok(rows.first().is_some_and(|(count,)| *count > 0))
    }

    /// The rows of a query, each as a tuple. Asks ClickHouse directly, not through the proxy.
    pub(super) async fn rows<T: DeserializeOwned>(&self, sql: &str) -> anyhow::Result<Vec<T>> {
        let text = self.execute(&format!("{sql} FORMAT JSONCompactEachRow")).await?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    async fn execute(&self, sql: &str) -> anyhow::Result<String> {
        let url = format!("{}/?database=headrace&output_format_json_quote_64bit_integers=0", self.clickhouse.url());
        let response = self.http.post(url).body(sql.to_owned()).send().await?;
        let (status, text) = (response.status(), response.text().await?);
        anyhow::ensure!(status.is_success(), "{sql}: {status} {text}");
        Ok(text)
    }

    /// Fails if a process has ended by itself. None may, whatever happens around it.
    pub(super) fn ensure_all_run(&self) -> anyhow::Result<()> {
        let mut processes = [&self.gateway].into_iter().chain(&self.collects).chain(&self.pipelines).chain(&self.sinks);
        let ended = processes.find_map(|process| Some((process, process.ended()?)));
        ended.map_or(Ok(()), |(process, status)| anyhow::bail!("ended by itself ({status}): {}", process.log_tail()))
    }

    /// The ends of all logs.
    pub(super) fn logs(&self) -> String {
        let processes = [&self.gateway].into_iter().chain(&self.collects).chain(&self.pipelines).chain(&self.sinks);
        processes.map(Process::log_tail).collect::<Vec<_>>().join("\n\n")
    }

    pub(super) async fn stop(self) {
        // All at once: a process that waits for its last messages must not hold up the others.
        let processes = [&self.gateway].into_iter().chain(&self.collects).chain(&self.pipelines).chain(&self.sinks);
        join_all(processes.map(Process::stop)).await;
        join_all(self.nats.into_iter().map(nats::Running::stop)).await;
        self.clickhouse.stop().await;
        drop(self.disks);
    }
}

/// At the latest at which passing a process crashes: `most`, or what comes by in about five seconds where two share the
/// load of `rate` deliveries a second.
fn passings_at(rate: u32, most: u64) -> u64 {
    most.min(u64::from(rate) * 5 / 2)
}
