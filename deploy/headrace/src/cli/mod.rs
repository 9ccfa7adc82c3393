//! The command line: the arguments of each command. The module `commands` carries them out.
//!
//! [`Command`] has a line for each command, and a module here has its arguments. `place.rs` says how to name an
//! installation, `time.rs` how to write a time, `exit.rs` how a command ends.

pub mod ask;
pub(crate) mod away;
pub mod context;
pub mod dead;
pub(crate) mod exit;
pub mod global;
pub(crate) mod output;
pub mod place;
pub(crate) mod plain;
pub mod replay;
pub mod serve;
pub mod shell;
pub mod sinks;
pub mod sources;
pub mod time;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand};

use self::ask::{Check, Gaps, Query, Send};
use self::context::Context;
use self::dead::Dead;
use self::global::Global;
use self::replay::Replay;
use self::serve::{Clickhouse, Run, Up};
use self::shell::{Completions, Man};
use self::sinks::Sinks;
use self::sources::Sources;

/// Version, commit and date; the build script finds them.
const VERSION: &str = env!("HEADRACE_VERSION");

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 the command line or the configuration is wrong, 3 something \
                          is missing or was left undone, 4 a server is away.";

const GAPS_EXIT_CODES: &str = "Exit codes: 0 nothing is missing, 1 it is unknown, 2 the command line or the configuration is \
                               wrong, 3 deliveries are missing, 4 a server is away.";

const REPLAY_EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 the command line or the configuration is wrong, 3 deliveries \
                                 cannot be computed that were not dead letters before, 4 a server is away.";

/// GitHub security and audit events, from the webhook to ClickHouse, SIEM and tickets: nothing lost,
/// nothing twice.
#[derive(Debug, Parser)]
#[command(name = "headrace", version = VERSION, after_help = EXIT_CODES, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// How much is printed.
    #[command(flatten)]
    pub global: Global,
    /// The command.
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
    #[command(after_help = format!("Examples:\n  headrace check --config headrace.toml\n  headrace check --role ingest\n  headrace check --up --config headrace.toml\n\n{EXIT_CODES}"))]
    Check(Check),
    /// Show what became of the deliveries that GitHub lists, by hook and hour: missed, recovered, still missing.
    #[command(after_help = format!("Examples:\n  headrace gaps --config headrace.toml\n  headrace gaps --json --since 24h\n\n{GAPS_EXIT_CODES}"))]
    Gaps(Gaps),
    /// Show the sources and how far each was read, or read one again from its beginning.
    #[command(after_help = format!("Examples:\n  headrace sources list\n  headrace sources rewind ndjson.folder --yes\n\n{EXIT_CODES}"))]
    Sources(Sources),
    /// Look at the events that were given up, send them through again, or remove them.
    #[command(after_help = format!("Examples:\n  headrace dead list --counts\n  headrace dead show 17 --payload\n  headrace dead redrive --component clickhouse --since 2h\n\n{EXIT_CODES}"))]
    Dead(Dead),
    /// Compute stored deliveries again with the present rules and configuration. Their rows in ClickHouse are replaced,
    /// or added if they are absent. Nothing else gets them: no alert, no ticket, no SIEM. After an interruption, the
    /// same command goes on.
    #[command(after_help = format!("Examples:\n  headrace replay --since 24h\n  headrace replay --since 7d --until 6d --tenant acme --into events_tried\n\n{REPLAY_EXIT_CODES}"))]
    Replay(Replay),
    /// Send a statement to ClickHouse: that of the running `up`, or of the configuration. It changes nothing without
    /// --write.
    #[command(after_help = format!("Examples:\n  headrace query 'SELECT * FROM headrace.events ORDER BY occurred_at DESC LIMIT 3 FORMAT Vertical'\n  headrace query --json 'SELECT id, severity FROM headrace.events LIMIT 3'\n  headrace query - < report.sql\n\n{EXIT_CODES}"))]
    Query(Query),
    /// Show the sinks and what waits for them, let one rest, bring one events of a time once more, and remove what sinks
    /// that were taken out have left behind.
    #[command(after_help = format!("Examples:\n  headrace sinks list\n  headrace sinks pause splunk\n  headrace sinks remove splunk_dr\n\n{EXIT_CODES}"))]
    Sinks(Sinks),
    /// Give names to installations. Every command takes such a name with --context.
    #[command(after_help = format!("Examples:\n  headrace context add live --config /etc/headrace/headrace.toml\n  headrace context use live\n  headrace dead list --context live\n\n{EXIT_CODES}"))]
    Context(Context),
    /// Print the reference of the configuration: a TOML file with every setting, its meaning, range and default.
    #[command(after_help = format!("Examples:\n  headrace config > headrace.toml\n  headrace config --schema > headrace.schema.json\n\nWith `#:schema ./headrace.schema.json` as its first line, editors check and complete headrace.toml.\n\n{EXIT_CODES}"))]
    Config {
        /// Print the JSON Schema instead. Editors use it to check and complete the file.
        #[arg(long)]
        schema: bool,
    },
    /// Run the embedded ClickHouse as a server of its own. It speaks ClickHouse's HTTP protocol.
    #[command(after_help = format!("Example:\n  headrace clickhouse --data-dir ./clickhouse --listen 127.0.0.1:8123\n\n{EXIT_CODES}"))]
    Clickhouse(Clickhouse),
    /// Print the script with which a shell completes this command line.
    #[command(after_help = format!("Examples:\n  headrace completions bash > ~/.local/share/bash-completion/completions/headrace\n  headrace completions fish > ~/.config/fish/completions/headrace.fish\n\n{EXIT_CODES}"))]
    Completions(Completions),
    /// Print the manual, or write one page for each command into a directory.
    #[command(after_help = format!("Examples:\n  headrace man | man -l -\n  headrace man ~/.local/share/man/man1\n\n{EXIT_CODES}"))]
    Man(Man),
}

/// An error of the command line, with the usage of the command that `names` lead to, such as `["dead", "redrive"]`.
pub(crate) fn wrong(names: &[&str], kind: ErrorKind, problem: &str) -> clap::Error {
    let mut command = Cli::command();
    // Until then, a subcommand does not know the names before its own.
    command.build();
    let next = |command: clap::Command, name: &&str| command.find_subcommand(name).cloned().unwrap_or(command);
    names.iter().fold(command, next).error(kind, problem)
}
