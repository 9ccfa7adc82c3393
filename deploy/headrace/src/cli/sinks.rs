//! The arguments of `headrace sinks`.

use clap::{Args, Subcommand};

use super::EXIT_CODES;
use super::place::Place;

/// `headrace sinks`
#[derive(Debug, Args)]
pub struct Sinks {
    /// The action.
    #[command(subcommand)]
    pub action: SinksAction,
}

/// What can be done with sinks.
#[derive(Debug, Subcommand)]
pub enum SinksAction {
    /// Show the configured sinks, what waits for them, and what sinks that were taken out have left behind.
    #[command(after_help = format!("Examples:\n  headrace sinks list\n  headrace sinks list --json\n\n{EXIT_CODES}"))]
    List {
        /// Where they are.
        #[command(flatten)]
        place: Place,
        /// Write JSON, one object a line.
        #[arg(long)]
        json: bool,
    },
    /// Remove the consumers of a sink that is not configured any more. What waits for it then counts as settled. A sink
    /// that is given this name later is a new one.
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
