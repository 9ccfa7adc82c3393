//! The arguments of `headrace sinks`.

use clap::{Args, Subcommand};

use headrace_schemas::time::Timestamp;

use super::EXIT_CODES;
use super::place::Place;
use super::time;

/// `headrace sinks`
#[derive(Debug, Args)]
pub struct Sinks {
    /// The action.
    #[command(subcommand)]
    pub action: SinksAction,
}

/// A sink by its name.
#[derive(Debug, Args)]
pub struct One {
    /// The sink's name in `headrace sinks list`.
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Where it is.
    #[command(flatten)]
    pub place: Place,
    /// Write JSON.
    #[arg(long)]
    pub json: bool,
}

/// What can be done with sinks.
#[derive(Debug, Subcommand)]
pub enum SinksAction {
    /// Show the configured sinks, what waits for them, what those that were set aside have missed, and what sinks that
    /// were taken out have left behind.
    #[command(after_help = format!("Examples:\n  headrace sinks list\n  headrace sinks list --json\n\n{EXIT_CODES}"))]
    List {
        /// Where they are.
        #[command(flatten)]
        place: Place,
        /// Write JSON, one object a line.
        #[arg(long)]
        json: bool,
    },
    /// Let a sink rest, in every process that runs it: it finishes what it holds and takes no more. If it rests for long, it
    /// is set aside like one whose receiver is away, and catches up later.
    #[command(after_help = format!("Example:\n  headrace sinks pause splunk\n\n{EXIT_CODES}"))]
    Pause(One),
    /// Let a paused sink go on. One that was taken out of the configuration is then not paused when it comes back.
    #[command(after_help = format!("Example:\n  headrace sinks resume splunk\n\n{EXIT_CODES}"))]
    Resume(One),
    /// Bring a sink the events of a time once more, from ClickHouse, with the same ids. Its receiver gets them in addition
    /// to those that it has. Only for sinks of events, not for alerts.
    #[command(after_help = format!("Examples:\n  headrace sinks rewind splunk --since 2026-01-31T08:00:00Z --until 2026-01-31T09:00:00Z\n  headrace sinks rewind splunk --cancel\n\n{EXIT_CODES}"))]
    Rewind {
        /// Which sink.
        #[command(flatten)]
        one: One,
        /// Events that were processed then or later: how long ago (`90m`, `24h`, `7d`), a day (`2026-01-31`, from midnight
        /// UTC), or `2026-01-31T08:15:30Z`.
        #[arg(long, value_name = "TIME", value_parser = time::parse, required_unless_present = "cancel")]
        since: Option<Timestamp>,
        /// Events that were processed before then, in the same forms. Without it, until now.
        #[arg(long, value_name = "TIME", value_parser = time::parse)]
        until: Option<Timestamp>,
        /// Take back what was asked for in this way and was not brought yet. What the sink has missed is brought all the same.
        #[arg(long, conflicts_with_all = ["since", "until"])]
        cancel: bool,
        /// Do not ask. Required where nobody can answer.
        #[arg(long)]
        yes: bool,
    },
    /// Give up what a sink has missed before a time: it is not brought any more, such as what ClickHouse has lost. What
    /// `rewind` asked for stays.
    #[command(after_help = format!("Example:\n  headrace sinks skip splunk --until 2026-01-31T09:00:00Z\n\n{EXIT_CODES}"))]
    Skip {
        /// Which sink.
        #[command(flatten)]
        one: One,
        /// What was missed before then: how long ago (`90m`, `24h`, `7d`), a day (`2026-01-31`, from midnight UTC), or
        /// `2026-01-31T08:15:30Z`.
        #[arg(long, value_name = "TIME", value_parser = time::parse)]
        until: Timestamp,
        /// Do not ask. Required where nobody can answer.
        #[arg(long)]
        yes: bool,
    },
    /// Remove the consumers of a sink that is not configured any more, the record of what it has missed, and its pause. What
    /// waits for it then counts as settled. A sink that is given this name later is a new one.
    #[command(after_help = format!("Example:\n  headrace sinks remove splunk_dr\n\n{EXIT_CODES}"))]
    Remove {
        /// The sink's name in `headrace sinks list`.
        #[arg(value_name = "NAME")]
        name: String,
        /// Where it is.
        #[command(flatten)]
        place: Place,
        /// Write JSON.
        #[arg(long)]
        json: bool,
        /// Do not ask. Required where nobody can answer.
        #[arg(long)]
        yes: bool,
    },
}
