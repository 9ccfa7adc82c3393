//! The arguments of the commands that do one thing and end: send, check, gaps, query.

use std::path::PathBuf;

use clap::Args;
use headrace_schemas::time::Timestamp;
use secrecy::SecretString;

use super::place::{ConfigFile, Place};
use super::time;
use crate::role::Role;

/// `headrace send`
#[derive(Debug, Args)]
pub struct Send {
    /// A file with one JSON body.
    #[arg(value_name = "FILE", required_unless_present = "examples", conflicts_with = "examples", requires = "event")]
    pub file: Option<PathBuf>,
    /// The event kind: the value of X-GitHub-Event.
    #[arg(long, value_name = "NAME")]
    pub event: Option<String>,
    /// The delivery GUID. Without it, a new one. The same GUID again is the same event.
    #[arg(long, value_name = "GUID", conflicts_with = "examples")]
    pub delivery: Option<String>,
    /// A folder of JSON bodies named `<event>.json`, `<event>.<anything>.json` or `<event>/<anything>.json`, or the
    /// `index.json` of the npm package @octokit/webhooks-examples. Each GUID is derived from the content, so sending a
    /// body again sends the same event.
    #[arg(long, value_name = "DIR_OR_JSON")]
    pub examples: Option<PathBuf>,
    /// The webhook's address. Without it, that of the running `up`.
    #[arg(long)]
    pub url: Option<String>,
    /// The webhook secret. Without it, that of the running `up`.
    #[arg(long, env = "HEADRACE_WEBHOOK_SECRET", hide_env_values = true)]
    pub secret: Option<SecretString>,
    /// The data directory of the `up` that gets the bodies. Without it: `$HEADRACE_DATA_DIR`, then ./headrace-data.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The installation that gets the bodies, by the name that `headrace context add` gave it. Also
    /// `$HEADRACE_CONTEXT`.
    #[arg(long, value_name = "NAME", conflicts_with = "data_dir")]
    pub context: Option<String>,
    /// Print JSON, one object for each delivery.
    #[arg(long)]
    pub json: bool,
}

/// `headrace check`
#[derive(Debug, Args)]
pub struct Check {
    /// Configuration.
    #[command(flatten)]
    pub config: ConfigFile,
    /// Check only what this role needs: its settings, its servers, and its users on them. May be given several times.
    #[arg(long = "role", value_enum, value_name = "ROLE", conflicts_with = "up")]
    pub roles: Vec<Role>,
    /// Check the configuration for `headrace up`, which starts the servers that it does not name.
    #[arg(long, conflicts_with = "migrate")]
    pub up: bool,
    /// Also create and update the streams in NATS and the tables in ClickHouse.
    #[arg(long)]
    pub migrate: bool,
    /// Print JSON, one object for each line.
    #[arg(long)]
    pub json: bool,
}

/// `headrace gaps`
#[derive(Debug, Args)]
pub struct Gaps {
    /// Where NATS is, and which hooks should have been checked.
    #[command(flatten)]
    pub place: Place,
    /// Show hours that began then or later: how long ago (`90m`, `24h`, `7d`), a day (`2026-01-31`, from midnight UTC),
    /// or `2026-01-31T08:15:30Z`. At most seven days ago, which is also the default.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    pub since: Option<Timestamp>,
    /// Show hours that began before then, in the same forms. Without it, until now.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    pub until: Option<Timestamp>,
    /// The old form of `--since`: so many hours ago.
    #[arg(long, hide = true, conflicts_with = "since", value_parser = clap::value_parser!(u16).range(1..=168))]
    pub hours: Option<u16>,
    /// Show every hour, also those in which nothing was missed.
    #[arg(long)]
    pub all: bool,
    /// Print JSON instead of a table, always with every hour.
    #[arg(long)]
    pub json: bool,
}

/// `headrace query`
#[derive(Debug, Args)]
pub struct Query {
    /// The statement; `-` reads it from stdin.
    #[arg(value_name = "SQL")]
    pub sql: String,
    /// Which ClickHouse.
    #[command(flatten)]
    pub place: Place,
    /// The output format for a statement without FORMAT. Without it, PrettyCompactMonoBlock on a terminal, else
    /// TabSeparatedWithNames.
    #[arg(long, value_name = "NAME")]
    pub format: Option<String>,
    /// Print one JSON object for each row, if the statement has no FORMAT.
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
    /// Also allow statements that change data.
    #[arg(long)]
    pub write: bool,
}
