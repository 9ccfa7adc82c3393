//! A real nats-server with JetStream as a supervised child process, alone or as one of a cluster.
//! This must never touch the data: the server owns its directory, and a lock keeps a second one out of it.

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

/// A nats-server to be.
#[derive(Debug, Clone)]
pub struct Config {
    /// `nats-server`, as [`crate::install::Installer::nats_server`] returns it.
    pub program: PathBuf,
    /// The server's name; in a cluster each has its own.
    pub name: String,
    /// JetStream's data, the configuration file and a lock live here; made if absent. One server at a time.
    pub data_dir: PathBuf,
    /// Where clients connect; port 0 takes a free one and keeps it over restarts.
    pub listen: SocketAddr,
    /// The longest message, in bytes. Default 8 MiB, the most that NATS recommends.
    pub max_payload: u32,
    /// When what was written reaches the disk itself. Default one second; the server's own is two minutes.
    pub sync_interval: SyncInterval,
    /// The cluster this server belongs to.
    pub cluster: Option<Cluster>,
    /// Who may connect, and what each may do. With none, anybody may do anything.
    pub users: Vec<User>,
    /// The server's log.
    pub log: PathBuf,
    /// How long it may take to answer; a large JetStream directory is read at the start.
    pub ready_within: Duration,
    /// How it is started again when it dies.
    pub restart: RestartPolicy,
}

/// When the server syncs what it has written. It matters for a power cut or the end of the kernel: the death of the
/// process alone loses nothing that was confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncInterval {
    /// Before each confirmation: one sync for each message of a stream with one replica. A replicated stream syncs
    /// the log of its group instead, for as many messages at once as are waiting.
    Always,
    /// So often, whatever was confirmed meanwhile; not zero.
    Every(Duration),
}

/// A cluster, as each of its servers is told.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// The cluster's name, the same for all.
    pub name: String,
    /// Where the other servers connect to this one.
    pub listen: SocketAddr,
    /// Where the servers listen for each other; naming this one among them is fine.
    pub routes: Vec<SocketAddr>,
}

impl Config {
    /// One server on a free loopback port, with default bounds, logging into `data_dir`.
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
            ready_within: Duration::from_secs(30),
            restart: RestartPolicy::default(),
        }
    }
}

/// Why nats-server did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another nats-server, started by this crate, works on the directory.
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
        /// Bytes wanted.
        needed_bytes: u64,
    },
    /// The directory or the configuration file in it cannot be made or read.
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

/// A nats-server that runs and is kept running. Dropped, it is killed.
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

    /// The same as a URL.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Its HTTP monitoring (`/healthz`, `/jsz`, `/connz`), on loopback.
    pub fn monitor(&self) -> SocketAddr {
        self.monitor
    }

    /// What the paths of its monitoring begin with. A server with users answers below a path that nobody can guess,
    /// because monitoring asks for no password and tells who is connected and what the streams are.
    pub fn monitor_path(&self) -> &str {
        &self.monitor_path
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.pid()
    }

    /// What happens to its process.
    pub fn events(&self) -> watch::Receiver<Event> {
        self.child.events()
    }

    /// Ends it gently.
    pub async fn stop(self) {
        self.child.stop().await;
    }
}

/// Starts a nats-server, waits until JetStream answers, and keeps it running.
///
/// # Errors
/// See [`Error`]; nothing is left running then.
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
