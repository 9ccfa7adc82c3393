//! How a command is told which installation it is about.

use std::path::PathBuf;

use clap::Args;

/// Where the configuration is.
#[derive(Clone, Debug, Args)]
pub struct ConfigFile {
    /// Configuration file; `headrace config` prints one to begin with. Environment variables such as
    /// `HEADRACE__NATS__URL` override it.
    #[arg(long, value_name = "FILE", env = "HEADRACE_CONFIG")]
    pub config: Option<PathBuf>,
}

/// Where the servers are.
#[derive(Debug, Args)]
pub struct Place {
    /// Configuration.
    #[command(flatten)]
    pub config: ConfigFile,
    /// The data directory of a running `up`, which is asked for the servers that the configuration does not name.
    #[arg(long, value_name = "DIR", default_value = "headrace-data", env = "HEADRACE_DATA_DIR")]
    pub data_dir: PathBuf,
}
