//! What a component has missed: ranges of EVENTS, by the times at which the broker stored the messages.
//!
//! Ranges are never made smaller than what was missed. Two that touch become one. What a person asked for by `rewind` is kept
//! apart: a person may take it back, and never what was missed.

use std::time::Duration;

use headrace_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

/// The most ranges of a record. Beyond it, the two with the least between them become one.
const RANGES_MAX: usize = 32;

/// Why a component misses a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// The stream was nearly full.
    Full,
    /// The messages were about to become too old, or had.
    Age,
    /// A person asked for it.
    Rewound,
}

impl Cause {
    /// The word for people and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Age => "age",
            Self::Rewound => "rewound",
        }
    }
}

/// A range of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// When its first message was stored.
    pub since: Timestamp,
    /// Just after its last message was stored.
    pub until: Timestamp,
    /// Everything before this is in CATCHUP, or was delivered from there.
    pub from: Timestamp,
    /// First and last sequence. `None` if a person asked for a time.
    pub sequences: Option<(u64, u64)>,
    /// When it was written down. It is part of the deduplication key of its messages.
    pub made_at: Timestamp,
    /// Why.
    pub cause: Cause,
}

/// How far a component is known to have come. It tells later whether messages expired that the component had not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Everything up to this sequence is settled, or in a range.
    pub sequence: u64,
    /// Everything that was stored before this time is.
    pub stored_at: Timestamp,
    /// When this was noted.
    #[serde(default)]
    pub at: Timestamp,
}

/// The record of a component.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// What is still missed, in order and without overlaps.
    pub ranges: Vec<Range>,
    /// What a person asked for and was not brought yet, in order and without overlaps. It may overlap what is missed.
    pub rewound: Vec<Range>,
    /// When a purge last took messages from the component.
    pub taken_at: Option<Timestamp>,
    /// When events were last brought.
    pub brought_at: Option<Timestamp>,
    /// How many events were brought since it was set aside.
    pub brought: u64,
    /// How far it had come when retention last noted it.
    pub seen: Option<Seen>,
}

impl Record {
    /// Whether something is to be brought: missed, or asked for.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.next().is_some()
    }

    /// What is brought first. What was missed goes before what a person asked for.
    #[must_use]
    pub fn next(&self) -> Option<&Range> {
        self.all().next()
    }

    /// Everything that is to be brought.
    pub fn all(&self) -> impl Iterator<Item = &Range> {
        self.ranges.iter().chain(&self.rewound)
    }

    /// The seconds of the stream that are still to be brought.
    #[must_use]
    pub fn missed_seconds(&self) -> f64 {
        self.all().map(|range| range.until.since(range.from).as_secs_f64()).sum()
    }

    /// The share that was brought already, from 0 to 1, of the ranges that are still there.
    #[must_use]
    pub fn progress(&self) -> f64 {
        let whole: f64 = self.all().map(|range| range.until.since(range.since).as_secs_f64()).sum();
        if whole > 0.0 { 1.0 - self.missed_seconds() / whole } else { 0.0 }
    }

    /// Adds a range. Returns whether there was none of its sort before, missed or asked for.
    pub fn add(&mut self, range: Range) -> bool {
        if !self.is_behind() {
            self.brought = 0;
        }
        let ranges = self.of_cause(range.cause);
        let is_first = ranges.is_empty();
        let mut added = range;
        // One that was united with others may touch further ones.
        while let Some(at) = ranges.iter().position(|other| touch(other, &added)) {
            added = united(ranges.remove(at), added);
        }
        let at = ranges.partition_point(|other| other.since <= added.since);
        ranges.insert(at, added);
        while ranges.len() > RANGES_MAX {
            unite_nearest(ranges);
        }
        is_first
    }

    /// Notes that everything of `range` before `to` was brought, `count` events. It counts only while the range still
    /// begins where `range` does: another may have been united with it meanwhile.
    pub fn advance(&mut self, range: &Range, to: Timestamp, count: u64, now: Timestamp) {
        let ranges = self.of_cause(range.cause);
        for own in ranges.iter_mut().filter(|own| own.from == range.from) {
            own.from = to.min(own.until);
        }
        ranges.retain(|own| own.from < own.until);
        (self.brought, self.brought_at) = (self.brought + count, Some(now));
    }

    /// Sets apart what the store lacks of what was missed in `range`: everything before `first`. It counts only while the range
    /// still begins where `range` does.
    pub(super) fn part(&mut self, range: &Range, first: Timestamp, now: Timestamp) {
        let is_meant = |own: &Range| own.from == range.from && (own.from..own.until).contains(&first);
        let Some(at) = self.ranges.iter().position(is_meant) else { return };
        // A moment lies between them, and what follows on the later one has nothing to do with the earlier. So they stay apart.
        let until = first.minus(Duration::from_micros(1));
        let lacking = Range { until, sequences: None, made_at: now, ..self.ranges[at].clone() };
        (self.ranges[at].since, self.ranges[at].from) = (first, first);
        if lacking.from < lacking.until {
            self.ranges.insert(at, lacking);
        }
    }

    /// The same, with what a person asked for apart from what was missed. It was not, at first.
    #[must_use]
    pub(super) fn parted(mut self) -> Self {
        self.rewound.extend(self.ranges.extract_if(.., |range| range.cause == Cause::Rewound));
        self
    }

    /// Forgets what was missed before `until`. What a person asked for stays. Returns what is forgotten.
    pub fn skip(&mut self, until: Timestamp) -> Vec<Range> {
        let mut skipped = Vec::new();
        for own in &mut self.ranges {
            let to = until.min(own.until);
            if own.from < to {
                skipped.push(Range { until: to, ..own.clone() });
                own.from = to;
            }
        }
        self.ranges.retain(|own| own.from < own.until);
        skipped
    }

    /// Forgets what a person asked for. What was missed stays. Returns what is forgotten.
    pub fn cancel(&mut self) -> Vec<Range> {
        std::mem::take(&mut self.rewound)
    }

    const fn of_cause(&mut self, cause: Cause) -> &mut Vec<Range> {
        match cause {
            Cause::Full | Cause::Age => &mut self.ranges,
            Cause::Rewound => &mut self.rewound,
        }
    }
}

