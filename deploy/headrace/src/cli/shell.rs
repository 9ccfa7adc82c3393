//! What shells and `man` want to know of the command line.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

/// `headrace completions`
#[derive(Debug, Args)]
pub struct Completions {
    /// Which shell.
    #[arg(value_enum)]
    pub shell: Shell,
}

/// `headrace man`
#[derive(Debug, Args)]
pub struct Man {
    /// Write a page for each command into this directory, which must exist; without it, the page of `headrace` to
    /// stdout.
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
}
