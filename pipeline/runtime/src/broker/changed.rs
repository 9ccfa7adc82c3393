//! Who changes a consumer back that somebody changed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A consumer is changed back at most once in this time, and a second change is left in place. Otherwise two processes
/// with different configurations would change it in turn for ever.
const CHANGED_BACK_EVERY: Duration = Duration::from_secs(600);
/// So long afterwards, other workers on the consumer may still see the change that the first of them saw.
const SEEN_WITHIN: Duration = Duration::from_secs(3);

/// When this process last changed consumers back. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changed(Arc<Mutex<HashMap<String, Instant>>>);

/// Who changes a consumer back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangedBack {
    /// The worker that asks.
    Now,
    /// Another worker of this process, at this moment.
    ByAnother,
    /// Nobody: it was changed back a while ago, and then changed again.
    No,
}

impl Changed {
    /// Who changes `consumer` back: the worker that asks first.
    pub(crate) fn back(&self, consumer: &str) -> ChangedBack {
        let mut changed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match changed.get(consumer).map(Instant::elapsed) {
            Some(ago) if ago < SEEN_WITHIN => ChangedBack::ByAnother,
            Some(ago) if ago < CHANGED_BACK_EVERY => ChangedBack::No,
            _ => {
                changed.insert(consumer.to_owned(), Instant::now());
                ChangedBack::Now
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_worker_changes_it_back_and_a_second_change_stays() {
        let changed = Changed::default();
        for (consumer, expected) in [("a", ChangedBack::Now), ("a", ChangedBack::ByAnother), ("b", ChangedBack::Now)] {
            assert_eq!(changed.back(consumer), expected, "{consumer}");
        }
        advance(SEEN_WITHIN).await;
        assert_eq!(changed.back("a"), ChangedBack::No);
        advance(CHANGED_BACK_EVERY).await;
        assert_eq!(changed.back("a"), ChangedBack::Now);
    }
}
