//! How often a message failed here.
//!
//! The broker counts deliveries, and many are no failures: a look-up that would prove nothing yet, an expiry, a
//! process that was stopped. Only failures may exhaust a message, so they are counted where they are seen.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::retry::Attempt;

/// The most messages that are remembered, some megabytes. More than a consumer has unsettled by far.
const MESSAGES_MAX: usize = 100_000;

/// The failures of one component's messages in this process, by sequence. Another process, and the next, begin
/// anew: a message is tried too often rather than given up too early.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failures(Arc<Mutex<HashMap<u64, u32>>>);

impl Failures {
    /// Counts one more; which it is.
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
