//! Configuration of the file sink.

use std::path::PathBuf;

use headrace_runtime::config::{Invalid, TIMEOUT_MAX_MS};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The largest file that may be set, in bytes: a tebibyte.
const ROTATE_BYTES_MAX: u64 = 1 << 40;
/// The most files set aside that may be kept. A directory with more of them is slow to list.
const KEEP_FILES_MAX: usize = 1_000_000;

/// By what the files are parted into folders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Folder {
    /// One for each tenant.
    Tenant,
    /// One for each day on which an event was received, by UTC.
    Day,
}

/// Scored events and alerts as JSON lines: `events.jsonl` and `alerts.jsonl` in one directory, or in folders below it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The directory. It is made if absent, and only one process at a time may use it. Only the account that writes the
    /// files can read them (mode 0600), and the same goes for a directory that was made (0700). Required. Example:
    /// `/var/lib/headrace/out`.
    pub dir: PathBuf,
    /// Folders below the directory: by tenant, by the day on which an event was received (UTC), or one in the other. Each
    /// has files of its own, to which the settings below apply; nothing removes a folder. Empty means none. Example:
    /// `["tenant", "day"]`, for `acme/2026-01-31/events.jsonl`.
    pub folders: Vec<Folder>,
    /// A file that has grown to this many bytes is set aside as `events.000001.jsonl` and so on.
    /// Example: 10485760.
    #[schemars(range(min = 4_096, max = ROTATE_BYTES_MAX))]
    pub rotate_bytes_max: u64,
    /// How many files set aside are kept of each kind. Older ones are deleted; 0 keeps all. Example: 0.
    #[schemars(range(max = KEEP_FILES_MAX))]
    pub keep_files_max: usize,
    /// Longest time for one write to the disk, in milliseconds. A write that takes longer is tried again, and other
    /// processes get its records after twice this time. Example: 30000.
    #[schemars(range(min = 1_000, max = TIMEOUT_MAX_MS))]
    pub timeout_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            dir: PathBuf::new(),
            folders: Vec::new(),
            rotate_bytes_max: 256 << 20,
            keep_files_max: 16,
            timeout_ms: 10_000,
        }
    }
}

impl Config {
    /// Everything that is wrong with it, found without touching a file. `path` is where it is in the
    /// configuration.
    #[must_use]
    pub fn validate(&self, path: &str) -> Vec<Invalid> {
        let mut problems = Vec::new();
        if self.dir.as_os_str().is_empty() {
            let message = "expected a directory such as `/var/lib/headrace/out`, found nothing";
            problems.push(Invalid::new(format!("{path}.dir"), message));
        }
        if let [first, second, ..] = self.folders.as_slice()
            && (first == second || self.folders.len() > 2)
        {
            let message = format!("expected each of `tenant` and `day` at most once, found {:?}", self.folders);
            problems.push(Invalid::new(format!("{path}.folders"), message.to_lowercase()));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_named_with_its_place() {
        let paths = |config: &Config| -> Vec<String> {
            config.validate("sinks.file").into_iter().map(|problem| problem.path).collect()
        };
        assert!(paths(&Config { dir: "out".into(), ..Config::default() }).is_empty());
        assert_eq!(paths(&Config::default()), ["sinks.file.dir"]);
        let folders =
            |folders: &[Folder]| paths(&Config { dir: "out".into(), folders: folders.into(), ..Config::default() });
        assert!(folders(&[Folder::Day, Folder::Tenant]).is_empty());
        for twice in [&[Folder::Day; 2][..], &[Folder::Tenant, Folder::Day, Folder::Tenant]] {
            assert_eq!(folders(twice), ["sinks.file.folders"]);
        }
    }
}
