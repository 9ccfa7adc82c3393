//! The duplicate check: when a possible duplicate may be looked up.
//!
//! By then every earlier message of its identity ([`crate::message::payload::Identity`]) must be settled, or its effect
//! could come after the look-up. The broker tells only the oldest unsettled message. That is enough: within its
//! duplicate window the broker drops a second message with the same deduplication key, and the key is made of the
//! identity. So two messages of one identity are at least that window apart. A message redriven from DEAD has a key of
//! its own and may be nearer.

use std::time::Duration;

use headrace_schemas::time::Timestamp;

use crate::message::Delivered;

/// A message's position in its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) sequence: u64,
    pub(crate) stored_at: Timestamp,
    /// It was redriven from DEAD.
    pub(crate) redriven: bool,
}

impl Position {
    pub(crate) fn of(message: &Delivered) -> Self {
        Self { sequence: message.sequence, stored_at: message.stored_at, redriven: message.is_redriven() }
    }
}

/// What is known when some messages are to be looked up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DuplicateCheck {
    /// The oldest unsettled message, whoever holds it; `None` when all are settled.
    pub(crate) oldest: Option<Position>,
    /// The lowest sequence among our messages.
    pub(crate) first: u64,
    /// The lowest sequence among our redriven messages.
    pub(crate) first_redriven: Option<u64>,
    /// The shortest time between two messages of one identity; `None` when they may follow at once.
    pub(crate) apart: Option<Duration>,
    /// How much the clocks of the broker's servers may differ. Messages are dated by these clocks.
    pub(crate) clock_skew: Duration,
}

impl DuplicateCheck {
    /// The check for `positions`. The caller sets `oldest`.
    pub(crate) fn of(
        positions: impl Iterator<Item = Position> + Clone,
        apart: Option<Duration>,
        clock_skew: Duration,
    ) -> Self {
        let first = positions.clone().map(|position| position.sequence).min().unwrap_or_default();
        let first_redriven = positions.filter(|position| position.redriven).map(|position| position.sequence).min();
        Self { oldest: None, first, first_redriven, apart, clock_skew }
    }

    /// Whether no unsettled message precedes ours.
    pub(crate) fn are_first(&self) -> bool {
        self.oldest.is_none_or(|oldest| self.first <= oldest.sequence)
    }

    /// Whether the possible duplicate at `position`, one of ours, may be looked up.
    pub(crate) fn may_be_looked_up(&self, position: Position) -> bool {
        let Some(oldest) = self.oldest else { return true };
        if position.sequence <= oldest.sequence {
            return true;
        }
        if position.redriven {
            // A redriven message comes after every message that its dead letter was made from.
            return self.first_redriven.is_some_and(|first| first <= oldest.sequence);
        }
        match self.apart {
            // The redriven message may be of the same event, however near it is.
            Some(_) if oldest.redriven => false,
            Some(apart) => position.stored_at.since(oldest.stored_at) + self.clock_skew < apart,
            // Others may hold messages between ours. Their own check makes those wait for ours.
            None => self.are_first(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(120);
    const CLOCK_SKEW: Duration = Duration::from_secs(2);

    /// A message that was stored `sequence` seconds after the Unix epoch.
    fn position(sequence: u64) -> Position {
        let stored_at = Timestamp::from_micros(i64::try_from(sequence).unwrap() * 1_000_000);
        Position { sequence, stored_at, redriven: false }
    }

    fn redriven(sequence: u64) -> Position {
        Position { redriven: true, ..position(sequence) }
    }

    /// Which of `ours` may be looked up while `oldest` is not settled.
    fn allowed(oldest: Option<Position>, ours: &[Position], apart: Option<Duration>) -> Vec<u64> {
        let check = DuplicateCheck { oldest, ..DuplicateCheck::of(ours.iter().copied(), apart, CLOCK_SKEW) };
        ours.iter().filter(|position| check.may_be_looked_up(**position)).map(|position| position.sequence).collect()
    }

    #[test]
    fn a_duplicate_waits_for_what_is_further_from_it_than_the_window() {
        let ours = [position(10), position(100), position(1_000), position(1_117), position(1_118)];
        assert_eq!(allowed(None, &ours, Some(WINDOW)), [10, 100, 1_000, 1_117, 1_118]);
        assert_eq!(allowed(Some(position(1_000)), &ours, Some(WINDOW)), [10, 100, 1_000, 1_117]);
        // The later ones wait, although everything before our first is settled.
        assert_eq!(allowed(Some(position(10)), &ours, Some(WINDOW)), [10, 100]);
        assert_eq!(allowed(Some(position(5)), &ours, Some(WINDOW)), [10, 100]);
    }

    #[test]
    fn a_window_shorter_than_the_clocks_differ_stops_nothing_for_good() {
        assert_eq!(allowed(Some(position(10)), &[position(10), position(11)], Some(Duration::from_secs(1))), [10]);
    }

    #[test]
    fn redriven_messages_wait_for_all_before_them_and_go_together() {
        let ours = [redriven(10), redriven(11), redriven(12)];
        assert_eq!(allowed(Some(position(9)), &ours, Some(WINDOW)), [0; 0]);
        assert_eq!(allowed(Some(redriven(10)), &ours, Some(WINDOW)), [10, 11, 12]);
        // Our old message says nothing about the messages between it and the redriven one.
        assert_eq!(allowed(Some(position(1)), &[position(1), redriven(10)], Some(WINDOW)), [1]);
    }

    #[test]
    fn a_duplicate_waits_for_a_redriven_message_however_near() {
        assert_eq!(allowed(Some(redriven(10)), &[position(11)], Some(WINDOW)), [0; 0]);
    }

    #[test]
    fn where_messages_may_be_near_they_go_in_turn() {
        let ours = [position(10), position(12)];
        assert_eq!(allowed(Some(position(9)), &ours, None), [0; 0]);
        assert_eq!(allowed(Some(position(10)), &ours, None), [10, 12]);
    }
}
