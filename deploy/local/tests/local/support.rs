//! What these tests share.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use headrace_local::install::{Installer, Silent};

/// Far beyond what anything here takes. Only a failing test waits that long.
pub(crate) const CEILING: Duration = Duration::from_secs(60);

/// This crate's helper program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_headrace-local");

pub(crate) fn installer() -> Installer {
    Installer::for_user(Arc::new(Silent)).expect("a test machine has a home directory")
}

/// Runs an install, which blocks.
pub(crate) async fn installed(
    what: impl FnOnce(&Installer) -> Result<PathBuf, headrace_local::install::Error> + Send + 'static,
) -> PathBuf {
    tokio::task::spawn_blocking(move || what(&installer())).await.unwrap().unwrap()
}

/// `kill -9`.
pub(crate) fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Whether a process runs. One that has ended but was not reaped does not.
pub(crate) fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
