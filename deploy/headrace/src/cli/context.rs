//! `headrace context`: names for installations.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::EXIT_CODES;
use crate::installation::contexts;

/// `headrace context`
#[derive(Debug, Args)]
pub struct Context {
    /// The action.
    #[command(subcommand)]
    pub action: ContextAction,
}

/// What can be done with contexts.
#[derive(Debug, Subcommand)]
pub enum ContextAction {
    /// Show all names. The one in use has a star.
    #[command(after_help = format!("Example:\n  headrace context list\n\n{EXIT_CODES}"))]
    List {
        /// Print JSON, one object for each line.
        #[arg(long)]
        json: bool,
    },
    /// Give an installation a name.
    #[command(after_help = format!("Examples:\n  headrace context add live --config /etc/headrace/headrace.toml\n  headrace context add test --data-dir ./headrace-data\n\n{EXIT_CODES}"))]
    Add {
        /// The name: letters, digits, `_`, `-` and `.`.
        #[arg(value_parser = contexts::name)]
        name: String,
        /// Its configuration file.
        #[arg(long, value_name = "FILE", required_unless_present = "data_dir")]
        config: Option<PathBuf>,
        /// The data directory of its `up`.
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
    /// Use this installation for commands that name none. `up` and `run` ignore it.
    #[command(after_help = format!("Examples:\n  headrace context use live\n  headrace context use --none\n\n{EXIT_CODES}"))]
    Use {
        /// The name.
        #[arg(required_unless_present = "none", conflicts_with = "none")]
        name: Option<String>,
        /// Use no context any more.
        #[arg(long)]
        none: bool,
    },
    /// Forget a name. The installation itself does not change.
    #[command(after_help = format!("Example:\n  headrace context remove test\n\n{EXIT_CODES}"))]
    Remove {
        /// The name.
        name: String,
    },
}
