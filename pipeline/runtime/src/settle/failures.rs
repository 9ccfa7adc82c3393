//! How often a message failed in this process.
//!
//! The broker counts deliveries, but many of them are no failures: the look-up would have proved nothing yet, the
//! message expired, or the process was stopped. Only failures may exhaust a message, so they are counted where they are
//! seen.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::retry::Attempt;

/// The most messages to remember. They take some megabytes, and a consumer has far fewer unsettled.
const MESSAGES_MAX: usize = 100_000;

/// The failures of one component's messages in this process, by sequence. Another process, and the next start, count
/// from zero: it is better to try a message too often than to give it up too early.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failures(Arc<Mutex<HashMap<u64, u32>>>);

impl Failures {
    /// Counts one more failure, and returns how many there are.
    pub(crate) fn add(&self, sequence: u64) -> Attempt {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= MESSAGES_MAX && !counts.contains_key(&sequence) {
            counts.clear();
        }
        let count = counts.entry(sequence).or_default();
        *count = count.saturating_add(1);
        Attempt(*count)
    }

    /// Forgets a message that is settled.
    pub(crate) fn forget(&self, sequence: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&sequence);
    }
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
    fn memory_is_bounded() {
        let failures = Failures::default();
        for sequence in 0..=MESSAGES_MAX as u64 {
            failures.add(sequence);
        }
        assert_eq!(failures.0.lock().unwrap().len(), 1);
    }
}
