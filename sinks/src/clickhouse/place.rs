//! Where a row stands in its table: event time, tenant and the key of its id, in the order of the table. So a row is found
//! by reading next to nothing, whatever its age.
//!
//! The tables compute the same values in SQL, for rows that somebody else writes (`write/migrations/0010_events.sql`).

use std::fmt::Write as _;

use clickhouse::query::Query;
use headrace_runtime::message::payload::{Content, Payload};
use headrace_schemas::time::Timestamp;
use sha2::{Digest as _, Sha256};

/// That a row has one of some keys. Checked first, because it costs a hundredth of [`IS_AT`].
pub(crate) const HAS_KEY: &str = "key IN CAST(?, 'Array(UInt64)')";
/// That a row stands at one of some places.
///
/// The places are one text, which the server reads faster than a list. The hour must stand in the tuple, because the
/// primary key is not used otherwise.
pub(crate) const IS_AT: &str = "(toStartOfHour(event_time), tenant, event_time, key) IN (SELECT toStartOfHour(e), t, e, k \
                                FROM (SELECT fromUnixTimestamp64Micro(x.1, 'UTC') AS e, x.2 AS t, x.3 AS k \
                                FROM (SELECT arrayJoin(CAST(?, 'Array(Tuple(Int64, String, UInt64))')) AS x)))";
/// The same, when all places have a time. A row may have the key of one and stand where another is. Without the key the
/// primary key is searched at three quarters of the cost, and hardly two rows of a tenant are of one microsecond.
pub(crate) const IS_AT_TIME: &str = "(toStartOfHour(event_time), tenant, event_time) IN (SELECT toStartOfHour(e), t, e \
                                     FROM (SELECT fromUnixTimestamp64Micro(x.1, 'UTC') AS e, x.2 AS t \
                                     FROM (SELECT arrayJoin(CAST(?, 'Array(Tuple(Int64, String))')) AS x)))";
/// The tables begin their order with the hour.
const MICROS_PER_HOUR: i64 = 3_600_000_000;
/// The first time that has no place of its own: 2100.
const TIME_END: i64 = 4_102_444_800_000_000;

/// Where a row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place<S> {
    /// The event time as the column has it.
    pub(crate) at: i64,
    pub(crate) tenant: S,
    /// [`key_of`] the id.
    pub(crate) key: u64,
}

impl<'a> Place<&'a str> {
    /// Where the row of `item` stands.
    pub(crate) fn of(item: &'a impl Payload) -> Self {
        Self { at: time_of(item.event_time()), tenant: item.identity().tenant, key: key_of(item.id()) }
    }

    /// What sorts rows as the tables do.
    pub(crate) const fn in_order(self) -> (i64, &'a str, i64, u64) {
        let Self { at, tenant, key } = self;
        (at / MICROS_PER_HOUR, tenant, at, key)
    }
}

/// What a table holds once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Name<S> {
    pub(crate) place: Place<S>,
    /// What it was made of, where several are kept at one place; zeros elsewhere.
    pub(crate) content: [u64; 2],
}

impl Name<&str> {
    /// The same with a text of its own.
    pub(crate) fn owned(self) -> Name<String> {
        let Place { at, tenant, key } = self.place;
        Name { place: Place { at, tenant: tenant.to_owned(), key }, content: self.content }
    }

    /// The same name in a table that has no event times.
    pub(crate) const fn timeless(self) -> Self {
        Self { place: Place { at: 0, ..self.place }, ..self }
    }

    /// As a tuple of all its columns.
    pub(crate) fn tuple(self) -> String {
        let Self { place: Place { at, tenant, key }, content: [first, second] } = self;
        format!("({at},{},{key},{first},{second})", quoted(tenant))
    }
}

impl Name<String> {
    /// The same with the text borrowed.
    pub(crate) fn borrowed(&self) -> Name<&str> {
        let Place { at, ref tenant, key } = self.place;
        Name { place: Place { at, tenant, key }, content: self.content }
    }
}

