//! The servers of a case: NATS, the embedded ClickHouse, and each role of the product as a process of its own. Each
//! case gets fresh ones. They all end with this process, and none of their data may remain.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use headrace_local::child::{Child, Environment, Spec};
use headrace_local::install::{Installer, Terminal};
use headrace_local::{clickhouse, nats, poll};
use headrace_runtime::broker::Broker;
use headrace_runtime::config::{self, Limits, Streams};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde::Deserialize;
use serde_json::json;
use tempfile::TempDir;

use crate::bodies::SECRET;
use crate::cli::Tested;
use crate::client;
use crate::usage::Meter;

/// With this first argument, this binary is the product.
pub(crate) const PRODUCT: &str = "headrace";
/// The bearer token of those who post records.
pub(crate) const TOKEN: &str = "a-token-of-benches";
/// The name of a process of all roles.
pub(crate) const TOGETHER: &str = "product";
/// How long a role may take until it works, including the first migration.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long a role may take to stop.
const GRACE: Duration = Duration::from_secs(10);

/// A nats-server with Headrace's streams in a directory of its own.
pub(crate) struct Nats {
    server: nats::Running,
    /// The settings of the streams.
    pub(crate) streams: Streams,
    /// A connection to it.
    pub(crate) client: async_nats::Client,
    // Drop this after the server, which writes into it.
    dir: TempDir,
}

impl Nats {
    /// Starts the server. RAW will get `raw_bytes_max`, or less if the disk allows less. The product makes its streams
    /// itself, so that each build has them as it wants them.
    pub(crate) async fn start(raw_bytes_max: u64) -> anyhow::Result<Self> {
        let program = install(Installer::nats_server).await?;
        let dir = TempDir::with_prefix("headrace-bench-").context("cannot make a directory")?;
        let streams = streams(dir.path(), raw_bytes_max)?;
        let server = nats::start(nats::Config::new(program, dir.path().join("nats"))).await?;
        // The same options as the product's own connection: see `headrace_runtime::broker`.
        let options = async_nats::ConnectOptions::new().client_capacity(16_384).skip_subject_validation(true);
        let client = options.connect(server.url()).await.context("cannot connect to NATS")?;
        Ok(Self { server, streams, client, dir })
    }

    /// A connection as the product has it.
    pub(crate) async fn broker(&self) -> anyhow::Result<Broker> {
        let settings = config::Nats { url: self.url(), ..config::Nats::default() };
        Broker::connect(&settings, &self.streams, "bench").await
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    /// Its name and process id.
    pub(crate) fn process(&self) -> Option<(String, u32)> {
        Some(("nats".to_owned(), self.server.pid()?))
    }

    /// Stops it and removes its data.
    pub(crate) async fn stop(self) {
        self.server.stop().await;
    }
}

/// A running role of the product.
struct Role {
    child: Child,
    ready: Ready,
}

/// The part of a role's ready file that we read.
#[derive(Deserialize)]
struct Ready {
    gateway: Option<String>,
    metrics: String,
}

/// The part of `/readyz` that we read.
#[derive(Deserialize)]
struct Readiness {
    ready: bool,
    components: BTreeMap<String, Component>,
}

#[derive(Deserialize)]
struct Component {
    state: String,
}

/// The product, in parts, with everything that it needs.
pub(crate) struct Product {
    // The order of these fields is the order in which the processes are killed when a case fails.
    roles: BTreeMap<&'static str, Role>,
    clickhouse: Option<clickhouse::Running>,
    /// Its broker.
    pub(crate) nats: Nats,
    /// What each role is a process of.
    program: PathBuf,
    /// The folder that it reads, if it takes records at all.
    pub(crate) folder: Option<PathBuf>,
}

impl Product {
    /// Starts only the gateway.
    pub(crate) async fn gateway(nats: Nats, tested: &Tested) -> anyhow::Result<Self> {
        let program = program(tested)?;
        Self { roles: BTreeMap::new(), clickhouse: None, nats, program, folder: None }.with(&["ingest"]).await
    }

    /// Starts everything.
    pub(crate) async fn everything(nats: Nats, tested: &Tested) -> anyhow::Result<Self> {
        Self::with_clickhouse(nats, tested).await?.with(&["sinks", "pipeline", "ingest"]).await
    }

