//! What starting any local server has in common: a port that is chosen once, the wait for an answer, and the errors.
//! What a server is asked, and what else can go wrong with it, is its own module's business.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::child::{Child, RestartPolicy, Service, SpawnError, Supervised, supervise};
use crate::{net, poll};

/// How often another free port is tried when a program took the chosen one in between.
const PORT_ATTEMPTS_MAX: u32 = 5;

/// Why a server did not start. Nothing is left running then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Somebody listens on the port already.
    #[error("port {port} is in use by another program: {owner}; stop it or choose another port")]
    PortInUse {
        /// The port.
        port: u16,
        /// Name and process id, if this user may know them.
        owner: String,
    },
    /// No port could be had.
    #[error("cannot find a free port on {host}")]
    NoPort {
        /// The interface.
        host: IpAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The program cannot be run.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// It ended while starting.
    #[error("{name} ended while starting ({status}); its log says:\n{log}")]
    Exited {
        /// The server.
        name: &'static str,
        /// Its exit status.
        status: String,
        /// The last lines of its log.
        log: String,
    },
    /// It runs and does not answer.
    #[error("{name} does not answer on {address} after {within:?}; its log says:\n{log}")]
    Silent {
        /// The server.
        name: &'static str,
        /// Where it should.
        address: SocketAddr,
        /// The deadline.
        within: Duration,
        /// The last lines of its log.
        log: String,
    },
}

impl StartError {
    /// A port that we chose was taken between choosing and listening.
    fn is_lost_port(&self, configured: u16) -> bool {
        match self {
            Self::PortInUse { port, .. } => *port != configured,
            // No server has a code for it; both print the system's words.
            Self::Exited { log, .. } => configured == 0 && log.to_lowercase().contains("address already in use"),
            Self::NoPort { .. } | Self::Spawn(_) | Self::Silent { .. } => false,
        }
    }
}

/// Replaces port 0 by a free one, which restarts then keep.
pub(crate) fn with_port(listen: SocketAddr) -> Result<SocketAddr, StartError> {
    let host = listen.ip();
    let port = match listen.port() {
        0 => net::free_port(host).map_err(|source| StartError::NoPort { host, source })?,
        port => port,
    };
    Ok(SocketAddr::new(host, port))
}

/// Fails, naming the owner, if somebody listens there.
pub(crate) fn require_free(address: SocketAddr) -> Result<(), StartError> {
    if net::is_taken(address) {
        let port = address.port();
        return Err(StartError::PortInUse { port, owner: net::listener_on(port) });
    }
    Ok(())
}

/// Waits until `answers` says so, the child ends, or `within` has passed.
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

/// Keeps a server running that listens on `configured`; with port 0, on another free port if the chosen one is lost.
/// `make` chooses the ports; the second item of what it returns comes back with the running child.
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

/// A server's error, as far as it is one of those that all have.
pub(crate) trait AsStartError {
    fn as_start_error(&self) -> Option<&StartError>;
}

impl AsStartError for StartError {
    fn as_start_error(&self) -> Option<&StartError> {
        Some(self)
    }
}
