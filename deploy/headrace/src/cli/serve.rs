//! The commands that run servers and roles until they are stopped.

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
    /// Where everything is kept. A second `up` on it goes on where the first stopped. Without it:
    /// `$HEADRACE_DATA_DIR`, then ./headrace-data.
    #[arg(long, value_name = "DIR", conflicts_with = "context")]
    pub data_dir: Option<PathBuf>,
    /// Write addresses, secret and process ids to this file, as JSON, once everything answers and again
    /// whenever a server was started anew. It goes when `up` stops.
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Port of the gateway; 0 takes any free one.
    #[arg(long, value_name = "PORT")]
    pub gateway_port: Option<u16>,
    /// Port of health and metrics; 0 takes any free one.
    #[arg(long, value_name = "PORT")]
    pub metrics_port: Option<u16>,
    /// Port of the NATS server; 0 takes any free one.
    #[arg(long, value_name = "PORT")]
    pub nats_port: Option<u16>,
    /// Port of ClickHouse; 0 takes any free one.
    #[arg(long, value_name = "PORT")]
    pub clickhouse_port: Option<u16>,
}

/// `headrace run`
#[derive(Debug, Args)]
pub struct Run {
    /// Configuration.
    #[command(flatten)]
    pub config: ConfigFile,
    /// Which roles; all when none is named.
    #[arg(value_enum)]
    pub roles: Vec<Role>,
    /// Write addresses and process id to this file, as JSON, once everything answers. It goes when `run` stops.
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
}

/// `headrace clickhouse`
#[derive(Debug, Args)]
pub struct Clickhouse {
    /// Where its data is kept.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Where to listen; port 0 takes any free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8123")]
    pub listen: SocketAddr,
    /// The engine, libchdb.so; installed when it is not given.
    #[arg(long, value_name = "FILE")]
    pub library: Option<PathBuf>,
    /// Ask clients for this password of the user `default`, who may do all that is allowed. Without any password
    /// whoever is on this machine may.
    #[arg(long, env = "HEADRACE_CLICKHOUSE_PASSWORD", hide_env_values = true)]
    pub password: Option<SecretString>,
    /// The same password, from the first line of a file; it counts when both are given.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Also let in the user `reader`, who only reads, with the password in the first line of this file.
    #[arg(long, value_name = "FILE")]
    pub reader_password_file: Option<PathBuf>,
    /// A name under which clients may call the server besides this machine's own, as `host` or `host:port`.
    #[arg(long = "host", value_name = "NAME")]
    pub hosts: Vec<String>,
    /// Memory for everything that the engine does, in bytes; half of the machine's when it is not given.
    #[arg(long, value_name = "BYTES")]
    pub memory_bytes_max: Option<u64>,
}
