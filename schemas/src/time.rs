//! Points in time, in microseconds since the Unix epoch.
//!
//! One type serves Avro (`timestamp-micros`), ClickHouse (`DateTime64(6)`) and JSON (RFC 3339), so that no part must
//! convert by hand.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp as Instant;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Microseconds since 1970-01-01T00:00:00Z.
///
/// Human-readable formats carry RFC 3339 text. Binary formats carry the integer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The present, by the system clock.
    #[must_use]
    pub fn now() -> Self {
        Self(Instant::now().as_microsecond())
    }

    /// From microseconds since the epoch.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// From whole seconds since the epoch, as GitHub writes `pushed_at` in push payloads.
    #[must_use]
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// From nanoseconds since the epoch, as NATS' client library returns them. Parts of a microsecond are dropped.
    #[must_use]
    pub fn from_unix_nanos(nanos: i128) -> Self {
        Self(i64::try_from(nanos / 1_000).unwrap_or_default())
    }

    /// Microseconds since the epoch.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Reads RFC 3339 text such as `2026-01-31T08:15:30Z`. `None` for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        text.parse::<Instant>().ok().map(|at| Self(at.as_microsecond()))
    }

    /// How much later `self` is than `earlier`; zero if it is not later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The moment `by` before this one.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)))
    }

    /// The moment `by` after this one.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Instant::from_microsecond(self.0) {
            Ok(at) => write!(f, "{at:.6}"),
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_i64(self.0) }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            Self::parse(&text).ok_or_else(|| D::Error::custom(format!("expected an RFC 3339 time, found `{text}`")))
        } else {
            i64::deserialize(deserializer).map(Self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_micros_agree() {
        let at = Timestamp::parse("2026-01-31T08:15:30.25Z").unwrap();
        assert_eq!(at.as_micros(), 1_769_847_330_250_000);
        assert_eq!(at.to_string(), "2026-01-31T08:15:30.250000Z");
        assert_eq!(Timestamp::parse(&at.to_string()), Some(at));
        assert_eq!(
            Timestamp::parse("2019-05-15T15:20:30+02:00").map(|at| at.to_string()).unwrap(),
            "2019-05-15T13:20:30.000000Z"
        );
        assert_eq!(Timestamp::parse("yesterday"), None);
    }
}