/// An event time as the column has it, in microseconds since the Unix epoch. A time that its hour cannot be computed of is
/// like none.
pub(crate) fn time_of(event_time: Option<Timestamp>) -> i64 {
    event_time.map(Timestamp::as_micros).filter(|micros| (1..TIME_END).contains(micros)).unwrap_or_default()
}

/// The column `key` of an id.
pub(crate) fn key_of(id: &str) -> u64 {
    let [key, _] = words(&[id]);
    key
}

/// The columns with the content of a delivery.
pub(crate) fn content_of(Content { kind, sha256 }: Content<&str>) -> [u64; 2] {
    words(&[kind, "\0", sha256])
}

/// The first 16 bytes of the hash of `texts`.
fn words(texts: &[&str]) -> [u64; 2] {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update(text.as_bytes());
    }
    let hash = hash.finalize();
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&hash[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    [word(0), word(8)]
}

/// Binds `places` to [`HAS_KEY`] and [`IS_AT`], in this order.
pub(crate) fn bind<'a>(query: Query, places: impl Iterator<Item = Place<&'a str>> + Clone) -> Query {
    let keys = list(places.clone().map(|place| place.key.to_string()));
    query.bind(keys).bind(list(places.map(tuple)))
}

/// Binds `places` to [`HAS_KEY`] and [`IS_AT_TIME`], in this order.
pub(crate) fn bind_timed<'a>(query: Query, places: impl Iterator<Item = Place<&'a str>> + Clone) -> Query {
    let keys = list(places.clone().map(|place| place.key.to_string()));
    query.bind(keys).bind(list(places.map(|Place { at, tenant, .. }| format!("({at},{})", quoted(tenant)))))
}

fn tuple(Place { at, tenant, key }: Place<&str>) -> String {
    format!("({at},{},{key})", quoted(tenant))
}

/// A text within the text of a list.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

pub(crate) fn list(elements: impl Iterator<Item = String>) -> String {
    let mut text = String::from("[");
    for (position, element) in elements.enumerate() {
        let comma = if position == 0 { "" } else { "," };
        // Writing to a text cannot fail.
        let _ = write!(text, "{comma}{element}");
    }
    text.push(']');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_of_the_first_bytes_of_the_hash() {
        // By sha256sum: 1d9dd11cc749b029….
        assert_eq!(key_of("github:72d3162e-cc78-11e3-81ab-4c9367dc0958"), 3_003_982_070_986_939_677);
        assert_ne!(key_of("a"), key_of("b"));
        let content = |kind, sha256| content_of(Content { kind, sha256 });
        assert_ne!(content("push", "ab"), content("pusha", "b"), "the two are told apart");
    }

    #[test]
    fn a_time_that_the_order_cannot_hold_is_like_none() {
        for (micros, expected) in [(-1, 0), (0, 0), (1, 1), (TIME_END - 1, TIME_END - 1), (TIME_END, 0), (i64::MAX, 0)]
        {
            assert_eq!(time_of(Some(Timestamp::from_micros(micros))), expected, "{micros}");
        }
        assert_eq!(time_of(None), 0);
    }

    #[test]
    fn places_are_in_the_order_of_the_tables() {
        let place = |at, tenant, key| Place { at, tenant, key };
        let hour = MICROS_PER_HOUR;
        let sorted = [
            place(hour - 1, "b", 9),
            place(hour + 5, "a", 2),
            place(hour + 5, "a", 3),
            place(hour + 6, "a", 1),
            place(hour, "b", 0),
            place(2 * hour, "a", 0),
        ];
        assert!(sorted.is_sorted_by_key(|place| place.in_order()));
    }

    #[test]
    fn places_are_written_as_lists() {
        let place = |at, tenant, key| Place { at, tenant, key };
        let places = [place(7, "acme", 1), place(0, "it's\\", u64::MAX)];
        assert_eq!(list(places.into_iter().map(tuple)), r"[(7,'acme',1),(0,'it\'s\\',18446744073709551615)]");
        assert_eq!(list(std::iter::empty()), "[]");
    }
}
