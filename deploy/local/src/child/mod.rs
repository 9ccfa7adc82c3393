//! One child process that must never outlive its parent. The kernel kills the child when this process ends, in whatever
//! way.
//!
//! The child has a process group of its own, so Ctrl-C in the terminal reaches only the parent. Its output goes to a
//! log file. Signals go through a pidfd, never to a process id, because another process may have that id by now.
//! [`supervise()`] restarts a child that dies.

mod spawner;
mod supervise;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};
use tokio::sync::watch;

pub use self::supervise::{Event, RestartPolicy, Service, Supervised, supervise};

/// How much of the end of a log an error shows, in bytes.
const TAIL_BYTES: u64 = 4 << 10;

/// What to start.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Which of our environment variables it gets.
    pub environment: Environment,
    /// The file to which its standard output and error are appended. If the file is longer than 16 MiB, a start empties
    /// it.
    pub log: PathBuf,
}

/// Which of our variables a child gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// All of them.
    Inherited,
    /// Only those that any program needs, such as `PATH` and `TZ`. The others may hold secrets that the child must not
    /// see.
    Plain,
}

/// The program could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {program}")]
pub struct SpawnError {
    /// The program.
    pub program: PathBuf,
    /// The system's reason.
    pub source: io::Error,
}

/// A running child. Dropping this kills it.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    pidfd: OwnedFd,
    exit: watch::Receiver<Option<ExitStatus>>,
    log: PathBuf,
}

impl Child {
    /// Starts the program.
    ///
    /// # Errors
    /// When it does not exist or cannot be run, or the log cannot be opened.
    pub async fn spawn(spec: Spec) -> Result<Self, SpawnError> {
        spawner::spawn(spec).await
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until the child has ended. Any number of callers may wait.
    pub async fn wait(&self) -> ExitStatus {
        let mut exit = self.exit.clone();
        let status = exit.wait_for(Option::is_some).await.expect("the waiting thread sends before it ends");
        status.expect("waited for")
    }

    /// The exit status, if the child has ended.
    pub fn exited(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Asks the child to end (SIGTERM), and kills it after `grace`.
    pub async fn stop(&self, grace: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        match tokio::time::timeout(grace, self.wait()).await {
            Ok(status) => status,
            Err(_) => {
                tracing::warn!(pid = self.pid, ?grace, "a child did not stop when asked; killing it");
                self.signal(Signal::KILL);
                self.wait().await
            }
        }
    }

    /// The end of the child's log, for an error that a person reads. Empty if there is no log.
    pub fn log_tail(&self) -> String {
        tail(&self.log).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        // This fails if the child has ended already. Then it needs no signal.
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// The last lines of a file.
fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.trim_end().lines().collect();
    Ok(lines[lines.len().saturating_sub(12)..].join("\n"))
}
