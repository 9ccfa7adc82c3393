//! What became of messages in this process before: how often they failed, and which of their deliveries had an outcome.
//!
//! The broker counts deliveries, but many of them are no failures: the look-up would have proved nothing yet, the
//! message expired, or the process was stopped. Only failures may exhaust a message, so they are counted where they are
//! seen. And of a delivery whose outcome is known here it is certain that no process died on it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::retry::Attempt;

/// The most messages to remember. They take some megabytes, and a consumer has far fewer unsettled.
const MESSAGES_MAX: usize = 100_000;

/// What became of one component's messages in this process, by sequence. Another process, and the next start, begin
/// with nothing: it is better to try a message too often than to give it up too early.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failures(Arc<Mutex<HashMap<u64, Past>>>);

/// What became of one message.
#[derive(Clone, Copy, Debug, Default)]
struct Past {
    failures: u32,
    /// The last delivery that had an outcome; 0 when none had.
    answered: u32,
}

impl Failures {
    /// Counts one more failure, and returns how many there are.
    pub(crate) fn add(&self, sequence: u64) -> Attempt {
        let mut messages = self.messages();
        let past = remembered(&mut messages, sequence);
        past.failures = past.failures.saturating_add(1);
        Attempt(past.failures)
    }

    /// Notes that the delivery `attempt` of a message had an outcome and that the message comes again.
    pub(crate) fn answered(&self, sequence: u64, attempt: Attempt) {
        let mut messages = self.messages();
        let past = remembered(&mut messages, sequence);
        past.answered = past.answered.max(attempt.0);
    }

    /// How many deliveries lie between the last one whose outcome is known here and the present one, `attempt`.
    pub(crate) fn unanswered(&self, sequence: u64, attempt: Attempt) -> u32 {
        let answered = self.messages().get(&sequence).map_or(0, |past| past.answered);
        attempt.0.saturating_sub(answered).saturating_sub(1)
    }

    /// Forgets a message that is settled.
    pub(crate) fn forget(&self, sequence: u64) {
        self.messages().remove(&sequence);
    }

    fn messages(&self) -> MutexGuard<'_, HashMap<u64, Past>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn remembered(messages: &mut HashMap<u64, Past>, sequence: u64) -> &mut Past {
    if messages.len() >= MESSAGES_MAX && !messages.contains_key(&sequence) {
        messages.clear();
    }
    messages.entry(sequence).or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_until_the_message_is_settled() {
        let failures = Failures::default();
        assert_eq!([failures.add(7), failures.add(8), failures.add(7)], [1, 1, 2].map(Attempt));
        failures.forget(7);
        assert_eq!([failures.add(7), failures.add(8)], [1, 2].map(Attempt));
    }

    #[test]
    fn deliveries_without_an_outcome_count_from_the_last_one_that_had_one() {
        let failures = Failures::default();
        let unanswered = |attempt| failures.unanswered(7, Attempt(attempt));
        assert_eq!([1, 2, 4].map(unanswered), [0, 1, 3], "nothing is known");
        failures.answered(7, Attempt(1_000));
        assert_eq!([1_001, 1_004].map(unanswered), [0, 3]);
        // A broker that lost messages gives their sequences to others.
        assert_eq!(unanswered(1), 0);
        failures.forget(7);
        assert_eq!(unanswered(4), 3);
    }

    #[test]
    fn memory_is_bounded() {
        let failures = Failures::default();
        for sequence in 0..=MESSAGES_MAX as u64 {
            failures.add(sequence);
        }
        assert_eq!(failures.messages().len(), 1);
    }
}
