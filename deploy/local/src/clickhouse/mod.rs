//! A supervised child process that serves ClickHouse. Its program usually has the engine as a library.
//!
//! This crate must never load the engine itself: its 566 MB belong in the child alone.

mod service;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;

use self::service::Server;
use crate::child::{Event, RestartPolicy, Supervised};
use crate::start::{self, StartError};

/// A process that serves ClickHouse's HTTP interface.
#[derive(Debug, Clone)]
pub struct Config {
    /// The program, usually the caller's own.
    pub program: PathBuf,
    /// The arguments that make it serve, such as `clickhouse`. We append `--data-dir D --listen A`.
    pub args: Vec<OsString>,
    /// The engine's data; made if absent. Only one server at a time may use it.
    pub data_dir: PathBuf,
    /// Where it listens. Port 0 takes a free one, and restarts keep it.
    pub listen: SocketAddr,
    /// The process's log file.
    pub log: PathBuf,
    /// How long the process may take until it answers. At its start, it loads the parts of large tables.
    pub ready_within: Duration,
    /// How to start the process again when it dies.
    pub restart: RestartPolicy,
}

impl Config {
    /// A server on a free loopback port, with default bounds and its log in `data_dir`.
    pub fn new(program: impl Into<PathBuf>, args: Vec<OsString>, data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        Self {
            program: program.into(),
            args,
            log: data_dir.join("headrace-clickhouse.log"),
            data_dir,
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            ready_within: Duration::from_secs(60),
            restart: RestartPolicy::default(),
        }
    }
}

/// A ClickHouse that runs, and is started again when it dies. Dropping this kills it.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    child: Supervised,
}

impl Running {
    /// Where clients connect, on this machine.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same address as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.pid()
    }

    /// A channel with the state of its process.
    pub fn events(&self) -> watch::Receiver<Event> {
        self.child.events()
    }

    /// Asks the process to end and waits for that.
    pub async fn stop(self) {
        self.child.stop().await;
    }
}

/// Starts the process, waits until it answers, and keeps it running.
///
/// # Errors
/// See [`StartError`].
pub async fn start(config: Config) -> Result<Running, StartError> {
    let (child, address) = start::keep_running(config.listen, config.restart, || {
        let server = Server::new(config.clone())?;
        let address = server.address();
        Ok((server, address))
    })
    .await?;
    Ok(Running { address, child })
}
