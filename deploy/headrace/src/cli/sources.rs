//! The arguments of `headrace sources`.

use clap::{Args, Subcommand};

use super::EXIT_CODES;
use super::place::Place;

/// `headrace sources`
#[derive(Debug, Args)]
pub struct Sources {
    /// The action.
    #[command(subcommand)]
    pub action: SourcesAction,
}

/// What can be done with sources.
#[derive(Debug, Subcommand)]
pub enum SourcesAction {
    /// Show each source: whether it is sent or asked, how it is, when it had last been read completely, and how far.
    #[command(after_help = format!("Example:\n  headrace sources list --config headrace.toml\n\n{EXIT_CODES}"))]
    List {
        /// Where they are.
        #[command(flatten)]
        place: Place,
        /// Write JSON, one object a line.
        #[arg(long)]
        json: bool,
    },
    /// Forget how far a source was read, so that it is read again from its beginning. What was stored is recognized and
    /// not stored twice.
    #[command(after_help = format!("Examples:\n  headrace sources rewind ndjson.folder --dry-run\n  headrace sources rewind ndjson.folder --yes\n\n{EXIT_CODES}"))]
    Rewind {
        /// Where it is.
        #[command(flatten)]
        place: Place,
        /// The source and its name in `headrace sources list`.
        #[arg(value_name = "SOURCE.NAME")]
        name: String,
        /// Only show how far it was read.
        #[arg(long)]
        dry_run: bool,
        /// Write JSON.
        #[arg(long)]
        json: bool,
        /// Confirm that everything is to be read again.
        #[arg(long, required_unless_present = "dry_run")]
        yes: bool,
    },
}
