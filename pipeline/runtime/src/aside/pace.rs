//! How much is read of the store at once, and where in a moment the last reading ended.

use std::time::Duration;

use headrace_schemas::time::Timestamp;

use crate::aside::history::{Order, Row};
use crate::aside::record::Range;
use crate::aside::waiting::Waiting;

/// The most events that are read at once.
pub(super) const PAGE_EVENTS: usize = 2_000;
/// The shortest and the longest slice of time that is read at once.
const SLICE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(6 * 3_600));
/// The first slice.
const SLICE_FIRST: Duration = Duration::from_secs(10);

/// What is read next, by the process with the lease.
pub(super) struct Pace {
    slice: Duration,
    /// Which range was last brought from, if any since we have the lease.
    range: Option<Timestamp>,
    /// The last event that was brought, and its moment, where that moment may have more.
    after: Option<(Timestamp, Order)>,
    /// What was brought and is not settled.
    pub(super) waiting: Waiting,
    /// Ranges of which the store has nothing: when each was written down, and where its rest begins.
    lacking: Vec<(Timestamp, Timestamp)>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { slice: SLICE_FIRST, range: None, after: None, waiting: Waiting::default(), lacking: Vec::new() }
    }
}

impl Pace {
    /// Whether nothing of `range` was brought since we have the lease.
    pub(super) fn is_new(&self, range: &Range) -> bool {
        self.range != Some(range.made_at)
    }

    /// Begins to bring from `range`.
    pub(super) fn begin(&mut self, range: &Range) {
        (self.range, self.after) = (Some(range.made_at), None);
    }

    /// Passes over `range`, because the store has nothing of it.
    pub(super) fn pass_over(&mut self, range: &Range) {
        self.lacking.push((range.made_at, range.from));
    }

    /// Whether `range` is passed over.
    pub(super) fn passes_over(&self, range: &Range) -> bool {
        self.lacking.contains(&(range.made_at, range.from))
    }

    /// The end of the next slice of `range`, at most `bound`.
    pub(super) fn until(&self, range: &Range, bound: Timestamp) -> Timestamp {
        range.from.plus(self.slice).min(bound)
    }

    /// What was brought of the moment with which the rest of `range` begins.
    pub(super) fn after(&self, range: &Range) -> Option<&Order> {
        self.after.as_ref().filter(|(moment, _)| *moment == range.from).map(|(_, order)| order)
    }

    /// Notes that `brought` was brought, and that the slice has more. Returns how far that is.
    pub(super) fn stop_at(&mut self, range: &Range, brought: &[Row]) -> Timestamp {
        let Some(last) = brought.last() else { return range.from };
        self.after = Some((last.at, last.order.clone()));
        last.at
    }

    /// Chooses the next slice so that it fills about half a page.
    pub(super) fn adapt(&mut self, count: usize, is_cut: bool) {
        let (min, max) = SLICE;
        if is_cut {
            self.slice = (self.slice / 2).max(min);
        } else if count < PAGE_EVENTS / 4 {
            self.slice = (self.slice * 2).min(max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aside::record::Cause;

    #[test]
    fn slices_follow_how_many_events_there_are() {
        let mut pace = Pace::default();
        pace.adapt(3, false);
        assert_eq!(pace.slice, SLICE_FIRST * 2);
        pace.adapt(PAGE_EVENTS / 2, false);
        assert_eq!(pace.slice, SLICE_FIRST * 2);
        pace.adapt(PAGE_EVENTS, true);
        assert_eq!(pace.slice, SLICE_FIRST);
        (0..64).for_each(|_| pace.adapt(0, false));
        assert_eq!(pace.slice, SLICE.1);
        (0..64).for_each(|_| pace.adapt(PAGE_EVENTS, true));
        assert_eq!(pace.slice, SLICE.0);
    }

    #[test]
    fn a_moment_goes_on_where_it_was_left() {
        let at = Timestamp::from_seconds;
        let range = |from| Range {
            since: at(1),
            until: at(9),
            from: at(from),
            sequences: None,
            made_at: at(10),
            cause: Cause::Rewound,
        };
        let order = |id: &str| Order { tenant: "acme".to_owned(), id: id.to_owned(), event_time: at(0) };
        let row = |second, id| Row { at: at(second), order: order(id), event: Err(anyhow::anyhow!("none")) };
        let mut pace = Pace::default();
        assert!(pace.is_new(&range(1)));
        pace.begin(&range(1));
        assert!(!pace.is_new(&range(1)));
        assert_eq!((pace.stop_at(&range(1), &[]), pace.after(&range(1))), (at(1), None));
        assert_eq!(pace.stop_at(&range(1), &[row(2, "a"), row(3, "b")]), at(3));
        assert_eq!(pace.after(&range(3)), Some(&order("b")));
        // Nothing more had room: it stays there.
        assert_eq!((pace.stop_at(&range(3), &[]), pace.after(&range(3))), (at(3), Some(&order("b"))));
        assert_eq!(pace.after(&range(2)), None, "somebody asked for what lies before");
    }
}
