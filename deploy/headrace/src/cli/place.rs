//! The options that name an installation. [`crate::installation::locate`] finds it.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::installation::locate::{self, Located, Purpose, Request};
use crate::installation::surroundings::Surroundings;

/// Where the configuration is.
#[derive(Clone, Debug, Args)]
pub struct ConfigFile {
    /// Configuration file. `headrace config` prints one to begin with. Without it: `$HEADRACE_CONFIG`, then
    /// ./headrace.toml, then headrace/headrace.toml in `$XDG_CONFIG_HOME` or ~/.config. Environment variables such as
    /// `HEADRACE__NATS__URL` override the file.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The installation, by the name that `headrace context add` gave it. Also `$HEADRACE_CONTEXT`.
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub context: Option<String>,
}

/// Where the servers are.
#[derive(Debug, Args)]
pub struct Place {
    /// Configuration.
    #[command(flatten)]
    pub config: ConfigFile,
    /// The data directory of a running `up`. The command uses the servers of that `up` where the configuration names
    /// none. Without it: `$HEADRACE_DATA_DIR`, then ./headrace-data.
    #[arg(long, value_name = "DIR", conflicts_with = "context")]
    pub data_dir: Option<PathBuf>,
}

impl ConfigFile {
    /// The installation that a command without a data directory means.
    pub(crate) fn locate(&self, purpose: Purpose) -> anyhow::Result<Located> {
        self.locate_with(None, purpose)
    }

    /// The installation that is meant.
    pub(crate) fn locate_with(&self, data_dir: Option<&Path>, purpose: Purpose) -> anyhow::Result<Located> {
        let (config, context) = (self.config.as_deref(), self.context.as_deref());
        locate::locate(&Request { purpose, config, data_dir, context }, &Surroundings::of_this_process())
    }
}

impl Place {
    /// The installation that a command asks.
    pub(crate) fn locate(&self) -> anyhow::Result<Located> {
        self.config.locate_with(self.data_dir.as_deref(), Purpose::Ask)
    }
}
