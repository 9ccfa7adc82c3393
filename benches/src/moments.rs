//! The times of each delivery's steps, by the delivery's number.
//!
//! There is one array for each kind of moment. The code that sees a moment writes it, without locks. Times are
//! nanoseconds since the start of the case. 0 means that the moment has not come.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

/// The moments of all deliveries of a case.
pub(crate) struct Moments {
    base: Instant,
    /// The load was about to write the request.
    pub(crate) sent: Track,
    /// The load had read its 2xx answer.
    pub(crate) accepted: Track,
    /// The scored event reached the subscriber.
    pub(crate) scored: Track,
    /// A query returned its row.
    pub(crate) queryable: Track,
}

/// One kind of moment.
pub(crate) struct Track(Box<[AtomicU64]>);

impl Moments {
    /// Room for `count` deliveries.
    pub(crate) fn new(count: usize) -> Self {
        let track = || Track((0..count).map(|_| AtomicU64::new(0)).collect());
        Self { base: Instant::now(), sent: track(), accepted: track(), scored: track(), queryable: track() }
    }

    /// `at` in the form in which it is stored.
    pub(crate) fn stamp(&self, at: Instant) -> u64 {
        u64::try_from(at.duration_since(self.base).as_nanos()).unwrap_or(u64::MAX).max(1)
    }
}

impl Track {
    /// Notes the moment of delivery `index`. Returns false if it was noted before, or if there is no such delivery.
    pub(crate) fn note(&self, index: u64, stamp: u64) -> bool {
        let place = usize::try_from(index).ok().and_then(|index| self.0.get(index));
        // Relaxed is enough: nobody reads the arrays before all threads have ended.
        place.is_some_and(|place| place.compare_exchange(0, stamp, Ordering::Relaxed, Ordering::Relaxed).is_ok())
    }

    /// The moment of delivery `index`, if it has come.
    pub(crate) fn at(&self, index: usize) -> Option<u64> {
        self.0.get(index).map(|stamp| stamp.load(Ordering::Relaxed)).filter(|&stamp| stamp != 0)
    }

    /// How many deliveries there is room for.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
