//! When calls to a receiver may be made: its rate limit, its own wish, and a circuit breaker that is open while it is away.
//!
//! All workers of a component share one [`Limiter`]. It never looks at an event, and decides nothing about one: it only
//! lets calls wait. The loop in [`crate::consume::sink`] keeps the messages ours meanwhile.

mod breaker;
mod rate;

use std::sync::Arc;
use std::time::Duration;

use headrace_schemas::time::Timestamp;
use metrics::{Gauge, Histogram, gauge, histogram};
use tokio::time::Instant;

use self::breaker::Breaker;
use self::rate::Pacer;
use crate::observe::metrics::{BREAKER_OPEN, CALL_WAIT_SECONDS, seconds};

/// How calls to a receiver are limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// How many.
    pub rate: Rate,
    /// When none is made because they fail.
    pub breaker: BreakerPolicy,
}

/// How many calls and events a receiver gets, from one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How far apart calls are in the long run. Zero is no limit.
    pub per_call: Duration,
    /// How far apart events are in the long run. Zero is no limit.
    pub per_event: Duration,
    /// How much of it may be used up at once after a time without calls.
    pub burst: Duration,
}

impl Default for Rate {
    fn default() -> Self {
        Self { per_call: Duration::ZERO, per_event: Duration::ZERO, burst: Duration::from_secs(1) }
    }
}

/// When calls to a receiver stop because they fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// After so many calls in a row that failed as a whole.
    pub failures_max: u32,
    /// How long no call is made. Then one is.
    pub open: Duration,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self { failures_max: 5, open: Duration::from_secs(60) }
    }
}

/// What a call told of its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// It answered as one that is in order does, also when it refused.
    pub(crate) works: bool,
    /// How long it wishes to be left alone.
    pub(crate) wish: Duration,
}

impl Answer {
    /// It works.
    pub(crate) const WORKS: Self = Self { works: true, wish: Duration::ZERO };
}

/// Lets calls to one receiver wait. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Limiter {
    pacer: Arc<Pacer>,
    breaker: Arc<Breaker>,
    signals: Arc<Signals>,
}

struct Signals {
    open: Gauge,
    waits: Histogram,
}

impl Limiter {
    /// A limiter for the component called `component`.
    #[must_use]
    pub fn new(component: &str, limits: &Limits) -> Self {
        let label = || component.to_owned();
        let signals = Signals {
            open: gauge!(BREAKER_OPEN, "component" => label()),
            waits: histogram!(CALL_WAIT_SECONDS, "component" => label()),
        };
        signals.open.set(0.0);
        Self {
            pacer: Arc::new(Pacer::new(limits.rate)),
            breaker: Arc::new(Breaker::new(limits.breaker)),
            signals: Arc::new(signals),
        }
    }

    /// Waits until a call with `events` events may be made. It counts as made against the rate.
    pub(crate) async fn admit(&self, events: usize) -> Pass {
        let began = Instant::now();
        // First, because time in which no call is made is worth a burst at most.
        self.breaker.ready().await;
        self.pacer.admit(events).await;
        let is_trial = self.breaker.admit().await;
        self.signals.waits.record(seconds(began.elapsed()));
        Pass { limiter: self.clone(), is_trial, is_answered: false }
    }

    /// Waits until messages may be taken: not while the breaker is open, nor while the receiver wishes to be left alone.
    pub(crate) async fn ready(&self) {
        self.breaker.ready().await;
    }

    /// Until when no call is made, if the breaker is open, and after how many failures.
    pub(crate) fn open_until(&self) -> Option<(Timestamp, u32)> {
        self.breaker.open_until()
    }

    fn show(&self) {
        self.signals.open.set(if self.breaker.is_closed() { 0.0 } else { 1.0 });
    }
}

/// Leave to make one call. Whoever drops it without an answer has made none, or got none that tells anything.
#[must_use]
pub(crate) struct Pass {
    limiter: Limiter,
    is_trial: bool,
    is_answered: bool,
}

impl Pass {
    /// Notes what the call told.
    pub(crate) fn answered(mut self, answer: Answer) {
        self.is_answered = true;
        self.limiter.breaker.answered(self.is_trial, answer);
        self.limiter.show();
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if !self.is_answered && self.is_trial {
            self.limiter.breaker.given_up();
        }
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_open_breaker_is_shown() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let limits =
            Limits { breaker: BreakerPolicy { failures_max: 1, ..BreakerPolicy::default() }, ..Limits::default() };
        let limiter = metrics::with_local_recorder(&recorder, || Limiter::new("splunk", &limits));
        let shown =
            |value: u8| recorder.handle().render().contains(&format!("{BREAKER_OPEN}{{component=\"splunk\"}} {value}"));
        assert!(shown(0));
        limiter.admit(1).await.answered(Answer { works: false, wish: Duration::ZERO });
        assert!(shown(1) && limiter.open_until().is_some());
        limiter.admit(1).await.answered(Answer::WORKS);
        assert!(shown(0) && limiter.open_until().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_for_its_rate_and_for_its_receiver() {
        let rate = Rate { per_call: Duration::from_secs(3), burst: Duration::ZERO, ..Rate::default() };
        let limiter = Limiter::new("splunk", &Limits { rate, ..Limits::default() });
        let wish = Answer { works: true, wish: Duration::from_secs(10) };
        limiter.admit(1).await.answered(wish);
        let began = Instant::now();
        assert!(timeout(Duration::from_secs(9), limiter.ready()).await.is_err());
        limiter.admit(1).await.answered(Answer::WORKS);
        assert_eq!(began.elapsed().as_secs(), 10);
        limiter.admit(1).await.answered(Answer::WORKS);
        assert_eq!(began.elapsed().as_secs(), 13, "a rest is worth no more than a burst");
    }
}