fn unite_nearest(ranges: &mut Vec<Range>) {
    let gap = |pair: &[Range]| pair[1].since.since(pair[0].until);
    let nearest = ranges.windows(2).enumerate().min_by_key(|(_, pair)| gap(pair));
    if let Some((at, _)) = nearest {
        let (one, other) = (ranges.remove(at), ranges.remove(at));
        ranges.insert(at, united(one, other));
    }
}

/// Whether two ranges have something in common, or one follows on the other.
fn touch(one: &Range, other: &Range) -> bool {
    let follows = |one: &Range, other: &Range| match (one.sequences, other.sequences) {
        (Some((first, last)), Some((next, _))) => (first..=last.saturating_add(1)).contains(&next),
        _ => false,
    };
    (one.since <= other.until && other.since <= one.until) || follows(one, other) || follows(other, one)
}

/// Both ranges as one, with what lies between them.
fn united(known: Range, added: Range) -> Range {
    // If the added one goes back behind what was brought, its messages come again, so they need another key.
    let made_at = if added.from < known.from { added.made_at } else { known.made_at };
    let sequences = match (known.sequences, added.sequences) {
        (Some(one), Some(other)) => Some((one.0.min(other.0), one.1.max(other.1))),
        (one, other) => one.or(other),
    };
    Range {
        since: known.since.min(added.since),
        until: known.until.max(added.until),
        from: known.from.min(added.from),
        sequences,
        made_at,
        cause: known.cause,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    fn range(since: i64, until: i64, sequences: Option<(u64, u64)>) -> Range {
        let (since, until) = (at(since), at(until));
        Range { since, until, from: since, sequences, made_at: until, cause: Cause::Full }
    }

    fn spans(record: &Record) -> Vec<(i64, i64, i64)> {
        let second = |time: Timestamp| time.as_micros() / 1_000_000;
        record.ranges.iter().map(|own| (second(own.since), second(own.from), second(own.until))).collect()
    }

    #[test]
    fn ranges_that_touch_become_one() {
        let mut record = Record::default();
        assert!(record.add(range(10, 20, Some((1, 5)))));
        assert!(!record.add(range(30, 40, Some((9, 12)))), "it was behind before");
        assert_eq!(spans(&record), [(10, 10, 20), (30, 30, 40)]);
        record.add(range(22, 25, Some((6, 7))));
        assert_eq!(spans(&record), [(10, 10, 25), (30, 30, 40)], "no message lies between");
        record.add(range(24, 31, None));
        assert_eq!(spans(&record), [(10, 10, 40)]);
        assert_eq!(record.ranges[0].sequences, Some((1, 12)));
        // The same once more, as after a crash between the note and the purge.
        let before = record.clone();
        record.add(range(30, 40, Some((9, 12))));
        assert_eq!(record, before);
    }

    #[test]
    fn what_was_asked_for_is_taken_back_and_what_was_missed_is_not() {
        let mut record = Record::default();
        let rewound = |since, until| Range { cause: Cause::Rewound, ..range(since, until, None) };
        assert!(record.add(rewound(0, 100)));
        assert!(record.add(range(10, 20, Some((1, 5)))), "the first that is missed");
        assert!(!record.add(rewound(100, 110)));
        assert_eq!((spans(&record), record.rewound.len()), (vec![(10, 10, 20)], 1));
        assert_eq!(record.next().map(|next| next.cause), Some(Cause::Full));
        let next = record.next().cloned().unwrap();
        record.advance(&next, at(20), 1, at(120));
        assert_eq!(record.next().map(|next| next.cause), Some(Cause::Rewound));
        record.add(range(30, 40, Some((7, 9))));
        assert_eq!(record.cancel().len(), 1);
        assert!(record.is_behind() && record.rewound.is_empty());
        assert_eq!(spans(&record), [(30, 30, 40)]);
        assert_eq!(record.cancel(), []);
        record.ranges.push(rewound(50, 60));
        let record = record.parted();
        assert_eq!((record.ranges.len(), record.rewound.len()), (1, 1));
    }

    #[test]
    fn what_was_brought_is_not_missed_any_more() {
        let mut record = Record::default();
        record.add(range(10, 20, None));
        record.add(range(30, 40, None));
        record.advance(&range(10, 99, None), at(15), 7, at(100));
        assert_eq!(spans(&record), [(10, 15, 20), (30, 30, 40)]);
        assert!((record.missed_seconds() - 15.0).abs() < 0.01 && (record.progress() - 0.25).abs() < 0.01);
        record.add(range(20, 22, None));
        assert_eq!(spans(&record), [(10, 15, 22), (30, 30, 40)]);
        record.advance(&range(10, 99, None), at(18), 3, at(101));
        assert_eq!(spans(&record)[0], (10, 15, 22), "of a state that another process has changed since");
        record.advance(&range(15, 99, None), at(30), 3, at(102));
        assert_eq!(spans(&record), [(30, 30, 40)]);
        record.advance(&range(30, 99, None), at(40), 1, at(103));
        assert!(!record.is_behind());
        assert_eq!((record.brought, record.brought_at), (14, Some(at(103))));
    }

    #[test]
    fn what_the_store_lacks_stays_apart_from_what_is_missed_later() {
        let mut record = Record::default();
        record.add(range(10, 20, Some((1, 5))));
        let whole = record.ranges[0].clone();
        record.part(&range(11, 20, None), at(13), at(100));
        assert_eq!(record.ranges, std::slice::from_ref(&whole), "of a state that another process has changed since");
        record.part(&whole, at(15), at(100));
        record.add(range(19, 30, Some((6, 9))));
        let [lacking, kept] = &record.ranges[..] else { panic!("expected two, found {record:?}") };
        assert_eq!(
            (lacking.since, lacking.until, lacking.made_at),
            (at(10), at(15).minus(Duration::from_micros(1)), at(100))
        );
        assert_eq!(
            (kept.from, kept.until, kept.sequences, kept.made_at),
            (at(15), at(30), Some((1, 9)), whole.made_at)
        );
        assert_eq!(record.skip(lacking.until).len(), 1);
        assert_eq!(spans(&record), [(15, 15, 30)]);
    }

    #[test]
    fn what_is_given_up_ends_where_a_person_says() {
        let mut record = Record::default();
        record.add(range(10, 20, None));
        record.add(range(30, 40, None));
        record.add(Range { cause: Cause::Rewound, ..range(0, 100, None) });
        record.advance(&range(10, 99, None), at(15), 1, at(100));
        let spans_of = |ranges: &[Range]| ranges.iter().map(|own| (own.from, own.until)).collect::<Vec<_>>();
        assert_eq!(record.skip(at(15)), [], "it was brought");
        assert_eq!(spans_of(&record.skip(at(32))), [(at(15), at(20)), (at(30), at(32))]);
        assert_eq!((spans(&record), record.rewound.len()), (vec![(30, 32, 40)], 1));
    }

    #[test]
    fn what_is_asked_for_again_has_another_key() {
        let mut record = Record::default();
        record.add(range(10, 20, None));
        record.advance(&range(10, 99, None), at(15), 1, at(100));
        let known = record.ranges[0].made_at;
        record.add(Range { made_at: at(200), ..range(16, 18, None) });
        assert_eq!(record.ranges[0].made_at, known, "nothing of it was brought");
        record.add(Range { made_at: at(300), ..range(12, 18, None) });
        assert_eq!((record.ranges[0].made_at, record.ranges[0].from), (at(300), at(12)));
    }

    proptest! {
        #[test]
        fn nothing_that_is_missed_is_left_out(added in proptest::collection::vec((0_i64..500, 1_i64..9), 1..120)) {
            let mut record = Record::default();
            for (since, length) in &added {
                record.add(range(*since, since + length, None));
            }
            prop_assert!(record.ranges.len() <= RANGES_MAX);
            prop_assert!(record.ranges.windows(2).all(|pair| pair[0].until < pair[1].since));
            for (since, length) in added {
                let covers = |own: &Range| own.from <= at(since) && at(since + length) <= own.until;
                prop_assert!(record.ranges.iter().any(covers), "{} to {}", since, since + length);
            }
        }
    }
}