    /// Starts everything. It also takes records, posted or as lines in a folder.
    pub(crate) async fn with_records(nats: Nats, tested: &Tested) -> anyhow::Result<Self> {
        let mut product = Self::with_clickhouse(nats, tested).await?;
        let folder = product.nats.dir.path().join("lines");
        std::fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        product.folder = Some(folder);
        product.with(&["sinks", "pipeline", "ingest", "collect"]).await
    }

    /// Starts everything, all roles in one process that gets no more than `limit_mb` MB from the system.
    pub(crate) async fn limited(nats: Nats, tested: &Tested, limit_mb: u64) -> anyhow::Result<Self> {
        let mut product = Self::with_clickhouse(nats, tested).await?;
        let config = product.configure(Some(limit_mb))?;
        let (dir, roles) = (product.nats.dir.path(), ["ingest", "pipeline", "sinks"]);
        let started = start_roles(&product.program, TOGETHER, &roles, &config, dir).await;
        let started = started.context("`headrace run` does not work")?;
        let pid = i32::try_from(started.child.pid()).ok().and_then(Pid::from_raw);
        let bytes = Some(limit_mb * 1_000_000);
        let limit = Rlimit { current: bytes, maximum: bytes };
        prlimit(pid, Resource::Data, limit).context("cannot limit the memory of the product")?;
        product.roles.insert(TOGETHER, started);
        Ok(product)
    }

    async fn with_clickhouse(nats: Nats, tested: &Tested) -> anyhow::Result<Self> {
        let program = program(tested)?;
        let library = install(Installer::clickhouse_library).await?;
        let arguments: Vec<OsString> = vec![PRODUCT.into(), "clickhouse".into(), "--library".into(), library.into()];
        let server = clickhouse::Config::new(&program, arguments, nats.dir.path().join("clickhouse"));
        let clickhouse = Some(clickhouse::start(server).await?);
        Ok(Self { roles: BTreeMap::new(), clickhouse, nats, program, folder: None })
    }

