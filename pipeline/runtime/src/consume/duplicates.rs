//! When a message may be looked up that can be the copy of an earlier one in its stream.
//!
//! The earlier messages of its identity ([`crate::message::payload::Identity`]) must be settled by then, or their effect could
//! come after the look-up. The broker tells only the oldest message that is not. That is enough, because it drops a
//! message whose deduplication key it has had within its duplicate window, and that key is made of the identity: two
//! messages of one are no nearer to each other than that. A letter that was sent from DEAD again has a key of its own,
//! and may be near.

use std::time::Duration;

use headrace_schemas::time::Timestamp;

use crate::message::Delivered;
use crate::message::epoch::BROKER_CLOCK_SKEW;

/// A message's place in its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) sequence: u64,
    pub(crate) stored_at: Timestamp,
    /// It was sent from DEAD again.
    pub(crate) redriven: bool,
}

impl Place {
    pub(crate) fn of(message: &Delivered) -> Self {
        Self { sequence: message.sequence, stored_at: message.stored_at, redriven: message.is_redriven() }
    }
}

/// What is known when some messages are to be looked up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copies {
    /// The oldest message that is not settled, by us or others; `None` when all are.
    pub(crate) oldest: Option<Place>,
    /// The first of our messages.
    pub(crate) first: u64,
    /// The first of our messages that was sent from DEAD again.
    pub(crate) first_redriven: Option<u64>,
    /// How near to each other two messages of an identity may be; `None` when they may be as near as can be.
    pub(crate) apart: Option<Duration>,
}

impl Copies {
    /// What is known of `places`, before `oldest` is.
    pub(crate) fn of(places: impl Iterator<Item = Place> + Clone, apart: Option<Duration>) -> Self {
        let first = places.clone().map(|place| place.sequence).min().unwrap_or_default();
        let first_redriven = places.filter(|place| place.redriven).map(|place| place.sequence).min();
        Self { oldest: None, first, first_redriven, apart }
    }

    /// Whether nobody else has a message before all of ours.
    pub(crate) fn are_first(&self) -> bool {
        self.oldest.is_none_or(|oldest| self.first <= oldest.sequence)
    }

    /// Whether one of our messages may be looked up, which can be a copy.
    pub(crate) fn may_be_looked_up(&self, copy: Place) -> bool {
        let Some(oldest) = self.oldest else { return true };
        if copy.sequence <= oldest.sequence {
            return true;
        }
        if copy.redriven {
            // All that letters are made of lies before the first of those that were sent again with them.
            return self.first_redriven.is_some_and(|first| first <= oldest.sequence);
        }
        match self.apart {
            // The oldest may be of this very event.
            Some(_) if oldest.redriven => false,
            Some(apart) => copy.stored_at.since(oldest.stored_at) + BROKER_CLOCK_SKEW < apart,
            // What lies between ours others may have: they must keep their order elsewhere.
            None => self.are_first(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(120);

    /// A message stored in the second of its sequence.
    fn place(sequence: u64) -> Place {
        let stored_at = Timestamp::from_micros(i64::try_from(sequence).unwrap() * 1_000_000);
        Place { sequence, stored_at, redriven: false }
    }

    fn redriven(sequence: u64) -> Place {
        Place { redriven: true, ..place(sequence) }
    }

    /// Which of `ours` may be looked up while `oldest` is not settled.
    fn allowed(oldest: Option<Place>, ours: &[Place], apart: Option<Duration>) -> Vec<u64> {
        let copies = Copies { oldest, ..Copies::of(ours.iter().copied(), apart) };
        ours.iter().filter(|place| copies.may_be_looked_up(**place)).map(|place| place.sequence).collect()
    }

    #[test]
    fn a_copy_waits_for_what_is_further_from_it_than_the_window() {
        let ours = [place(10), place(100), place(1_000), place(1_117), place(1_118)];
        assert_eq!(allowed(None, &ours, Some(WINDOW)), [10, 100, 1_000, 1_117, 1_118]);
        assert_eq!(allowed(Some(place(1_000)), &ours, Some(WINDOW)), [10, 100, 1_000, 1_117]);
        // Though everything before the first of them is settled.
        assert_eq!(allowed(Some(place(10)), &ours, Some(WINDOW)), [10, 100]);
        assert_eq!(allowed(Some(place(5)), &ours, Some(WINDOW)), [10, 100]);
    }

    #[test]
    fn a_window_shorter_than_the_clocks_differ_stops_nothing_for_good() {
        assert_eq!(allowed(Some(place(10)), &[place(10), place(11)], Some(Duration::from_secs(1))), [10]);
    }

    #[test]
    fn letters_sent_again_wait_for_all_before_them_and_go_together() {
        let ours = [redriven(10), redriven(11), redriven(12)];
        assert_eq!(allowed(Some(place(9)), &ours, Some(WINDOW)), [0; 0]);
        assert_eq!(allowed(Some(redriven(10)), &ours, Some(WINDOW)), [10, 11, 12]);
        // An old message of ours says nothing of those between it and them.
        assert_eq!(allowed(Some(place(1)), &[place(1), redriven(10)], Some(WINDOW)), [1]);
    }

    #[test]
    fn a_copy_waits_for_a_letter_sent_again_however_near() {
        assert_eq!(allowed(Some(redriven(10)), &[place(11)], Some(WINDOW)), [0; 0]);
    }

    #[test]
    fn where_messages_may_be_near_they_go_in_turn() {
        let ours = [place(10), place(12)];
        assert_eq!(allowed(Some(place(9)), &ours, None), [0; 0]);
        assert_eq!(allowed(Some(place(10)), &ours, None), [10, 12]);
    }
}
