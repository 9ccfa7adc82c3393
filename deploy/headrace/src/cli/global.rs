//! The options of every command: how much it prints, and in which colours.

use std::ffi::OsString;

use anstream::ColorChoice;
use clap::{ArgAction, Args, ValueEnum};

const HEADING: &str = "Global options";
const OPTION: &str = "--color";

/// Options of every command.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Global {
    /// Print more on stderr, such as which configuration and servers are used. Give it twice or three times for more.
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = HEADING)]
    pub verbose: u8,
    /// Print less: only warnings and errors. Give it twice for errors only.
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = HEADING)]
    pub quiet: u8,
    /// When to use colours. `auto` obeys NO_COLOR, CLICOLOR and CLICOLOR_FORCE.
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t, help_heading = HEADING)]
    pub color: Color,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal.
    #[default]
    Auto,
    /// Also in files and pipes.
    Always,
    /// Nowhere.
    Never,
}

impl Global {
    /// Which log lines are shown. `None` leaves this to the configuration.
    pub(crate) fn filter(self) -> Option<&'static str> {
        match i16::from(self.verbose) - i16::from(self.quiet) {
            ..=-2 => Some("error"),
            -1 => Some("warn"),
            0 => None,
            1 => Some("info,headrace=debug"),
            2 => Some("debug"),
            3.. => Some("trace"),
        }
    }

    /// Whether to print more than usual.
    pub(crate) const fn is_verbose(self) -> bool {
        self.verbose > self.quiet
    }

    /// Whether to print less than usual.
    pub(crate) const fn is_quiet(self) -> bool {
        self.quiet > self.verbose
    }
}

/// Decides whether help, errors and logs have colours. It reads the arguments before they are parsed, because the error
/// about a wrong one has colours too.
pub(crate) fn settle_colors(arguments: &[OsString]) {
    color(arguments).write_global();
}

fn color(arguments: &[OsString]) -> ColorChoice {
    let words: Vec<&str> = arguments
        .iter()
        .map(|argument| argument.to_str().unwrap_or_default())
        .take_while(|word| *word != "--")
        .collect();
    let named = words.iter().enumerate().rev().find_map(|(at, word)| match word.strip_prefix(OPTION)? {
        "" => words.get(at + 1).copied(),
        rest => rest.strip_prefix('='),
    });
    match named.and_then(|name| Color::from_str(name, false).ok()) {
        Some(Color::Always) => ColorChoice::Always,
        Some(Color::Never) => ColorChoice::Never,
        Some(Color::Auto) | None => ColorChoice::Auto,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::Cli;

    use super::*;

    #[test]
    fn both_ends_of_the_line_say_how_much_is_said() {
        for (line, expected) in [
            ("headrace gaps", None),
            ("headrace gaps -v", Some("info,headrace=debug")),
            ("headrace -v gaps", Some("info,headrace=debug")),
            ("headrace dead list -vv", Some("debug")),
            ("headrace gaps -vvvv", Some("trace")),
            ("headrace gaps --quiet", Some("warn")),
            ("headrace -qq gaps", Some("error")),
            ("headrace gaps -vq", None),
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(cli.global.filter(), expected, "{line}");
        }
    }

    #[test]
    fn colours_are_settled_before_the_line_is_understood() {
        for (line, expected) in [
            ("headrace gaps", ColorChoice::Auto),
            ("headrace --color never gaps", ColorChoice::Never),
            ("headrace gaps --color=always --nonsense", ColorChoice::Always),
            ("headrace --color=never gaps --color=always", ColorChoice::Always),
            ("headrace gaps --color", ColorChoice::Auto),
            ("headrace gaps --color=red", ColorChoice::Auto),
            ("headrace query -- --color=never", ColorChoice::Auto),
        ] {
            let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(color(&arguments), expected, "{line}");
        }
    }
}
