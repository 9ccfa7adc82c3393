//! A real nats-server with JetStream as a supervised child process, alone or in a cluster.
//!
//! This module must never touch the data: they are the server's. A lock keeps a second server out of the directory.

mod config;
mod service;
mod users;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use self::service::Server;
pub use self::users::{Permissions, User, authorization};
use crate::child::{Event, RestartPolicy, Supervised};
use crate::start::{self, AsStartError, StartError};

/// What to start.
#[derive(Debug, Clone)]
pub struct Config {
    /// `nats-server`, as [`crate::install::Installer::nats_server`] returns it.
    pub program: PathBuf,
    /// The server's name. In a cluster, each server has its own.
    pub name: String,
    /// The directory of JetStream's data, the configuration file and a lock; made if absent. Only one server at a time
    /// may use it.
    pub data_dir: PathBuf,
    /// Where clients connect. Port 0 takes a free one, and restarts keep it.
    pub listen: SocketAddr,
    /// The longest message, in bytes. Default 8 MiB, the most that NATS recommends.
    pub max_payload: u32,
    /// When the server syncs to the disk what it has written. Default one second. The server's own default is two
    /// minutes.
    pub sync_interval: SyncInterval,
    /// The cluster to which this server belongs.
    pub cluster: Option<Cluster>,
    /// Who may connect, and what each may do. If empty, anybody may do anything.
    pub users: Vec<User>,
    /// Further lines of the server's configuration file, such as a block `tls`.
    pub more: String,
    /// The server's log file.
    pub log: PathBuf,
    /// How long the server may take until it answers. At its start, it reads its whole JetStream directory, which takes
    /// long if that is large.
    pub ready_within: Duration,
    /// How to start the server again when it dies.
    pub restart: RestartPolicy,
}

/// When the server syncs what it has written. This matters when the power fails or the kernel crashes. If only the
/// process dies, nothing confirmed is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncInterval {
    /// Before each confirmation. A stream with one replica syncs once for each message. A replicated stream syncs the
    /// log of its Raft group, once for all messages that are waiting.
    Always,
    /// At this interval. Messages are confirmed in between, before they are synced. Must not be zero.
    Every(Duration),
}

/// A cluster, as each of its servers must know it.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// The cluster's name, the same for all.
    pub name: String,
    /// Where the other servers connect to this one.
    pub listen: SocketAddr,
    /// Where the servers listen for each other. This server's own address may be among them.
    pub routes: Vec<SocketAddr>,
}

impl Config {
    /// One server on a free loopback port, with default bounds and its log in `data_dir`.
    pub fn new(program: impl Into<PathBuf>, data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        Self {
            program: program.into(),
            name: "headrace-local".into(),
            log: data_dir.join("nats-server.log"),
            data_dir,
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            max_payload: 8 << 20,
            sync_interval: SyncInterval::Every(Duration::from_secs(1)),
            cluster: None,
            users: Vec::new(),
            more: String::new(),
            ready_within: Duration::from_secs(30),
            restart: RestartPolicy::default(),
        }
    }
}

/// Why nats-server did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another nats-server that this crate started uses the directory.
    #[error("the NATS data directory {path} is in use by another server; stop that one or name another directory")]
    DataDirInUse {
        /// The directory.
        path: PathBuf,
    },
    /// JetStream could not store anything.
    #[error(
        "the file system of the NATS data directory {path} is full: {free_bytes} bytes are free and {needed_bytes} \
             are the least to start with; make room or name another directory"
    )]
    DataDirFull {
        /// The directory.
        path: PathBuf,
        /// Bytes free.
        free_bytes: u64,
        /// Bytes needed.
        needed_bytes: u64,
    },
    /// The directory, or the configuration file in it, cannot be made or read.
    #[error("cannot use the NATS data directory {path}")]
    DataDir {
        /// The directory or file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// What can go wrong with any server.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl AsStartError for Error {
    fn as_start_error(&self) -> Option<&StartError> {
        match self {
            Self::Start(error) => Some(error),
            Self::DataDirInUse { .. } | Self::DataDirFull { .. } | Self::DataDir { .. } => None,
        }
    }
}

/// A nats-server that runs, and is started again when it dies. Dropping this kills it.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    monitor: SocketAddr,
    monitor_path: String,
    child: Supervised,
}

impl Running {
    /// Where clients connect, on this machine.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same address as a URL.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// The address of its HTTP monitoring (`/healthz`, `/jsz`, `/connz`), on loopback.
    pub fn monitor(&self) -> SocketAddr {
        self.monitor
    }

    /// The prefix of the monitoring's paths. Monitoring asks for no password, and it shows who is connected and which
    /// streams exist. So a server with users answers only below a path that nobody can guess.
    pub fn monitor_path(&self) -> &str {
        &self.monitor_path
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.pid()
    }

    /// A channel with the state of its process.
    pub fn events(&self) -> watch::Receiver<Event> {
        self.child.events()
    }

    /// Asks the server to end and waits for that.
    pub async fn stop(self) {
        self.child.stop().await;
    }
}

/// Starts a nats-server, waits until JetStream answers, and keeps it running.
///
/// # Errors
/// See [`Error`]. No process is left running then.
pub async fn start(config: Config) -> Result<Running, Error> {
    let lock = service::lock(&config.data_dir)?;
    let (child, (address, monitor, monitor_path)) = start::keep_running(config.listen, config.restart, || {
        let server = Server::new(config.clone(), Arc::clone(&lock))?;
        let addresses = (server.address(), server.monitor(), server.monitor_path().to_owned());
        Ok((server, addresses))
    })
    .await?;
    Ok(Running { address, monitor, monitor_path, child })
}
