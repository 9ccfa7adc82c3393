//! What befalls thousands of messages at once, told in a few lines of the log.
//!
//! The first of a kind is told at once. What follows of its kind within a window is told together in one line at the
//! window's end, also when nothing more comes. This bounds the log, never a metric.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// A line of the log: of one occurrence, or of several of a kind.
pub trait Line: Send {
    /// Adds a later occurrence of the same kind.
    fn add(&mut self, later: Self);

    /// Writes it to the log.
    fn tell(self);
}

/// The lines of the kinds `K`, of which there must be few: each takes the room of a line.
pub struct Recurring<K, L> {
    window: Duration,
    kinds: Mutex<BTreeMap<K, Window<L>>>,
    /// Wakes who waits for something to tell.
    grew: Notify,
}

/// The time after a line of a kind.
struct Window<L> {
    ends: Instant,
    /// What came in it.
    untold: Option<L>,
}

impl<K: Ord, L: Line> Recurring<K, L> {
    /// Lines of which each kind has at most one in the time `window`.
    #[must_use]
    pub const fn new(window: Duration) -> Self {
        Self { window, kinds: Mutex::new(BTreeMap::new()), grew: Notify::const_new() }
    }

    /// Takes note of an occurrence, and tells it when no line of its kind was told within the window.
    pub fn note(&self, kind: K, line: L) {
        if let Some(line) = self.take_in(kind, line) {
            line.tell();
        }
    }

    /// Runs `work` to its end. Meanwhile what is untold is told at the end of its window, or when `work` ends or is
    /// dropped. Several may run this at once.
    pub async fn beside<T>(&self, work: impl Future<Output = T>) -> T {
        let _rest = Rest(self);
        tokio::select! {
            done = work => done,
            never = self.tell_in_time() => never,
        }
    }

    async fn tell_in_time<T>(&self) -> T {
        loop {
            self.next().await.into_iter().for_each(Line::tell);
        }
    }

    /// Waits for the end of a window in which something came.
    async fn next(&self) -> Vec<L> {
        loop {
            let due = self.kinds().values().filter(|window| window.untold.is_some()).map(|window| window.ends).min();
            tokio::select! {
                // Another kind's window may end earlier.
                () = self.grew.notified() => {}
                () = async { if let Some(due) = due { sleep_until(due).await } else { std::future::pending().await } } => {}
            }
            let lines = self.take(|window| window.ends <= Instant::now());
            if !lines.is_empty() {
                return lines;
            }
        }
    }

    fn take_in(&self, kind: K, line: L) -> Option<L> {
        let now = Instant::now();
        let mut kinds = self.kinds();
        let window = match kinds.entry(kind) {
            Entry::Vacant(vacant) => {
                vacant.insert(Window { ends: now + self.window, untold: None });
                return Some(line);
            }
            Entry::Occupied(window) => window.into_mut(),
        };
        match &mut window.untold {
            Some(untold) => untold.add(line),
            untold => {
                *untold = Some(line);
                self.grew.notify_one();
            }
        }
        (window.ends <= now).then(|| window.take(self.window)).flatten()
    }

    /// What is untold of the windows for which `is_due` holds.
    fn take(&self, is_due: impl Fn(&Window<L>) -> bool) -> Vec<L> {
        let mut kinds = self.kinds();
        let due = kinds.values_mut().filter(|window| window.untold.is_some() && is_due(window));
        due.filter_map(|window| window.take(self.window)).collect()
    }

    fn kinds(&self) -> MutexGuard<'_, BTreeMap<K, Window<L>>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<L> Window<L> {
    /// What is to be told now. With it the next window begins.
    fn take(&mut self, next: Duration) -> Option<L> {
        self.ends = Instant::now() + next;
        self.untold.take()
    }
}

/// Tells the rest when it is dropped: also when the work is cut off.
struct Rest<'a, K: Ord, L: Line>(&'a Recurring<K, L>);

