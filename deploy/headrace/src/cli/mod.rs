//! The command line.

pub(crate) mod exit;
pub(crate) mod plain;
pub(crate) mod time;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand};
use headrace_runtime::fault::DeadReason;
use headrace_schemas::time::Timestamp;

use self::time::TimeArgument;
use crate::role::Role;

const EXIT_CODES: &str = "Exit codes: 0 done, 1 it failed, 2 the command line or the configuration is wrong.";

const GAPS_EXIT_CODES: &str = "Exit codes: 0 nothing is missing, 1 something is missing or cannot be told, 2 the command line or \
                               the configuration is wrong.";

const REPLAY_EXIT_CODES: &str = "Exit codes: 0 done, 1 it failed, or deliveries cannot be computed that were no dead letters \
                                 before, 2 the command line or the configuration is wrong.";

/// GitHub security and audit events, from the webhook to ClickHouse, SIEM and tickets: nothing lost,
/// nothing twice.
#[derive(Debug, Parser)]
#[command(name = "headrace", version, after_help = EXIT_CODES, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Set up and run everything on this machine: NATS, ClickHouse, gateway, stages, sinks.
    #[command(after_help = format!("Example:\n  headrace up --data-dir ./headrace-data\n\n{EXIT_CODES}"))]
    Up(Up),
    /// Run chosen roles against servers that exist already.
    #[command(after_help = format!("Example:\n  headrace run ingest --config headrace.toml\n\n{EXIT_CODES}"))]
    Run(Run),
    /// Sign JSON bodies as GitHub does and post them to a gateway.
    #[command(after_help = format!("Examples:\n  headrace send push.json --event push\n  headrace send --examples node_modules/@octokit/webhooks-examples/api.github.com/index.json\n\n{EXIT_CODES}"))]
    Send(Send),
    /// Validate the configuration and reach every server that it names.
    #[command(after_help = format!("Example:\n  headrace check --config headrace.toml\n\n{EXIT_CODES}"))]
    Check(Check),
    /// Show what became of the deliveries that GitHub lists, by hook and hour: what was missed, what was
    /// recovered, what is still missing.
    #[command(after_help = format!("Examples:\n  headrace gaps --config headrace.toml\n  headrace gaps --json --hours 24\n\n{GAPS_EXIT_CODES}"))]
    Gaps(Gaps),
    /// Look at the events that were given up, send them through again, or remove them.
    #[command(after_help = format!("Examples:\n  headrace dead list --counts\n  headrace dead show 17 --payload\n  headrace dead redrive --component clickhouse --since 2h\n\n{EXIT_CODES}"))]
    Dead(Dead),
    /// Send stored deliveries through the present rules and configuration again: their rows in ClickHouse are
    /// replaced, or made anew in an empty one. Nothing else hears of it: no alert, no ticket, no SIEM.
    /// Interrupted, the same command goes on.
    #[command(after_help = format!("Examples:\n  headrace replay --from 24h\n  headrace replay --from 7d --to 6d --tenant acme --into events_tried\n\n{REPLAY_EXIT_CODES}"))]
    Replay(Replay),
    /// Ask ClickHouse: that of the running `up`, or of the configuration. It changes nothing without --write.
    #[command(after_help = format!("Examples:\n  headrace query 'SELECT * FROM headrace.events ORDER BY occurred_at DESC LIMIT 3 FORMAT Vertical'\n  headrace query - < report.sql\n\n{EXIT_CODES}"))]
    Query(Query),
    /// Print the reference of the configuration: a TOML file with every setting, its meaning, range and default.
    #[command(after_help = format!("Examples:\n  headrace config > headrace.toml\n  headrace config --schema > headrace.schema.json\n\nWith `#:schema ./headrace.schema.json` as its first line, editors check and complete headrace.toml.\n\n{EXIT_CODES}"))]
    Config {
        /// Print the JSON Schema instead, by which editors check and complete the file.
        #[arg(long)]
        schema: bool,
    },
    /// Run the embedded ClickHouse as a server of its own, speaking ClickHouse's HTTP protocol.
    #[command(after_help = format!("Example:\n  headrace clickhouse --data-dir ./clickhouse --listen 127.0.0.1:8123\n\n{EXIT_CODES}"))]
    Clickhouse(Clickhouse),
}

