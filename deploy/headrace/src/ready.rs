//! The ready file: where a running process answers, for scripts and for `headrace send`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// Where everything answers.
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
    /// Process ids by name.
    pub(crate) pids: BTreeMap<String, u32>,
}

impl Ready {
    /// Writes the file so that a reader sees all of it or nothing. It holds a secret: only its owner
    /// may read it.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let write = || -> anyhow::Result<()> {
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let name = path.file_name().context("it has no file name")?.to_string_lossy();
            let staged = directory.join(format!(".{name}.{}", std::process::id()));
            let mut file = crate::data_dir::create_private(&staged)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            std::fs::rename(&staged, path)?;
            Ok(())
        };
        write().with_context(|| format!("cannot write the ready file {}", path.display()))
    }

    /// Removes what an earlier process left: its addresses would be taken for ours.
    pub(crate) fn remove(path: &Path) -> anyhow::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove the old ready file {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Reads a ready file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is no ready file", path.display()))
    }
}
