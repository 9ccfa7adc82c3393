//! How a command ends: one message on stderr and an exit code that scripts can use.

use std::process::ExitCode;

use headrace_settings::Problems;

use crate::process::stop::ForcedExit;

/// It failed.
const FAILED: u8 = 1;
/// The command line or the configuration is wrong.
pub(crate) const USAGE: u8 = 2;
/// A second Ctrl-C ended it, with the number that a shell gives to a program that SIGINT ended.
const AT_ONCE: u8 = 130;

/// Prints why a command failed, and the exit code for it.
pub(crate) fn report(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    if let Some(problems) = error.downcast_ref::<Problems>() {
        eprintln!("{problems}");
        return ExitCode::from(USAGE);
    }
    if let Some(problem) = error.downcast_ref::<clap::Error>() {
        let _ = problem.print();
        return ExitCode::from(USAGE);
    }
    if let Some(forced) = error.downcast_ref::<ForcedExit>() {
        eprintln!("{forced}");
        return ExitCode::from(AT_ONCE);
    }
    eprintln!("error: {error:#}");
    ExitCode::from(FAILED)
}