impl<K: Ord, L: Line> Drop for Rest<'_, K, L> {
    fn drop(&mut self) {
        self.0.take(|_| true).into_iter().for_each(Line::tell);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::{advance, sleep, timeout};

    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    /// Occurrences of a kind: how many, and the last.
    struct Occurred {
        kind: &'static str,
        count: usize,
        last: usize,
        told: Arc<Mutex<Vec<String>>>,
    }

    impl Line for Occurred {
        fn add(&mut self, later: Self) {
            (self.count, self.last) = (self.count + later.count, later.last);
        }

        fn tell(self) {
            self.told.lock().unwrap().push(format!("{} {} to {}", self.kind, self.count, self.last));
        }
    }

    struct Log {
        recurring: Recurring<&'static str, Occurred>,
        told: Arc<Mutex<Vec<String>>>,
    }

    impl Log {
        fn new() -> Self {
            Self { recurring: Recurring::new(WINDOW), told: Arc::default() }
        }

        fn note(&self, kind: &'static str, number: usize) {
            self.recurring.note(kind, Occurred { kind, count: 1, last: number, told: Arc::clone(&self.told) });
        }

        /// The lines since the last call.
        fn told(&self) -> Vec<String> {
            std::mem::take(&mut *self.told.lock().unwrap())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_is_told_at_once_and_the_others_together() {
        let log = Log::new();
        let storm = async {
            for number in 0..25_000 {
                log.note("retried", number);
            }
            assert_eq!(log.told(), ["retried 1 to 0"]);
            sleep(WINDOW - Duration::from_millis(1)).await;
            assert_eq!(log.told(), [""; 0]);
            sleep(Duration::from_millis(2)).await;
            assert_eq!(log.told(), ["retried 24999 to 24999"], "though nothing more came");
            log.note("retried", 25_000);
            assert_eq!(log.told(), [""; 0], "the next window has begun");
            sleep(WINDOW).await;
            assert_eq!(log.told(), ["retried 1 to 25000"]);
            sleep(WINDOW * 2).await;
            log.note("retried", 25_001);
            assert_eq!(log.told(), ["retried 1 to 25001"], "nothing was told for a window");
        };
        log.recurring.beside(storm).await;
    }

    #[tokio::test(start_paused = true)]
    async fn each_kind_has_windows_of_its_own() {
        let log = Log::new();
        let work = async {
            log.note("retried", 1);
            sleep(WINDOW / 2).await;
            ["expired", "expired"].into_iter().zip(2..).for_each(|(kind, number)| log.note(kind, number));
            assert_eq!(log.told(), ["retried 1 to 1", "expired 1 to 2"]);
            log.note("retried", 4);
            sleep(WINDOW / 2 + Duration::from_millis(1)).await;
            assert_eq!(log.told(), ["retried 1 to 4"], "its window ends first, though it came last");
            sleep(WINDOW / 2).await;
            assert_eq!(log.told(), ["expired 1 to 3"]);
        };
        log.recurring.beside(work).await;
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_stays_untold_when_the_work_ends_or_is_cut_off() {
        let log = Log::new();
        let work = async { (1..=3).for_each(|number| log.note("retried", number)) };
        log.recurring.beside(work).await;
        assert_eq!(log.told(), ["retried 1 to 1", "retried 2 to 3"]);
        let endless = async {
            log.note("retried", 4);
            std::future::pending::<()>().await;
        };
        assert!(timeout(WINDOW / 2, log.recurring.beside(endless)).await.is_err());
        assert_eq!(log.told(), ["retried 1 to 4"]);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_timer_the_next_occurrence_tells() {
        let log = Log::new();
        (1..=3).for_each(|number| log.note("retried", number));
        advance(WINDOW).await;
        log.note("retried", 4);
        assert_eq!(log.told(), ["retried 1 to 1", "retried 3 to 4"]);
    }
}