    async fn with(mut self, roles: &[&'static str]) -> anyhow::Result<Self> {
        let config = self.configure(None)?;
        for role in roles {
            let started = start_roles(&self.program, role, &[role], &config, self.nats.dir.path()).await;
            self.roles.insert(role, started.with_context(|| format!("`headrace run {role}` does not work"))?);
        }
        Ok(self)
    }

    /// Writes the configuration, for a process that gets no more than `limit_mb` MB if that is given.
    fn configure(&self, limit_mb: Option<u64>) -> anyhow::Result<PathBuf> {
        let config = self.nats.dir.path().join("headrace.toml");
        // Only settings that every build since the first bench knows, because `--product` may be an older one.
        let Streams { raw, events, alerts, dead, .. } = &self.nats.streams;
        let bytes = |limits: &Limits| json!({ "max_bytes": limits.max_bytes, "max_age_hours": limits.max_age_hours });
        let mut settings = json!({
            "admin": { "listen": "127.0.0.1:0" },
            "nats": { "url": self.nats.server.url() },
            "streams": { "raw": bytes(raw), "events": bytes(events), "alerts": bytes(alerts), "dead": bytes(dead) },
            "ingest": { "listen": "127.0.0.1:0", "github": { "secrets": [SECRET] } },
        });
        if let Some(url) = self.clickhouse_url() {
            settings["sinks"] = json!({ "clickhouse": { "url": url, "compress": false } });
        }
        if let Some(folder) = &self.folder {
            settings["ingest"]["ndjson"] = json!({ "tokens": [TOKEN], "folder": { "url": folder, "interval_s": 1 } });
        }
        if let Some(limit_mb) = limit_mb {
            // The share that the product takes by itself where a limit is there at its start.
            settings["memory"] = json!({ "budget_mb": limit_mb / 8 * 5 });
        }
        let text = toml::to_string(&settings).context("cannot write the product's configuration")?;
        std::fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        Ok(config)
    }

    /// Where the gateway listens.
    pub(crate) fn address(&self) -> anyhow::Result<SocketAddr> {
        let gateway = self.roles.values().find_map(|role| role.ready.gateway.as_deref());
        address(gateway.context("the gateway told no address")?)
    }

    /// Where ClickHouse listens.
    pub(crate) fn clickhouse_url(&self) -> Option<String> {
        self.clickhouse.as_ref().map(clickhouse::Running::url)
    }

    /// ClickHouse's process.
    pub(crate) fn clickhouse_pid(&self) -> Option<u32> {
        self.clickhouse.as_ref().and_then(clickhouse::Running::pid)
    }

    /// A meter of all its processes.
    pub(crate) fn meter(&self) -> Meter {
        let name = |role: &&str| if *role == "ingest" { "gateway" } else { role }.to_owned();
        let roles = self.roles.iter().map(|(role, running)| (name(role), running.child.pid()));
        let clickhouse = self.clickhouse_pid().map(|pid| ("clickhouse".to_owned(), pid));
        Meter::new(roles.chain(self.nats.process()).chain(clickhouse))
    }

    /// The last lines of the roles' logs, to find the cause of a failure.
    pub(crate) fn logs(&self) -> String {
        let log = |(role, running): (&&str, &Role)| format!("--- {role}\n{}\n", running.child.log_tail());
        self.roles.iter().map(log).collect()
    }

    /// Stops everything, the sources first.
    pub(crate) async fn stop(self) {
        for role in [TOGETHER, "collect", "ingest", "pipeline", "sinks"] {
            if let Some(running) = self.roles.get(role) {
                running.child.stop(GRACE).await;
            }
        }
        if let Some(clickhouse) = self.clickhouse {
            clickhouse.stop().await;
        }
        self.nats.stop().await;
    }
}

/// Starts a process of `roles`, called `name`.
async fn start_roles(program: &Path, name: &str, roles: &[&str], config: &Path, dir: &Path) -> anyhow::Result<Role> {
    let ready_file = dir.join(format!("{name}.ready.json"));
    let mut arguments: Vec<OsString> = [PRODUCT, "run"].iter().chain(roles).map(OsString::from).collect();
    arguments.extend(["--config".into(), config.into(), "--ready-file".into(), ready_file.clone().into()]);
    let spec = Spec {
        program: program.to_owned(),
        arguments,
        environment: Environment::Inherited,
        log: dir.join(format!("{name}.log")),
    };
    let child = Child::spawn(spec).await?;
    let works = async {
        let read = async || std::fs::read(&ready_file).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let ready: Ready = poll::until("it writes its ready file", READY_WITHIN, read).await?;
        let metrics = address(&ready.metrics)?;
        poll::until("all its components are healthy", READY_WITHIN, async || healthy(metrics).await).await?;
        anyhow::Ok(ready)
    };
    let worked = tokio::select! {
        works = works => works,
        status = child.wait() => Err(anyhow::anyhow!("it ended: {status}")),
    };
    let ready = worked.with_context(|| format!("its log says:\n{}", child.log_tail()))?;
    Ok(Role { child, ready })
}

async fn healthy(metrics: SocketAddr) -> Option<()> {
    let (_, body) = client::get(metrics, "/readyz").await.ok()?;
    let Readiness { ready, components } = serde_json::from_slice(&body).ok()?;
    (ready && components.values().all(|component| component.state == "healthy")).then_some(())
}

/// The address in `http://<address>`.
fn address(url: &str) -> anyhow::Result<SocketAddr> {
    let address = url.trim_start_matches("http://");
    address.parse().with_context(|| format!("expected http:// and an address, found `{url}`"))
}

fn program(tested: &Tested) -> anyhow::Result<PathBuf> {
    match &tested.product {
        Some(program) => program.canonicalize().with_context(|| format!("cannot find {}", program.display())),
        None => own_program(),
    }
}

/// This program's file.
pub(crate) fn own_program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("cannot find this program's own file")
}

/// Runs an installer on a thread that may block.
pub(crate) async fn install<E>(what: fn(&Installer) -> Result<PathBuf, E>) -> anyhow::Result<PathBuf>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let install = move || anyhow::Ok(what(&Installer::for_user(Arc::new(Terminal))?)?);
    tokio::task::spawn_blocking(install).await.context("the installer panicked")?
}

/// The product's default streams, or smaller ones if the disk is smaller.
fn streams(dir: &Path, raw_bytes_max: u64) -> anyhow::Result<Streams> {
    let disk = rustix::fs::statvfs(dir).with_context(|| format!("cannot see how much disk {} has", dir.display()))?;
    let half = disk.f_bavail * disk.f_frsize / 2;
    let mut streams = Streams::default();
    streams.raw.max_bytes = raw_bytes_max.min(half / 2);
    streams.events.max_bytes = streams.events.max_bytes.min(half / 4);
    streams.alerts.max_bytes = streams.alerts.max_bytes.min(half / 16);
    streams.dead.max_bytes = streams.dead.max_bytes.min(half / 16);
    Ok(streams)
}
