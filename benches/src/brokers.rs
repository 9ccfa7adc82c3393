//! Brokers to compare: one nats-server, or three in a cluster. Each has only the stream RAW.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::{self, stream};
use headrace_local::free_port;
use headrace_local::install::Installer;
use headrace_local::nats::{self, SyncInterval};
use headrace_local::poll;
use headrace_runtime::broker::Stream;
use headrace_schemas::subject;
use tempfile::TempDir;

use crate::servers::install;

/// How long a cluster may take to choose its leaders.
const CLUSTER_WITHIN: Duration = Duration::from_secs(60);
/// How long RAW remembers an id, as by default.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// A running broker.
pub(crate) struct Broker {
    servers: Vec<nats::Running>,
    /// A connection to the server that leads RAW.
    pub(crate) client: async_nats::Client,
    pub(crate) raw: stream::Stream,
    // Drop this after the servers, which write into it.
    _dir: TempDir,
}

impl Broker {
    /// Starts `count` servers and makes RAW on all of them. RAW accepts both forms of batches.
    pub(crate) async fn start(count: usize, sync_interval: SyncInterval) -> anyhow::Result<Self> {
        let dir = TempDir::with_prefix("headrace-bench-").context("cannot make a directory")?;
        let program = install(Installer::nats_server).await?;
        let routes = free_ports(count)?;
        let mut servers = Vec::new();
        for (number, route) in routes.iter().enumerate() {
            let mut config = nats::Config::new(&program, dir.path().join(number.to_string()));
            config.name = name(number);
            config.sync_interval = sync_interval;
            config.cluster =
                (count > 1).then(|| nats::Cluster { name: "bench".into(), listen: *route, routes: routes.clone() });
            servers.push(nats::start(config).await?);
        }
        let first = connect(&servers[0]).await?;
        let make = async || make_raw(&first, count).await.ok();
        let raw = poll::until("RAW has its replicas", CLUSTER_WITHIN, make).await?;
        let leader = poll::until("RAW has a leader", CLUSTER_WITHIN, async || leader(&raw).await).await?;
        let leads = |number: &usize| leader == name(*number);
        let client = connect(&servers[(0..count).find(leads).unwrap_or_default()]).await?;
        let raw = jetstream::new(client.clone()).get_stream(Stream::Raw.name()).await.context("RAW does not answer")?;
        Ok(Self { servers, client, raw, _dir: dir })
    }

    pub(crate) fn processes(&self) -> impl Iterator<Item = (String, u32)> {
        self.servers.iter().enumerate().filter_map(|(number, server)| Some((name(number), server.pid()?)))
    }

    /// How many messages RAW has received.
    pub(crate) async fn stored(&self) -> anyhow::Result<u64> {
        Ok(self.raw.get_info().await.context("RAW does not answer")?.state.last_sequence)
    }

    /// Removes everything from RAW. What is not on the disk yet is never written.
    pub(crate) async fn purge(&self) -> anyhow::Result<()> {
        self.raw.purge().await.context("cannot purge RAW").map(|_| ())
    }

    /// Stops it and removes its data.
    pub(crate) async fn stop(self) {
        for server in self.servers {
            server.stop().await;
        }
    }
}

fn name(number: usize) -> String {
    format!("server-{number}")
}

async fn connect(server: &nats::Running) -> anyhow::Result<async_nats::Client> {
    // The same options as the product's own connection: see `headrace_runtime::broker`.
    let options = async_nats::ConnectOptions::new().client_capacity(16_384).skip_subject_validation(true);
    options.connect(server.url()).await.context("cannot connect to NATS")
}

/// Makes RAW as the product does, but with other limits and with batches.
async fn make_raw(client: &async_nats::Client, replicas: usize) -> anyhow::Result<stream::Stream> {
    let config = stream::Config {
        name: Stream::Raw.name().to_owned(),
        subjects: vec![subject::RAW.to_owned()],
        discard: stream::DiscardPolicy::New,
        storage: stream::StorageType::File,
        num_replicas: replicas,
        duplicate_window: DUPLICATE_WINDOW,
        allow_direct: true,
        allow_atomic_publish: true,
        allow_batch_publish: true,
        ..stream::Config::default()
    };
    jetstream::new(client.clone()).create_stream(config).await.context("cannot create RAW")
}

/// The server that leads `raw`. A single server leads everything it has.
async fn leader(raw: &stream::Stream) -> Option<String> {
    let info = raw.get_info().await.ok()?;
    match info.cluster {
        Some(cluster) => cluster.leader,
        None => Some(name(0)),
    }
}

/// Ports that are free now.
fn free_ports(count: usize) -> anyhow::Result<Vec<SocketAddr>> {
    let host = IpAddr::from(Ipv4Addr::LOCALHOST);
    Ok((0..count).map(|_| Ok((host, free_port(host)?).into())).collect::<std::io::Result<_>>()?)
}
