//! How a person or a service manager ends a process: the first signal asks, the second does not wait.

use std::fmt;
use std::io::IsTerminal as _;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What is said when a process begins to stop.
const STOPPING: &str =
    "stopping; press Ctrl-C again to end everything at once, which loses nothing that was answered with a 2xx";

/// SIGINT and SIGTERM. While this is alive they do not end the process by themselves.
pub(crate) struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    /// Begins to listen.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen to signals");
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Resolves at the next signal.
    pub(crate) async fn signalled(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Runs `ending`, all that there is to do before the process ends, unless another signal comes.
    ///
    /// # Errors
    /// [`ForcedExit`] when one came.
    pub(crate) async fn end(&mut self, ending: impl Future<Output = ()>) -> anyhow::Result<()> {
        // Among lines of JSON a line for people would be none.
        if std::io::stderr().is_terminal() {
            eprintln!("{STOPPING}");
        } else {
            tracing::info!("{STOPPING}");
        }
        tokio::select! {
            () = ending => Ok(()),
            () = self.signalled() => Err(ForcedExit.into()),
        }
    }
}

/// A second signal came. Children are killed as they are dropped, and by the kernel when this process ends.
#[derive(Debug)]
pub(crate) struct ForcedExit;

impl fmt::Display for ForcedExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ended at once, as asked by a second signal; what was under way is done again at the next start")
    }
}

impl std::error::Error for ForcedExit {}

/// Resolves at the first SIGINT or SIGTERM.
pub(crate) fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut stop = Stop::listen()?;
    Ok(async move { stop.signalled().await })
}
