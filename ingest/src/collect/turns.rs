//! What follows from how asking for a page ended: the pause before the next one, and what is told. Pure, but for telling.

use std::time::Duration;

use headrace_runtime::fault::{Fault, FaultClass};
use headrace_runtime::observe::health::ComponentHealth;
use headrace_runtime::retry::{Attempt, RetryPolicy};
use headrace_schemas::time::Timestamp;
use tokio::time::Instant;

use super::kept::{Kept, Standing, Teller};
use super::{Asked, BUDGET_PAUSE};

/// The longest that a source may make us wait.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);
/// A failure that goes on is told again this often, because its reason may have changed.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// The turns of one process at one source.
pub(super) struct Turns {
    policy: RetryPolicy,
    interval: Duration,
    failures: u32,
    read_at: Option<Timestamp>,
    told: Option<(Standing, Instant)>,
    teller: Teller,
}

/// What follows from a turn.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct After {
    pub(super) wait: Duration,
    pub(super) state: Standing,
    pub(super) why: Option<String>,
}

impl Turns {
    pub(super) fn new(policy: RetryPolicy, interval: Duration, read_at: Option<Timestamp>) -> Self {
        Self { policy, interval, failures: 0, read_at, told: None, teller: Teller::default() }
    }

    /// When the source had last been read completely.
    pub(super) const fn read_at(&self) -> Option<Timestamp> {
        self.read_at
    }

    /// Decides what follows.
    pub(super) fn after(&mut self, asked: &Asked, now: Timestamp) -> After {
        let healthy = |wait| After { wait, state: Standing::Healthy, why: None };
        match asked {
            Asked::Failed(fault) => {
                self.failures = self.failures.saturating_add(1);
                self.after_failure(fault)
            }
            Asked::More | Asked::Stopped => {
                self.failures = 0;
                healthy(Duration::ZERO)
            }
            Asked::All => {
                self.failures = 0;
                self.read_at = Some(now);
                healthy(self.interval)
            }
            // As configured, so nothing is wrong.
            Asked::OverBudget => healthy(BUDGET_PAUSE),
        }
    }

    fn after_failure(&self, fault: &Fault) -> After {
        let pause = self.policy.jittered(Attempt(self.failures));
        let why = Some(fault.to_string());
        match &fault.class {
            FaultClass::Transient { retry_after } => {
                let wait = retry_after.map_or(pause, |wish| wish.min(RETRY_AFTER_MAX).max(pause));
                After { wait, state: Standing::Degraded, why }
            }
            // Slowly from the first time on: only a person mends it. A source must never answer with poison.
            FaultClass::Broken | FaultClass::Poison(_) => {
                After { wait: self.policy.backoff_max.max(pause), state: Standing::Broken, why }
            }
        }
    }

    /// Reports to `health`. The same failure is not told at each try: its words may differ each time.
    pub(super) fn report(&mut self, health: &ComponentHealth, state: Standing, why: Option<String>) {
        if state != Standing::Healthy && self.told.is_some_and(|(told, at)| told == state && at.elapsed() < TOLD_EVERY)
        {
            return;
        }
        self.told = Some((state, Instant::now()));
        let why = why.unwrap_or_default();
        match state {
            Standing::Healthy => health.healthy(),
            Standing::Degraded => health.degraded(why),
            Standing::Broken => health.broken(why),
        }
    }

    /// Keeps the status, for the command line and for processes that stand by.
    pub(super) async fn tell(&mut self, kept: &Kept, state: Standing, why: Option<String>, wait: Duration) {
        self.teller.tell(kept, state, why, self.read_at, wait).await;
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;
    use headrace_runtime::fault::DeadReason;
    use headrace_runtime::observe::health::{Health, State};

    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        attempts_max: 5,
        backoff_min: Duration::from_secs(1),
        backoff_max: Duration::from_secs(60),
        retry_after_max: RetryPolicy::RETRY_AFTER_MAX,
    };
    const INTERVAL: Duration = Duration::from_secs(7);

    fn turns() -> Turns {
        Turns::new(POLICY, INTERVAL, None)
    }

    fn away() -> Asked {
        Asked::Failed(Fault::transient(anyhow!("away")))
    }

    #[test]
    fn a_source_is_asked_at_once_for_more_and_after_the_interval_for_what_is_new() {
        let (mut turns, now) = (turns(), Timestamp::from_seconds(1));
        let more = turns.after(&Asked::More, now);
        assert_eq!((more.wait, more.state, turns.read_at()), (Duration::ZERO, Standing::Healthy, None));
        let all = turns.after(&Asked::All, now);
        assert_eq!((all.wait, all.state, turns.read_at()), (INTERVAL, Standing::Healthy, Some(now)));
        let over = turns.after(&Asked::OverBudget, now);
        assert_eq!((over.wait, over.state), (BUDGET_PAUSE, Standing::Healthy));
    }

    #[test]
    fn pauses_grow_while_it_fails_and_begin_anew_afterwards() {
        let (mut turns, now) = (turns(), Timestamp::from_seconds(1));
        for longest in [1, 2, 4, 8, 16, 32, 60, 60] {
            let longest = Duration::from_secs(longest);
            let After { wait, state, .. } = turns.after(&away(), now);
            assert!(longest / 2 <= wait && wait <= longest && state == Standing::Degraded, "{wait:?} of {longest:?}");
        }
        turns.after(&Asked::More, now);
        assert!(turns.after(&away(), now).wait <= Duration::from_secs(1));
    }

    #[test]
    fn a_wish_to_wait_is_honoured_within_bounds() {
        let (mut turns, now) = (turns(), Timestamp::from_seconds(1));
        let mut waits = |wish| {
            let fault = Fault::transient_after(Some(Duration::from_secs(wish)), anyhow!("busy"));
            turns.after(&Asked::Failed(fault), now).wait
        };
        assert_eq!(waits(30), Duration::from_secs(30));
        assert!(waits(0) >= Duration::from_secs(1), "it does not shorten a pause");
        assert_eq!(waits(86_400), RETRY_AFTER_MAX);
    }

    #[test]
    fn what_only_a_person_can_mend_is_tried_slowly() {
        for fault in [Fault::broken(anyhow!("401")), Fault::poison(DeadReason::Malformed, anyhow!("no JSON"))] {
            let After { wait, state, .. } = turns().after(&Asked::Failed(fault), Timestamp::from_seconds(1));
            assert_eq!((wait, state), (POLICY.backoff_max, Standing::Broken));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_not_told_at_each_try() {
        let (health, mut turns) = (Health::new(), turns());
        let own = health.register("collect:test.one");
        let told = || health.snapshot()["collect:test.one"].clone();
        turns.report(&own, Standing::Degraded, Some("port 1".to_owned()));
        turns.report(&own, Standing::Degraded, Some("port 2".to_owned()));
        assert_eq!(told(), State::Degraded("port 1".to_owned()));
        tokio::time::advance(TOLD_EVERY).await;
        turns.report(&own, Standing::Degraded, Some("port 3".to_owned()));
        assert_eq!(told(), State::Degraded("port 3".to_owned()));
        turns.report(&own, Standing::Broken, Some("401".to_owned()));
        assert_eq!(told(), State::Broken("401".to_owned()));
        turns.report(&own, Standing::Healthy, None);
        assert_eq!(told(), State::Healthy);
    }
}
