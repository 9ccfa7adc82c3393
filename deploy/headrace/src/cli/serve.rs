//! The arguments of the commands that run until they are stopped: up, run, clickhouse.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use secrecy::SecretString;

use super::place::ConfigFile;
use crate::role::Role;

/// `headrace up`
#[derive(Debug, Args)]
pub struct Up {
    /// Configuration.
    #[command(flatten)]
    pub config: ConfigFile,
    /// The directory for all data. A second `up` with the same directory goes on where the first stopped. Without it:
    /// `$HEADRACE_DATA_DIR`, then ./headrace-data.
    #[arg(long, value_name = "DIR", conflicts_with = "context")]
    pub data_dir: Option<PathBuf>,
    /// Write addresses, secret and process ids to this file, as JSON, once everything answers, and again after each
    /// restart of a server. The file is removed when `up` stops.
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Port of the gateway. 0 takes any free one.
    #[arg(long, value_name = "PORT")]
    pub gateway_port: Option<u16>,
    /// Port of health and metrics. 0 takes any free one.
    #[arg(long, value_name = "PORT")]
    pub metrics_port: Option<u16>,
    /// Port of the NATS server. 0 takes any free one.
    #[arg(long, value_name = "PORT")]
    pub nats_port: Option<u16>,
    /// Port of ClickHouse. 0 takes any free one.
    #[arg(long, value_name = "PORT")]
    pub clickhouse_port: Option<u16>,
}

/// `headrace run`
#[derive(Debug, Args)]
pub struct Run {
    /// Configuration.
    #[command(flatten)]
    pub config: ConfigFile,
    /// The roles to run. Without any, all.
    #[arg(value_enum)]
    pub roles: Vec<Role>,
    /// Write addresses and process id to this file, as JSON, once everything answers. The file is removed when `run`
    /// stops.
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
}

/// `headrace clickhouse`
#[derive(Debug, Args)]
pub struct Clickhouse {
    /// The directory for its data.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Where to listen. Port 0 takes any free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8123")]
    pub listen: SocketAddr,
    /// The engine, libchdb.so. Without it, the engine is installed.
    #[arg(long, value_name = "FILE")]
    pub library: Option<PathBuf>,
    /// The password of the user `default`, who may do everything that is allowed. Without any password, everybody on
    /// this machine may.
    #[arg(long, env = "HEADRACE_CLICKHOUSE_PASSWORD", hide_env_values = true)]
    pub password: Option<SecretString>,
    /// A file with the same password in its first line. If both are given, the file counts.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Also let the user `reader` in, who only reads. The password is in the first line of this file.
    #[arg(long, value_name = "FILE")]
    pub reader_password_file: Option<PathBuf>,
    /// A further host name that clients may use for the server, besides this machine's own: `host` or `host:port`.
    #[arg(long = "host", value_name = "NAME")]
    pub hosts: Vec<String>,
    /// Memory for everything that the engine does, in bytes. Without it, half of the machine's.
    #[arg(long, value_name = "BYTES")]
    pub memory_bytes_max: Option<u64>,
}
