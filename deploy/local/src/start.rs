//! What is the same for every local server at its start: the choice of a port, the wait for an answer, and the errors.
//!
//! Nothing here may know a particular server. The server's own module knows how to ask it, and what else can go wrong.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::child::{Child, RestartPolicy, Service, SpawnError, Supervised, supervise};
use crate::{net, poll};

/// How many ports we try when other programs keep taking the chosen one.
const PORT_ATTEMPTS_MAX: u32 = 5;

/// Why a server did not start. No process is left running then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another program listens on the port already.
    #[error("port {port} is in use by another program: {owner}; stop it or choose another port")]
    PortInUse {
        /// The port.
        port: u16,
        /// Name and process id, if this user may know them.
        owner: String,
    },
    /// No free port was found.
    #[error("cannot find a free port on {host}")]
    NoPort {
        /// The address of the interface.
        host: IpAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The program could not be run.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The server ended while it started.
    #[error("{name} ended while starting ({status}); its log says:\n{log}")]
    Exited {
        /// The server.
        name: &'static str,
        /// Its exit status.
        status: String,
        /// The last lines of its log.
        log: String,
    },
    /// The server runs but does not answer.
    #[error("{name} does not answer on {address} after {within:?}; its log says:\n{log}")]
    Silent {
        /// The server.
        name: &'static str,
        /// Where it should answer.
        address: SocketAddr,
        /// How long it had.
        within: Duration,
        /// The last lines of its log.
        log: String,
    },
}

impl StartError {
    /// Whether another program took the port between our choice and the server's start.
    fn is_lost_port(&self, configured: u16) -> bool {
        match self {
            Self::PortInUse { port, .. } => *port != configured,
            // No server has an exit code for this, but each logs the system's words.
            Self::Exited { log, .. } => configured == 0 && log.to_lowercase().contains("address already in use"),
            Self::NoPort { .. } | Self::Spawn(_) | Self::Silent { .. } => false,
        }
    }
}

/// Replaces port 0 by a free port. Restarts keep it.
pub(crate) fn with_port(listen: SocketAddr) -> Result<SocketAddr, StartError> {
    let host = listen.ip();
    let port = match listen.port() {
        0 => net::free_port(host).map_err(|source| StartError::NoPort { host, source })?,
        port => port,
    };
    Ok(SocketAddr::new(host, port))
}

/// Fails, naming the owner, if a program listens at `address`.
pub(crate) fn require_free(address: SocketAddr) -> Result<(), StartError> {
    if net::is_taken(address) {
        let port = address.port();
        return Err(StartError::PortInUse { port, owner: net::listener_on(port) });
    }
    Ok(())
}

/// Waits until `answers` returns true, the child ends, or `within` has passed.
pub(crate) async fn answered<F, Fut>(
    child: &Child,
    name: &'static str,
    address: SocketAddr,
    within: Duration,
    mut answers: F,
) -> Result<(), StartError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let condition = || {
        let answer = answers();
        async { answer.await.then_some(()) }
    };
    tokio::select! {
        answered = poll::until(name, within, condition) => {
            answered.map_err(|_| StartError::Silent { name, address, within, log: child.log_tail() })
        }
        status = child.wait() => {
            Err(StartError::Exited { name, status: status.to_string(), log: child.log_tail() })
        }
    }
}

/// Starts a server that listens on `configured`, and keeps it running. With port 0, it tries another free port if a
/// program takes the chosen one. `make` chooses the ports. The second value of `make` is returned with the running
/// child.
pub(crate) async fn keep_running<S, T>(
    configured: SocketAddr,
    policy: RestartPolicy,
    make: impl Fn() -> Result<(S, T), S::Error>,
) -> Result<(Supervised, T), S::Error>
where
    S: Service,
    S::Error: AsStartError,
{
    let mut attempts = 0;
    loop {
        attempts += 1;
        let (service, addresses) = make()?;
        match supervise(service, policy).await {
            Ok(child) => return Ok((child, addresses)),
            Err(error) => {
                let lost = error.as_start_error().is_some_and(|error| error.is_lost_port(configured.port()));
                if !lost || attempts == PORT_ATTEMPTS_MAX {
                    return Err(error);
                }
                tracing::debug!(%error, "a chosen port was taken by another program; choosing again");
            }
        }
    }
}

/// The common part of a server's error, if it is one of those that all servers have.
pub(crate) trait AsStartError {
    fn as_start_error(&self) -> Option<&StartError>;
}

impl AsStartError for StartError {
    fn as_start_error(&self) -> Option<&StartError> {
        Some(self)
    }
}
