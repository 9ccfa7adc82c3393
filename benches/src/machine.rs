//! The machine and the commit of a figure.

use std::process::Command;

use serde::Serialize;

#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    memory_gb: f64,
    kernel: String,
}

impl Machine {
    /// Reads the facts of this machine.
    pub(crate) fn this() -> Self {
        let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, name: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'));
            found.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
        };
        let kib = value(&file("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse::<f64>().unwrap_or_default();
        Self {
            cpu: value(&file("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            memory_gb: (kib * 1024.0 / 1e9).round(),
            kernel: file("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

/// The commit that is checked out now in the directory where this binary was built. It ends in `-dirty` if tracked
/// files differ, and is `unknown` without git. It is right only if you build and run in one step, as `cargo run` does.
pub(crate) fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(["-C", env!("CARGO_MANIFEST_DIR")]).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "HEAD"]) else { return "unknown".to_owned() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|changes| !changes.is_empty());
    if changed { format!("{commit}-dirty") } else { commit }
}
