//! The command line of `chain`.

use std::str::FromStr;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::Common;

/// No delivery is older: ten years, in seconds.
const AGE_MAX_S: u64 = 315_360_000;

/// By which sources something old comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SuspectsBy {
    /// A third each: webhooks, posted records, lines of a file in a folder.
    #[default]
    All,
    /// Webhooks alone, as all that is new. Commits that have no other source need it.
    Webhooks,
}

/// `headrace-benches chain`
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct Chain {
    /// Deliveries per second; 0 finds the highest rate at which the backlog stays within `--backlog`.
    #[arg(long, value_name = "PER_SECOND", default_value_t = 0)]
    pub(crate) rate: u32,
    /// With `--rate 0`: how many events may be accepted but not yet be rows.
    #[arg(long, value_name = "EVENTS", default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1_000..=10_000_000))]
    pub(crate) backlog: u64,
    /// The share of deliveries that are presented again, or for the first time, long after GitHub made them: each is
    /// looked up before it is inserted.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = parse_share)]
    pub(crate) suspects: f64,
    /// The ages of these deliveries, in seconds: each order of magnitude as often as any other.
    #[arg(long, value_name = "FROM..TO", default_value = "60..604800")]
    pub(crate) ages: Ages,
    /// By which sources those of them come that nobody has seen.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) suspects_by: SuspectsBy,
    /// How many rows both tables get before the load, of the last seven days.
    #[arg(long, value_name = "ROWS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=10_000_000_000))]
    pub(crate) prefill: u64,
    /// Compare the load with and without `--suspects`, in so many pairs of loads over the same servers and rows. Each
    /// load lasts for `--warmup` and `--seconds`, and begins when the one before it has become rows. 0 makes one load.
    #[arg(long, value_name = "PAIRS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=100))]
    pub(crate) turns: u32,
    /// How the load is made.
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) common: Common,
}

impl Chain {
    /// Says what is wrong with the options together.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.turns > 0 && self.suspects == 0.0 {
            return Err("--turns compares loads with and without --suspects; give that more than 0".to_owned());
        }
        // At a fixed rate both loads have the same.
        if self.turns > 0 && self.rate > 0 {
            return Err("--turns compares the rates that the chain sustains; leave out --rate".to_owned());
        }
        Ok(())
    }
}

/// From the youngest to the oldest, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Ages {
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl FromStr for Ages {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ages =
            text.split_once("..").and_then(|(from, to)| Some(Self { from: from.parse().ok()?, to: to.parse().ok()? }));
        let ages = ages.filter(|ages| ages.from > 0 && ages.from <= ages.to && ages.to <= AGE_MAX_S);
        ages.ok_or_else(|| format!("expected two ages in seconds such as 60..604800, of 1 to {AGE_MAX_S}"))
    }
}

fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "expected a share from 0 to 1, such as 0.05".to_owned())
}

#[cfg(test)]
mod tests {
    use crate::cli::Cli;

    #[test]
    fn turns_need_suspects_and_the_rate_that_is_sustained() {
        let read = |arguments: &[&str]| {
            let all = ["headrace-benches", "chain"].iter().chain(arguments);
            Cli::read(all).map_err(|error| (error.exit_code(), error.to_string()))
        };
        for right in
            [&["--turns", "2", "--suspects", "0.05"][..], &["--turns", "0"], &["--rate", "5", "--suspects", "1"]]
        {
            assert!(read(right).is_ok(), "{right:?}");
        }
        let (code, text) = read(&["--turns", "2", "--suspects", "0"]).unwrap_err();
        assert!(code == 2 && text.contains("with and without --suspects"), "{text}");
        let (code, text) = read(&["--turns", "2", "--suspects", "0.05", "--rate", "5"]).unwrap_err();
        assert!(code == 2 && text.contains("leave out --rate"), "{text}");
    }
}
