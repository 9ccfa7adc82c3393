//! The arguments of `headrace replay`: what to compute again, with which configuration, into which table.

use clap::Args;

use super::place::Place;
use super::time::TimeArgument;

/// `headrace replay`
#[derive(Debug, Args)]
pub struct Replay {
    /// Where RAW and ClickHouse are, and how the stages are configured. Without --config, the configuration of the
    /// running or the last `up` of the data directory is used.
    #[command(flatten)]
    pub place: Place,
    /// Use the built-in configuration and environment variables, and no file. Rows lose the owners of assets and the
    /// matches of rules that a file had named.
    #[arg(long, conflicts_with = "config")]
    pub defaults: bool,
    /// Replay deliveries that were received then or later: how long ago (`90m`, `24h`, `7d`), a day (`2026-01-31`, from
    /// midnight UTC), or `2026-01-31T08:15:30Z`.
    #[arg(long, alias = "from", value_name = "TIME", value_parser = TimeArgument::parse)]
    pub since: TimeArgument,
    /// Replay deliveries that were received before then, in the same forms. Without it, until now.
    #[arg(long, alias = "to", value_name = "TIME", value_parser = TimeArgument::parse)]
    pub until: Option<TimeArgument>,
    /// Replay only this tenant's deliveries.
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// Write into a new table with this name and the columns of `events`, and change nothing else.
    #[arg(long, value_name = "TABLE", value_parser = side_table)]
    pub into: Option<String>,
    /// Begin again, even if the same replay was interrupted and could go on. Use it after you changed files with rules.
    #[arg(long)]
    pub restart: bool,
    /// Print the totals as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Checks the name of a table that is not one of Headrace's own.
fn side_table(name: &str) -> Result<String, String> {
    let plain = |char: char| char.is_ascii_alphanumeric() || char == '_';
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        return Err("expected up to 64 letters, digits and `_`".to_owned());
    }
    if ["events", "raw", "migrations"].contains(&name) {
        return Err("expected a table of its own; without --into the rows of `events` are replaced".to_owned());
    }
    Ok(name.to_owned())
}
