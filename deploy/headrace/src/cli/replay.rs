//! `headrace replay`: what is computed again, with which configuration, into which table.

use clap::Args;

use super::place::Place;
use super::time::TimeArgument;

/// `headrace replay`
#[derive(Debug, Args)]
pub struct Replay {
    /// Where RAW and ClickHouse are, and the stages as they are configured. Without --config the configuration of the
    /// running or the last `up` of the data directory is used.
    #[command(flatten)]
    pub place: Place,
    /// Use the built-in configuration and the environment's variables, and no file: rows lose the owners of assets and
    /// the matches of rules that a file had named.
    #[arg(long, conflicts_with = "config")]
    pub defaults: bool,
    /// Deliveries that were received then or later: how long ago (`90m`, `24h`, `7d`), a day (`2026-01-31`, from
    /// midnight UTC), or `2026-01-31T08:15:30Z`.
    #[arg(long, alias = "from", value_name = "TIME", value_parser = TimeArgument::parse)]
    pub since: TimeArgument,
    /// Deliveries that were received before then, in the same forms; before now when it is not given.
    #[arg(long, alias = "to", value_name = "TIME", value_parser = TimeArgument::parse)]
    pub until: Option<TimeArgument>,
    /// Of this tenant only.
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// Write into a new table of this name, with the columns of `events`, and change nothing else.
    #[arg(long, value_name = "TABLE", value_parser = side_table)]
    pub into: Option<String>,
    /// Begin anew instead of going on with the same replay when it was interrupted, such as after files with rules
    /// were changed.
    #[arg(long)]
    pub restart: bool,
    /// Write the sum as JSON.
    #[arg(long)]
    pub json: bool,
}

/// A name for a table beside those of Headrace.
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
