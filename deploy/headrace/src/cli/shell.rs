//! The arguments of `headrace completions` and `headrace man`.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

/// `headrace completions`
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell.
    #[arg(value_enum)]
    pub shell: Shell,
}

/// `headrace man`
#[derive(Debug, Args)]
pub struct Man {
    /// Write a page for each command into this directory, which must exist. Without it, print the page of `headrace`.
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
}