/// Where the configuration is.
#[derive(Clone, Debug, Args)]
pub struct ConfigFile {
    /// Configuration file; `headrace config` prints one to begin with. Environment variables such as
    /// `HEADRACE__NATS__URL` override it.
    #[arg(long, value_name = "FILE", env = "HEADRACE_CONFIG")]
    pub config: Option<PathBuf>,
}

/// `headrace up`
#[derive(Debug, Args)]
pub struct Up {
    /// Configuration.
    #[command(flatten)]
    pub config: ConfigFile,
    /// Where everything is kept. A second `up` on it goes on where the first stopped.
    #[arg(long, value_name = "DIR", default_value = "headrace-data", env = "HEADRACE_DATA_DIR")]
    pub data_dir: PathBuf,
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

/// `headrace send`
#[derive(Debug, Args)]
pub struct Send {
    /// A file with one JSON body.
    #[arg(value_name = "FILE", required_unless_present = "examples", conflicts_with = "examples", requires = "event")]
    pub file: Option<PathBuf>,
    /// The event kind: the value of X-GitHub-Event.
    #[arg(long, value_name = "NAME")]
    pub event: Option<String>,
    /// The delivery GUID; a new one when it is not given. The same GUID again is the same event.
    #[arg(long, value_name = "GUID", conflicts_with = "examples")]
    pub delivery: Option<String>,
    /// A folder of JSON bodies named `<event>.json`, `<event>.<anything>.json` or `<event>/<anything>.json`,
    /// or the `index.json` of the npm package @octokit/webhooks-examples. GUIDs are made of the contents,
    /// so that sending them again sends the same events.
    #[arg(long, value_name = "DIR_OR_JSON")]
    pub examples: Option<PathBuf>,
    /// The webhook's address; that of the running `up` when it is not given.
    #[arg(long)]
    pub url: Option<String>,
    /// The webhook secret; that of the running `up` when it is not given.
    #[arg(long, env = "HEADRACE_WEBHOOK_SECRET", hide_env_values = true)]
    pub secret: Option<String>,
    /// The data directory of the `up` to send to.
    #[arg(long, value_name = "DIR", default_value = "headrace-data", env = "HEADRACE_DATA_DIR")]
    pub data_dir: PathBuf,
}

/// `headrace check`
#[derive(Debug, Args)]
pub struct Check {
    /// Configuration.
    #[command(flatten)]
    pub config: ConfigFile,
    /// Also create and update the streams in NATS and the tables in ClickHouse.
    #[arg(long)]
    pub migrate: bool,
}

/// `headrace gaps`
#[derive(Debug, Args)]
pub struct Gaps {
    /// Configuration: where NATS is, and the hooks that should have been looked after.
    #[command(flatten)]
    pub config: ConfigFile,
    /// The data directory of the `up` to ask, when the configuration names no NATS server.
    #[arg(long, value_name = "DIR", default_value = "headrace-data", env = "HEADRACE_DATA_DIR")]
    pub data_dir: PathBuf,
    /// Look back this many hours, at most 168.
    #[arg(long, value_name = "HOURS", default_value_t = 168, value_parser = clap::value_parser!(u16).range(1..=168))]
    pub hours: u16,
    /// Every hour, also those in which nothing was missed.
    #[arg(long)]
    pub all: bool,
    /// JSON instead of a table, always with every hour.
    #[arg(long)]
    pub json: bool,
}

/// `headrace dead`
#[derive(Debug, Args)]
pub struct Dead {
    /// What to do with them.
    #[command(subcommand)]
    pub action: DeadAction,
}

/// What can be done with dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadAction {
    /// Show what was given up, when, by which component and why: a line each, or how many.
    #[command(after_help = format!("Examples:\n  headrace dead list --reason malformed --since 24h\n  headrace dead list --counts --json\n\n{EXIT_CODES}"))]
    List {
        /// Where they are.
        #[command(flatten)]
        place: Place,
        /// Which of them.
        #[command(flatten)]
        selection: Selection,
        /// Only how many there are, by component and reason.
        #[arg(long)]
        counts: bool,
        /// Write JSON, one object a line.
        #[arg(long)]
        json: bool,
    },
    /// Show one of them: its headers, and its body if asked for.
    #[command(after_help = format!("Example:\n  headrace dead show 17 --payload\n\n{EXIT_CODES}"))]
    Show {
        /// Where it is.
        #[command(flatten)]
        place: Place,
        /// Its number in `headrace dead list`.
        #[arg(value_name = "NUMBER")]
        sequence: u64,
        /// Also show the body, which may hold what not everybody may see.
        #[arg(long)]
        payload: bool,
        /// Write JSON.
        #[arg(long)]
        json: bool,
    },
    /// Send them through again. Rows and tickets are not made twice; SIEM receivers and files may see an
    /// event again. What fails again comes back.
    #[command(after_help = format!("Examples:\n  headrace dead redrive --component clickhouse --dry-run\n  headrace dead redrive --number 17\n\n{EXIT_CODES}"))]
    Redrive {
        /// Where they are.
        #[command(flatten)]
        place: Place,
        /// Which of them.
        #[command(flatten)]
        selection: Selection,
        /// Only show which.
        #[arg(long)]
        dry_run: bool,
    },
    /// Remove them for good.
    #[command(after_help = format!("Examples:\n  headrace dead drop --reason malformed --until 30d --dry-run\n  headrace dead drop --number 17 --yes\n\n{EXIT_CODES}"))]
    Drop {
        /// Where they are.
        #[command(flatten)]
        place: Place,
        /// Which of them.
        #[command(flatten)]
        selection: Selection,
        /// Only show which.
        #[arg(long)]
        dry_run: bool,
        /// Do it: nothing brings them back.
        #[arg(long, required_unless_present = "dry_run")]
        yes: bool,
    },
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

/// Which dead letters; all conditions must hold.
#[derive(Debug, Args)]
pub struct Selection {
    /// Given up by this component: `normalize`, `clickhouse`, `splunk`, …
    #[arg(long, value_name = "NAME")]
    pub component: Option<String>,
    /// Of this tenant.
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// For this reason.
    #[arg(long, value_name = "CODE", value_parser = PossibleValuesParser::new(DeadReason::ALL.map(DeadReason::code)))]
    pub reason: Option<String>,
    /// Of this event: `github:` and the delivery's GUID.
    #[arg(long, value_name = "ID")]
    pub event_id: Option<String>,
    /// With this number in `headrace dead list`.
    #[arg(long, value_name = "NUMBER")]
    pub number: Option<u64>,
    /// Given up then or later: `2026-01-31T08:15:30Z`, or how long ago: `90m`, `24h`, `7d`.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    pub since: Option<Timestamp>,
    /// Given up before then, in the same forms.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    pub until: Option<Timestamp>,
    /// At most so many, the oldest first.
    #[arg(long, value_name = "COUNT")]
    pub limit: Option<u64>,
}

/// `headrace replay`
#[derive(Debug, Args)]
pub struct Replay {
    /// Where RAW and ClickHouse are, and the stages as they are configured. Without --config the configuration of the
    /// running or the last `up` of the data directory is used.
    #[command(flatten)]
    pub place: Place,
    /// Use the built-in configuration and the environment's variables, and no file: rows lose the owners of assets and
    /// the matches of rules that a file had named.
    #[arg(long, conflicts_with = "config")]
    pub defaults: bool,
    /// Deliveries that were received then or later: `2026-01-31T08:15:30Z`, or how long ago: `90m`, `24h`, `7d`.
    #[arg(long, value_name = "TIME", value_parser = TimeArgument::parse)]
    pub from: TimeArgument,
    /// Deliveries that were received before then, in the same forms; before now when it is not given.
    #[arg(long, value_name = "TIME", value_parser = TimeArgument::parse)]
    pub to: Option<TimeArgument>,
    /// Of this tenant only.
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// Write into a new table of this name, with the columns of `events`, and change nothing else.
    #[arg(long, value_name = "TABLE", value_parser = side_table)]
    pub into: Option<String>,
    /// Begin anew instead of going on with the same replay when it was interrupted, such as after files with rules
    /// were changed.
    #[arg(long)]
    pub restart: bool,
}

/// A name for a table beside those of Headrace.
fn side_table(name: &str) -> Result<String, String> {
    let plain = |char: char| char.is_ascii_alphanumeric() || char == '_';
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        return Err("expected up to 64 letters, digits and `_`".to_owned());
    }
    if ["events", "raw", "migrations"].contains(&name) {
        return Err("expected a table of its own; without --into the rows of `events` are replaced".to_owned());
    }
    Ok(name.to_owned())
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
    /// Output format of a statement without a FORMAT of its own; PrettyCompactMonoBlock for a terminal, else
    /// TabSeparatedWithNames.
    #[arg(long, value_name = "NAME")]
    pub format: Option<String>,
    /// Also allow statements that change something.
    #[arg(long)]
    pub write: bool,
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
    pub password: Option<String>,
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
