//! Points in time on the command line.

use std::time::Duration;

use headrace_schemas::time::Timestamp;

/// Reads RFC 3339 text, or how long ago it was: `90s`, `90m`, `24h`, `7d`.
pub(crate) fn parse(text: &str) -> Result<Timestamp, String> {
    if let Some(at) = Timestamp::parse(text) {
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
        "expected a time such as `2026-01-31T08:15:30Z` or how long ago: `90m`, `24h`, `7d`".to_owned()
    })?;
    Ok(Timestamp::now().minus(Duration::from_secs(seconds)))
}

/// A point in time as an argument, with its text.
#[derive(Clone, Debug)]
pub struct TimeArgument {
    /// As it stands on the command line.
    pub text: String,
    /// What it meant when it was read.
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
        assert_eq!(parse("2026-01-31T08:15:30Z"), Ok(Timestamp::parse("2026-01-31T08:15:30Z").unwrap()));
        let ago = Timestamp::now().since(parse("2h").unwrap());
        assert!(ago.abs_diff(Duration::from_secs(7_200)) < Duration::from_secs(60), "{ago:?}");
        for wrong in ["", "h", "2", "2w", "-1h", "é", "99999999999999999999d", "18446744073709551615d", "soon"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
