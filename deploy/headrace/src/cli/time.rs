//! Times on the command line. All commands read them in the same forms.

use std::time::Duration;

use clap::CommandFactory as _;
use clap::error::ErrorKind;
use headrace_schemas::time::Timestamp;

use super::Cli;

/// Reads RFC 3339 text, a day, or how long ago it was: `90s`, `90m`, `24h`, `7d`. A day begins at midnight UTC. Nothing is
/// older than 1970.
pub(crate) fn parse(text: &str) -> Result<Timestamp, String> {
    match read(text)? {
        at if at >= Timestamp::default() => Ok(at),
        _ => Err("expected a time since 1970".to_owned()),
    }
}

fn read(text: &str) -> Result<Timestamp, String> {
    if let Some(at) = Timestamp::parse(text).or_else(|| day(text)) {
        return Ok(at);
    }
    let ago = || {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return None,
        };
        number.parse::<u64>().ok()?.checked_mul(seconds)
    };
    let seconds = ago().ok_or_else(|| {
        "expected a time such as `2026-01-31T08:15:30Z`, a day such as `2026-01-31`, or how long ago: `90m`, `24h`, `7d`"
            .to_owned()
    })?;
    Ok(Timestamp::now().minus(Duration::from_secs(seconds)))
}

/// The beginning of a day such as `2026-01-31`.
fn day(text: &str) -> Option<Timestamp> {
    let is_day = text.len() == "2026-01-31".len() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    if is_day { Timestamp::parse(&format!("{text}T00:00:00Z")) } else { None }
}

/// Makes sure that a window ends after it begins.
///
/// # Errors
/// An error of the command line if it does not.
pub(crate) fn ensure_window(since: Timestamp, until: Timestamp) -> Result<(), clap::Error> {
    if since < until {
        return Ok(());
    }
    Err(wrong(&format!("expected --since before --until, found {since} and {until}")))
}

/// The error of the command line for a wrong time.
pub(crate) fn wrong(problem: &str) -> clap::Error {
    Cli::command().error(ErrorKind::ValueValidation, problem)
}

/// A point in time as an argument, with its text.
#[derive(Clone, Debug)]
pub struct TimeArgument {
    /// The text on the command line.
    pub text: String,
    /// The time that the text meant when it was read.
    pub at: Timestamp,
}

impl TimeArgument {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Ok(Self { text: text.to_owned(), at: parse(text)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_or_counted_back() {
        let at = |text: &str| Timestamp::parse(text).unwrap();
        assert_eq!(parse("2026-01-31T08:15:30Z"), Ok(at("2026-01-31T08:15:30Z")));
        assert_eq!(parse("2026-01-31T08:15:30+02:00"), Ok(at("2026-01-31T06:15:30Z")));
        assert_eq!(parse("2026-01-31"), Ok(at("2026-01-31T00:00:00Z")));
        let ago = Timestamp::now().since(parse("2h").unwrap());
        assert!(ago.abs_diff(Duration::from_secs(7_200)) < Duration::from_secs(60), "{ago:?}");
        for wrong in [
            "",
            "h",
            "2",
            "2w",
            "-1h",
            "é",
            "99999999999999999999d",
            "9999999999999d",
            "30000d",
            "1969-12-31",
            "18446744073709551615d",
            "soon",
            "2026-02-30",
            "2026-1-31",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_window_ends_after_it_begins() {
        let [earlier, later] = ["2026-01-31", "2026-02-01"].map(|text| parse(text).unwrap());
        assert!(ensure_window(earlier, later).is_ok());
        let refused = ensure_window(later, earlier).unwrap_err().to_string();
        assert!(refused.contains("expected --since before --until, found 2026-02-01T00:00:00"), "{refused}");
        assert!(ensure_window(earlier, earlier).is_err());
    }
}
