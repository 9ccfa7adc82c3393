//! The ready file: where a running process answers, for scripts and for `headrace send`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::installation::private;

/// The ready file that every `up` keeps in its data directory.
pub(crate) const READY_FILE: &str = "ready.json";

/// The addresses at which everything answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// The gateway, without a path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gateway: Option<String>,
    /// The NATS server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nats: Option<String>,
    /// ClickHouse's HTTP interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) clickhouse: Option<String>,
    /// Health and metrics, without a path.
    pub(crate) metrics: String,
    /// The secret to sign with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) webhook_secret: Option<String>,
    /// The tokens to send with, by source.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) tokens: BTreeMap<String, String>,
    /// Process ids by name.
    pub(crate) pids: BTreeMap<String, u32>,
}

impl Ready {
    /// Writes the file, so that a reader sees all of it or nothing. Only its owner may read it, because it holds a
    /// secret.
    fn write(&self, path: &Path) -> anyhow::Result<()> {
        let write = || -> anyhow::Result<()> {
            let mut text = serde_json::to_vec_pretty(self)?;
            text.push(b'\n');
            private::write(path, &text)
        };
        write().with_context(|| format!("cannot write the ready file {}", path.display()))
    }

    /// Reads the ready file at `path`, which was opened.
    pub(crate) fn read(file: File, path: &Path) -> anyhow::Result<Self> {
        serde_json::from_reader(BufReader::new(file)).with_context(|| format!("{} is no ready file", path.display()))
    }
}

/// The ready files of this process. Dropping this removes them, because then nothing answers any more.
pub(crate) struct ReadyFiles(Vec<PathBuf>);

impl ReadyFiles {
    /// Removes the files that an earlier process left at `paths`. Others would take its addresses for ours.
    pub(crate) fn claim(paths: impl IntoIterator<Item = PathBuf>) -> anyhow::Result<Self> {
        let paths: Vec<PathBuf> = paths.into_iter().collect();
        for path in &paths {
            private::remove(path).with_context(|| format!("cannot remove the old ready file {}", path.display()))?;
        }
        Ok(Self(paths))
    }

    /// Writes or replaces all files.
    pub(crate) fn write(&self, ready: &Ready) -> anyhow::Result<()> {
        self.0.iter().try_for_each(|path| ready.write(path))
    }
}

impl Drop for ReadyFiles {
    fn drop(&mut self) {
        for path in &self.0 {
            if let Err(error) = private::remove(path) {
                tracing::warn!(%error, path = %path.display(), "cannot remove the ready file; nothing answers at its addresses any more");
            }
        }
    }
}
