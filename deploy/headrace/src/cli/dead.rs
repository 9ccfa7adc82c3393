//! The arguments of `headrace dead`: which dead letters, and what to do with them.

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use headrace_runtime::fault::DeadReason;
use headrace_schemas::time::Timestamp;
use headrace_schemas::token;

use super::place::Place;
use super::{EXIT_CODES, time};

/// The options that say which dead letters are meant. `--limit` only says how many.
const FILTERS: [&str; 7] = ["component", "tenant", "reason", "event_id", "number", "since", "until"];

/// `headrace dead`
#[derive(Debug, Args)]
pub struct Dead {
    /// The action.
    #[command(subcommand)]
    pub action: DeadAction,
}

/// What can be done with dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadAction {
    /// Show what was given up, when, by which component and why: one line for each, or only how many.
    #[command(after_help = format!("Examples:\n  headrace dead list --reason malformed --since 24h\n  headrace dead list --counts --json\n\n{EXIT_CODES}"))]
    List {
        /// Where they are.
        #[command(flatten)]
        place: Place,
        /// Which of them.
        #[command(flatten)]
        selection: Selection,
        /// Only how many there are, by component and reason.
        #[arg(long)]
        counts: bool,
        /// Write JSON, one object a line.
        #[arg(long)]
        json: bool,
    },
    /// Show one dead letter: its headers, and with --payload its body.
    #[command(after_help = format!("Example:\n  headrace dead show 17 --payload\n\n{EXIT_CODES}"))]
    Show {
        /// Where it is.
        #[command(flatten)]
        place: Place,
        /// Its number in `headrace dead list`.
        #[arg(value_name = "NUMBER")]
        sequence: u64,
        /// Also show the body. It may hold what not everybody may see.
        #[arg(long)]
        payload: bool,
        /// Write JSON.
        #[arg(long)]
        json: bool,
    },
    /// Send dead letters through again. Rows and tickets are not made twice, but SIEM receivers and files may get an
    /// event again. What fails again becomes a dead letter again.
    #[command(after_help = format!("Examples:\n  headrace dead redrive --component clickhouse --dry-run\n  headrace dead redrive --number 17\n  headrace dead redrive --all\n\n{EXIT_CODES}"))]
    Redrive {
        /// Where they are.
        #[command(flatten)]
        place: Place,
        /// Which of them.
        #[command(flatten)]
        selection: Selection,
        /// All dead letters, up to --limit. Required if there is no filter.
        #[arg(long, conflicts_with_all = FILTERS)]
        all: bool,
        /// Only show which dead letters are meant.
        #[arg(long)]
        dry_run: bool,
        /// Write JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove dead letters for good.
    #[command(after_help = format!("Examples:\n  headrace dead drop --reason malformed --until 30d --dry-run\n  headrace dead drop --number 17 --yes\n\n{EXIT_CODES}"))]
    Drop {
        /// Where they are.
        #[command(flatten)]
        place: Place,
        /// Which of them.
        #[command(flatten)]
        selection: Selection,
        /// All dead letters, up to --limit. Required if there is no filter.
        #[arg(long, conflicts_with_all = FILTERS)]
        all: bool,
        /// Only show which dead letters are meant.
        #[arg(long)]
        dry_run: bool,
        /// Write JSON.
        #[arg(long)]
        json: bool,
        /// Confirm that they are to be removed. Nothing brings them back.
        #[arg(long, required_unless_present = "dry_run")]
        yes: bool,
    },
}

/// Which dead letters; all conditions must hold.
#[derive(Debug, Args)]
pub struct Selection {
    /// Only what this component gave up: `normalize`, `clickhouse`, `splunk`, …
    #[arg(long, value_name = "NAME", value_parser = component)]
    pub component: Option<String>,
    /// Only of this tenant.
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// Only for this reason.
    #[arg(long, value_name = "CODE", value_parser = PossibleValuesParser::new(DeadReason::ALL.map(DeadReason::code)))]
    pub reason: Option<String>,
    /// Only of this event: `github:` and the delivery's GUID.
    #[arg(long, value_name = "ID")]
    pub event_id: Option<String>,
    /// Only the one with this number in `headrace dead list`.
    #[arg(long, value_name = "NUMBER")]
    pub number: Option<u64>,
    /// Only what was given up then or later: how long ago (`90m`, `24h`, `7d`), a day (`2026-01-31`, from midnight
    /// UTC), or `2026-01-31T08:15:30Z`.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    pub since: Option<Timestamp>,
    /// Only what was given up before then, in the same forms.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    pub until: Option<Timestamp>,
    /// At most this many, the oldest first.
    #[arg(long, value_name = "COUNT")]
    pub limit: Option<u64>,
}

impl Selection {
    /// Whether any option besides the limit leaves dead letters out.
    pub(crate) const fn filters(&self) -> bool {
        self.component.is_some()
            || self.tenant.is_some()
            || self.reason.is_some()
            || self.event_id.is_some()
            || self.number.is_some()
            || self.since.is_some()
            || self.until.is_some()
    }

    /// Whether it may take one dead letter of a message and leave another out. All dead letters of a message have its
    /// tenant and its event.
    pub(crate) const fn may_leave_copies(&self) -> bool {
        self.component.is_some()
            || self.reason.is_some()
            || self.number.is_some()
            || self.since.is_some()
            || self.until.is_some()
            || self.limit.is_some()
    }
}

/// Checks the name of a component. It becomes a part of a subject, where another text would be escaped and find nothing.
fn component(text: &str) -> Result<String, String> {
    if token::escaped(text) == text {
        return Ok(text.to_owned());
    }
    Err("expected the name of one component, as `headrace dead list --counts` shows it; without this option all are meant"
        .to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::{Cli, Command};

    use super::*;

    fn redrive(arguments: &str) -> Result<Selection, clap::Error> {
        let words = ["headrace", "dead", "redrive"].into_iter().chain(arguments.split_whitespace());
        match Cli::try_parse_from(words)?.command {
            Command::Dead(Dead { action: DeadAction::Redrive { selection, .. } }) => Ok(selection),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_condition_but_the_limit_is_a_filter() {
        for (arguments, expected) in [
            ("", false),
            ("--limit 5", false),
            ("--component splunk", true),
            ("--tenant acme", true),
            ("--reason malformed", true),
            ("--event-id github:1", true),
            ("--number 1", true),
            ("--since 24h", true),
            ("--until 2026-11-20", true),
        ] {
            assert_eq!(redrive(arguments).unwrap().filters(), expected, "{arguments}");
            assert_eq!(redrive(&format!("{arguments} --all")).is_err(), expected, "{arguments} --all");
        }
    }
}
