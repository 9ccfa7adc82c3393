//! Decides what becomes of a message after a component has answered. Nothing else decides that.
//!
//! It is pure: no clock, no I/O. The loops in [`crate::consume::chain`] and [`crate::consume::sink`] call [`settler`],
//! which carries it out.

pub mod dead_letters;
mod failures;
pub(crate) mod refusals;
pub mod settler;
mod told;
pub mod trials;

use std::time::Duration;

use crate::fault::{DeadReason, DiscardReason, Fault, FaultClass};
use crate::retry::{Attempt, RetryPolicy};

/// What is known about a message once its component has answered.
#[derive(Debug)]
pub enum Outcome {
    /// All its effects are stored.
    Done,
    /// It was left out on purpose.
    Discarded(DiscardReason),
    /// Its component failed on it.
    Failed(Fault),
    /// Its component succeeded, but the broker did not confirm what it made.
    Unpublished(Fault),
    /// It could not be read, because the broker did not give its body.
    Unread(Fault),
    /// Processes may have died on it, and the broker did not take the mark without which nobody may work on it.
    Untried(Fault),
    /// We are shutting down and had not begun with it.
    Interrupted,
    /// It is not yet known whether its effects exist, or whether it is to blame for its refusal.
    NotYet {
        /// How long until that can be known.
        wait: Duration,
    },
}

impl Outcome {
    /// [`Self::Untried`] because of `fault`, for any number of messages.
    pub(crate) fn untried(fault: &Fault) -> impl Iterator<Item = Self> {
        std::iter::repeat_with(move || Self::Untried(Fault::transient(anyhow::anyhow!("{fault}"))))
    }

    /// The word for this outcome in metrics.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Discarded(_) => "discarded",
            Self::Failed(Fault { class: FaultClass::Transient { .. }, .. }) => "transient",
            Self::Failed(Fault { class: FaultClass::Poison(_), .. }) => "poison",
            Self::Failed(Fault { class: FaultClass::Broken, .. }) => "broken",
            Self::Unpublished(_) => "unpublished",
            Self::Unread(_) => "unread",
            Self::Untried(_) => "untried",
            Self::Interrupted => "interrupted",
            Self::NotYet { .. } => "not_yet",
        }
    }
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It is finished.
    Ack,
    /// It is delivered again after the delay.
    Nak {
        /// At least this long.
        delay: Duration,
    },
    /// It goes to DEAD with the reason, then it is finished.
    DeadLetter(DeadReason),
    /// It is delivered again after the delay. Until then its consumer takes nothing new.
    Pause {
        /// How long the consumer rests.
        delay: Duration,
    },
}

/// Decides what becomes of a message. For the event's own temporary failure, `attempt` counts how often it has failed
/// in that way, which the broker does not count. For anything else it counts deliveries.
#[must_use]
pub fn settle(outcome: &Outcome, attempt: Attempt, policy: &RetryPolicy) -> Settlement {
    let backoff = policy.backoff(attempt);
    match outcome {
        Outcome::Done | Outcome::Discarded(_) => Settlement::Ack,
        Outcome::Interrupted => Settlement::Nak { delay: Duration::ZERO },
        Outcome::NotYet { wait } => Settlement::Nak { delay: *wait },
        // Never dead-lettered: the broker's trouble is not the event's, and DEAD is in the same broker.
        Outcome::Unpublished(_) | Outcome::Unread(_) | Outcome::Untried(_) => Settlement::Nak { delay: backoff },
        Outcome::Failed(fault) => match &fault.class {
            FaultClass::Poison(reason) => Settlement::DeadLetter(*reason),
            FaultClass::Broken => Settlement::Pause { delay: backoff },
            FaultClass::Transient { .. } if attempt.0 >= policy.attempts_max => {
                Settlement::DeadLetter(DeadReason::Exhausted)
            }
            // Honour the receiver's wish, but do not let it park an event for a day.
            FaultClass::Transient { retry_after } => Settlement::Nak {
                delay: retry_after.map_or(backoff, |wish| wish.clamp(backoff, policy.retry_after_max.max(backoff))),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        attempts_max: 5,
        backoff_min: Duration::from_secs(1),
        backoff_max: Duration::from_secs(10),
        retry_after_max: Duration::from_secs(30),
    };

    fn nak(seconds: u64) -> Settlement {
        Settlement::Nak { delay: Duration::from_secs(seconds) }
    }

    #[test]
    fn every_outcome_at_every_attempt() {
        let transient = || Outcome::Failed(Fault::transient(anyhow!("down")));
        let wish =
            |seconds| Outcome::Failed(Fault::transient_after(Some(Duration::from_secs(seconds)), anyhow!("busy")));
        let poison = || Outcome::Failed(Fault::poison(DeadReason::Malformed, anyhow!("no JSON")));
        let broken = || Outcome::Failed(Fault::broken(anyhow!("password expired")));
        let unpublished = || Outcome::Unpublished(Fault::transient(anyhow!("no answer")));
        let unread = || Outcome::Unread(Fault::transient(anyhow!("no answer")));
        let pause = |seconds| Settlement::Pause { delay: Duration::from_secs(seconds) };
        for (outcome, attempt, want) in [
            (Outcome::Done, 1, Settlement::Ack),
            (Outcome::Done, 99, Settlement::Ack),
            (Outcome::Discarded(DiscardReason::Filtered), 1, Settlement::Ack),
            (Outcome::Interrupted, 1, nak(0)),
            (Outcome::Interrupted, 99, nak(0)),
            (Outcome::NotYet { wait: Duration::from_secs(4) }, 99, nak(4)),
            (transient(), 1, nak(1)),
            (transient(), 2, nak(2)),
            (transient(), 4, nak(8)),
            (transient(), 5, Settlement::DeadLetter(DeadReason::Exhausted)),
            (wish(3), 1, nak(3)),
            (wish(0), 2, nak(2)),
            (wish(86_400), 1, nak(30)),
            (poison(), 1, Settlement::DeadLetter(DeadReason::Malformed)),
            (broken(), 1, pause(1)),
            (broken(), 99, pause(10)),
            (unpublished(), 1, nak(1)),
            (unpublished(), 99, nak(10)),
            (Outcome::Untried(Fault::transient(anyhow!("no answer"))), 99, nak(10)),
            (unread(), 1, nak(1)),
            (unread(), 99, nak(10)),
        ] {
            assert_eq!(settle(&outcome, Attempt(attempt), &POLICY), want, "{outcome:?} at attempt {attempt}");
        }
    }
}
