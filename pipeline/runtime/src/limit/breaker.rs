//! A circuit breaker. It is open after some failures in a row, then lets one call through, and closes when that succeeds.

use std::sync::{Mutex, MutexGuard, PoisonError};

use headrace_schemas::time::Timestamp;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::{Answer, BreakerPolicy};

pub(super) struct Breaker {
    policy: BreakerPolicy,
    state: Mutex<State>,
    /// The state allows more than before.
    changed: Notify,
}

struct State {
    /// Calls in a row that failed.
    failures: u32,
    phase: Phase,
    /// Until then the receiver wishes to be left alone.
    rest_until: Option<Instant>,
}

#[derive(Clone, Copy)]
enum Phase {
    /// Calls are made.
    Closed,
    /// None is made before `until`. `told` is the same time for a person.
    Open { until: Instant, told: Timestamp },
    /// One call is on its way, and it decides.
    Trying,
}

impl Breaker {
    pub(super) fn new(policy: BreakerPolicy) -> Self {
        let state = State { failures: 0, phase: Phase::Closed, rest_until: None };
        Self { policy, state: Mutex::new(state), changed: Notify::new() }
    }

    /// Waits until a call may be made. Returns whether it is the one that decides.
    pub(super) async fn admit(&self) -> bool {
        loop {
            let changed = self.changed.notified();
            match self.claim() {
                Ok(is_trial) => return is_trial,
                Err(until) => wait(until, changed).await,
            }
        }
    }

    /// Waits until a call might be made, and makes none.
    pub(super) async fn ready(&self) {
        loop {
            let changed = self.changed.notified();
            let until = match self.state().blocked() {
                Some(until) => until,
                None => return,
            };
            wait(until, changed).await;
        }
    }

    /// Leave to make a call now, or until when to wait. `None` waits for the call that decides.
    fn claim(&self) -> Result<bool, Option<Instant>> {
        let mut state = self.state();
        match (state.blocked(), state.phase) {
            (Some(until), _) => Err(until),
            (None, Phase::Closed) => Ok(false),
            (None, Phase::Open { .. } | Phase::Trying) => {
                state.phase = Phase::Trying;
                Ok(true)
            }
        }
    }

