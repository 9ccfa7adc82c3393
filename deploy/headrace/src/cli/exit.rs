//! How a command ends: one message on stderr and an exit code that scripts can use.

use std::fmt;
use std::process::ExitCode;

use headrace_settings::Problems;

use super::away::{Away, is_away};
use super::output;
use crate::installation::surroundings::Unclear;
use crate::process::stop::ForcedExit;

/// The command failed.
const FAILED: u8 = 1;
/// The command line or the configuration is wrong.
pub(crate) const USAGE: u8 = 2;
/// The command did its work, but something is missing or had to be left.
const MISSING: u8 = 3;
/// A server is away. The same command may work later.
const AWAY: u8 = 4;
/// A second Ctrl-C ended the command. Shells give this number to a program that SIGINT ended.
const AT_ONCE: u8 = 130;

/// Something is missing, or had to be left.
#[derive(Debug)]
struct Missing(String);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

/// The error of a command that found something missing or had to leave something.
pub(crate) fn missing(message: impl Into<String>) -> anyhow::Error {
    Missing(message.into()).into()
}

/// Prints why a command failed, and returns its exit code.
pub(crate) fn report(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    let code = code(&error);
    if let Some(problems) = error.downcast_ref::<Problems>() {
        output::note(problems);
    } else if let Some(problem) = error.downcast_ref::<clap::Error>() {
        let _ = problem.print();
    } else if let Some(forced) = error.downcast_ref::<ForcedExit>() {
        output::note(forced);
    } else {
        output::note(format_args!("error: {error:#}"));
    }
    ExitCode::from(code)
}

fn code(error: &anyhow::Error) -> u8 {
    if error.is::<Problems>() || error.is::<clap::Error>() || error.is::<Unclear>() {
        USAGE
    } else if error.is::<ForcedExit>() {
        AT_ONCE
    } else if error.is::<Missing>() {
        MISSING
    } else if error.is::<Away>() || is_away(error) {
        AWAY
    } else {
        FAILED
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};
    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn a_script_can_tell_what_is_missing_from_what_is_away() {
        let missing = || Err::<(), _>(missing("7 deliveries are missing"));
        let away = || Err::<(), _>(Away::error("1 of the servers above cannot be reached"));
        for (error, expected) in [
            (anyhow!("it broke"), FAILED),
            (Cli::command().error(ErrorKind::ValueValidation, "expected a time").into(), USAGE),
            (Unclear("no such context".to_owned()).into(), USAGE),
            (ForcedExit.into(), AT_ONCE),
            (missing().unwrap_err(), MISSING),
            (missing().context("after 3 were sent").unwrap_err(), MISSING),
            (away().context("cannot check").unwrap_err(), AWAY),
        ] {
            assert_eq!(code(&error), expected, "{error:#}");
        }
    }
}
