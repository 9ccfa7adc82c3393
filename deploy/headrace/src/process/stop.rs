//! Ends a process. The first signal asks it to stop, the second ends it at once.

use std::fmt;
use std::io::{IsTerminal as _, Write as _};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The text for a person when the process begins to stop.
const STOPPING: &str =
    "stopping; press Ctrl-C again to end everything at once, which loses nothing that was answered with a 2xx";

/// SIGINT and SIGTERM. While this exists, these signals alone do not end the process.
pub(crate) struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
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

    /// Runs `ending`, which does everything before the process ends. Another signal interrupts it.
    ///
    /// # Errors
    /// [`ForcedExit`] after another signal.
    pub(crate) async fn end(&mut self, ending: impl Future<Output = ()>) -> anyhow::Result<()> {
        // Lines for people must not be among lines of JSON.
        if std::io::stderr().is_terminal() {
            // A terminal that is gone must not prevent an orderly end.
            let _ = writeln!(std::io::stderr(), "{STOPPING}");
        } else {
            tracing::info!("{STOPPING}");
        }
        tokio::select! {
            () = ending => Ok(()),
            () = self.signalled() => Err(ForcedExit.into()),
        }
    }
}

/// A second signal came. Dropping the children kills them. If this process ends first, the kernel does.
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
