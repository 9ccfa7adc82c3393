//! Decides which deliveries are of an earlier time. The product looks such a delivery up before it inserts it.
//!
//! An event of a wanted age comes from the first source that has one: this run, if it was sent in it, else an id of that
//! time that nobody has seen. A further source, such as rows that were there before, belongs into [`Repetitions::find`].

use std::collections::VecDeque;

use crate::cli::Ages;
use crate::vary::Random;

/// How many sent deliveries to remember. Of more, the oldest are forgotten.
const REMEMBERED_MAX: usize = 4_000_000;
/// What an id counts in, per second.
const TICKS: u64 = 10_000_000;

/// Which deliveries are of an earlier time, and of which.
pub(crate) struct Repetitions {
    share: f64,
    ages: Ages,
    seed: u64,
    /// The deliveries that were accepted in this run, about in the order of their times.
    sent: VecDeque<Presented>,
}

/// What one delivery brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Presented {
    /// The number that decides the body, and is in the id.
    pub(super) index: u64,
    /// The time in the id, in 100 ns since the Unix epoch.
    pub(super) ticks: u64,
    pub(super) origin: Origin,
}

/// Where the event of a delivery comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// It happens now.
    New,
    /// It was sent in this run.
    Repeated,
    /// It is of an earlier time, and was never sent.
    NeverSeen,
}

impl Presented {
    pub(super) const fn new(index: u64, ticks: u64) -> Self {
        Self { index, ticks, origin: Origin::New }
    }
}

impl Repetitions {
    /// `share` of the deliveries are as old as `ages` says. `None` if that is none of them.
    pub(crate) fn new(share: f64, ages: Ages, seed: u64) -> Option<Self> {
        (share > 0.0).then(|| Self { share, ages, seed, sent: VecDeque::new() })
    }

    /// What delivery number `index` brings at `now`.
    pub(super) fn present(&self, index: u64, now: u64) -> Presented {
        // Other numbers than those that make the bodies.
        let mut random = Random::of(!self.seed, index);
        if random.fraction() >= self.share {
            return Presented::new(index, now);
        }
        let Ages { from, to } = self.ages;
        let age = from as f64 * (to as f64 / from as f64).powf(random.fraction());
        self.find(index, now.saturating_sub((age * TICKS as f64) as u64))
    }

    /// Notes that a new delivery was accepted.
    pub(super) fn sent(&mut self, presented: Presented) {
        if self.sent.len() == REMEMBERED_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back(presented);
    }

    /// An event of the time `ticks`.
    fn find(&self, index: u64, ticks: u64) -> Presented {
        let of_this_run = || {
            let next = self.sent.partition_point(|sent| sent.ticks < ticks);
            // Before the first one, nothing was sent.
            let sent = self.sent.get(next).filter(|_| next > 0)?;
            Some(Presented { origin: Origin::Repeated, ..*sent })
        };
        let never_seen = || Presented { index, ticks, origin: Origin::NeverSeen };
        of_this_run().unwrap_or_else(never_seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000 * TICKS;

    fn all(repetitions: &Repetitions) -> Vec<Presented> {
        (0..10_000).map(|index| repetitions.present(index, NOW)).collect()
    }

    #[test]
    fn a_share_of_the_deliveries_is_as_old_as_asked_for() {
        let ages = Ages { from: 60, to: 604_800 };
        let repetitions = Repetitions::new(0.05, ages, 1).unwrap();
        let presented = all(&repetitions);
        let (old, new): (Vec<&Presented>, Vec<&Presented>) =
            presented.iter().partition(|it| it.origin == Origin::NeverSeen);
        assert!((400..600).contains(&old.len()), "{}", old.len());
        assert!(new.iter().all(|it| it.ticks == NOW && it.origin == Origin::New));
        let mut ages: Vec<u64> = old.iter().map(|it| (NOW - it.ticks) / TICKS).collect();
        ages.sort_unstable();
        assert!(ages[0] >= 60 && ages[ages.len() - 1] <= 604_800, "{ages:?}");
        // Half of them below the geometric mean of both ends.
        let median = ages[ages.len() / 2];
        assert!((4_000..9_000).contains(&median), "{median}");
        assert_eq!(presented, all(&repetitions));
        assert!(Repetitions::new(0.0, Ages { from: 1, to: 2 }, 1).is_none());
    }

    #[test]
    fn what_was_sent_in_this_run_is_repeated() {
        let mut repetitions = Repetitions::new(1.0, Ages { from: 10, to: 1_000 }, 1).unwrap();
        let sent: Vec<_> = (0..100).map(|it| Presented::new(it, NOW - (100 - it) * TICKS)).collect();
        sent.iter().for_each(|it| repetitions.sent(*it));
        let presented = all(&repetitions);
        let (repeated, others): (Vec<&Presented>, Vec<&Presented>) =
            presented.iter().partition(|it| it.origin == Origin::Repeated);
        assert!(!repeated.is_empty() && !others.is_empty());
        for it in repeated {
            assert!(sent.contains(&Presented::new(it.index, it.ticks)), "{it:?}");
            assert!((9..100).contains(&((NOW - it.ticks) / TICKS)), "{it:?}");
        }
        assert!(others.iter().all(|it| it.origin == Origin::NeverSeen && it.ticks < NOW - 99 * TICKS));
    }
}