    /// Notes what a call told.
    pub(super) fn answered(&self, is_trial: bool, Answer { works, wish }: Answer) {
        let now = Instant::now();
        let mut state = self.state();
        if !wish.is_zero() {
            state.rest_until = state.rest_until.max(Some(now + wish));
        }
        match state.phase {
            // A call that began before the breaker opened tells as much as the one that decides.
            _ if works => (state.failures, state.phase) = (0, Phase::Closed),
            Phase::Closed => {
                state.failures = state.failures.saturating_add(1);
                if state.failures >= self.policy.failures_max {
                    state.phase = self.open();
                }
            }
            Phase::Trying if is_trial => {
                state.failures = state.failures.saturating_add(1);
                state.phase = self.open();
            }
            Phase::Open { .. } | Phase::Trying => {}
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// The call that should have decided was not made, so another may be.
    pub(super) fn given_up(&self) {
        let mut state = self.state();
        if matches!(state.phase, Phase::Trying) {
            state.phase = Phase::Open { until: Instant::now(), told: Timestamp::now() };
        }
        drop(state);
        self.changed.notify_waiters();
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state().phase, Phase::Closed)
    }

    pub(super) fn open_until(&self) -> Option<(Timestamp, u32)> {
        let state = self.state();
        match state.phase {
            Phase::Open { told, .. } => Some((told, state.failures)),
            Phase::Closed | Phase::Trying => None,
        }
    }

    fn open(&self) -> Phase {
        let open = self.policy.open;
        let micros = i64::try_from(open.as_micros()).unwrap_or(i64::MAX);
        let told = Timestamp::from_micros(Timestamp::now().as_micros().saturating_add(micros));
        Phase::Open { until: Instant::now() + open, told }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Until when no call may be made; the inner `None` until the call that decides is answered.
    fn blocked(&self) -> Option<Option<Instant>> {
        let now = Instant::now();
        let rest = self.rest_until.filter(|until| *until > now);
        match self.phase {
            Phase::Trying => Some(None),
            Phase::Open { until, .. } if until > now => Some(Some(rest.map_or(until, |rest| rest.max(until)))),
            Phase::Closed | Phase::Open { .. } => rest.map(Some),
        }
    }
}

async fn wait(until: Option<Instant>, changed: impl Future<Output = ()>) {
    tokio::select! {
        () = async { if let Some(until) = until { sleep_until(until).await } else { std::future::pending().await } } => {}
        () = changed => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::task::JoinSet;
    use tokio::time::{sleep, timeout};

    use super::*;

    const OPEN: Duration = Duration::from_secs(60);
    const SECOND: Duration = Duration::from_secs(1);
    const FAILS: Answer = Answer { works: false, wish: Duration::ZERO };

    fn breaker() -> Breaker {
        Breaker::new(BreakerPolicy { failures_max: 3, open: OPEN })
    }

    async fn call(breaker: &Breaker, answer: Answer) {
        let is_trial = breaker.admit().await;
        breaker.answered(is_trial, answer);
    }

    /// Whether no call is made within `time`.
    async fn is_quiet(breaker: &Breaker, time: Duration) -> bool {
        timeout(time, breaker.admit()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_open_it_and_one_call_decides() {
        let breaker = breaker();
        for answer in [FAILS, FAILS, Answer::WORKS, FAILS, FAILS] {
            call(&breaker, answer).await;
            assert!(breaker.is_closed());
        }
        call(&breaker, FAILS).await;
        assert_eq!(breaker.open_until().map(|(_, failures)| failures), Some(3));
        assert!(is_quiet(&breaker, OPEN - SECOND).await);
        let began = Instant::now();
        assert!(breaker.admit().await, "it decides");
        assert_eq!(began.elapsed(), SECOND);
        assert!(is_quiet(&breaker, OPEN * 10).await, "while that call is on its way");
        breaker.answered(true, FAILS);
        assert!(is_quiet(&breaker, OPEN - SECOND).await, "open again");
        call(&breaker, Answer::WORKS).await;
        assert!(breaker.is_closed() && !breaker.admit().await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_was_given_up_lets_another_decide() {
        let breaker = breaker();
        for _ in 0..3 {
            call(&breaker, FAILS).await;
        }
        assert!(breaker.admit().await);
        breaker.given_up();
        assert!(timeout(SECOND, breaker.admit()).await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn calls_from_before_it_opened_count_when_they_succeed() {
        let breaker = breaker();
        let early = breaker.admit().await;
        for _ in 0..3 {
            call(&breaker, FAILS).await;
        }
        breaker.answered(early, FAILS);
        assert_eq!(breaker.open_until().map(|(_, failures)| failures), Some(3), "no more than before");
        breaker.answered(early, Answer::WORKS);
        assert!(breaker.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wish_holds_all_calls_and_is_no_failure() {
        let breaker = breaker();
        for _ in 0..10 {
            let began = Instant::now();
            call(&breaker, Answer { works: true, wish: OPEN * 5 }).await;
            assert!(breaker.is_closed());
            assert!(timeout(OPEN, breaker.ready()).await.is_err() && is_quiet(&breaker, OPEN).await);
            breaker.ready().await;
            assert_eq!(began.elapsed(), OPEN * 5);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_workers_do_not_hammer_a_dead_receiver() {
        let (breaker, calls) = (Arc::new(breaker()), Arc::new(AtomicUsize::new(0)));
        let mut workers = JoinSet::new();
        for _ in 0..8 {
            let (breaker, calls) = (Arc::clone(&breaker), Arc::clone(&calls));
            workers.spawn(async move {
                loop {
                    let is_trial = breaker.admit().await;
                    calls.fetch_add(1, Ordering::SeqCst);
                    sleep(SECOND).await;
                    breaker.answered(is_trial, FAILS);
                }
            });
        }
        sleep(OPEN / 2).await;
        let first = calls.load(Ordering::SeqCst);
        assert!((8..=10).contains(&first), "{first}: one of each worker, and some before three had failed");
        sleep(OPEN * 10).await;
        let later = calls.load(Ordering::SeqCst) - first;
        assert!((9..=10).contains(&later), "{later}: one in 61 s");
        breaker.answered(false, Answer::WORKS);
        timeout(SECOND, breaker.ready()).await.unwrap();
    }
}
