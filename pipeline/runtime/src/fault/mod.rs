//! What can go wrong with an event, in the three classes that decide what happens next.
//!
//! Components classify; they never retry, sleep, acknowledge or spawn. What follows from a class is
//! decided in [`crate::settle`] alone. They also say whether what failed may have had its effect all the same.

pub(crate) mod panics;

use std::fmt;
use std::time::Duration;

/// A failure with its class.
#[derive(Debug)]
pub struct Fault {
    /// What the failure means for the event.
    pub class: FaultClass,
    /// Whether what failed may have had its effect all the same.
    pub effect: Effect,
    /// What happened, with its causes.
    pub source: anyhow::Error,
}

/// What a failure means for the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultClass {
    /// The world may recover: try again.
    Transient {
        /// The receiver's own wish, such as `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// This event can never succeed.
    Poison(DeadReason),
    /// We are misconfigured; no event is to blame. The consumer pauses and its health turns red.
    Broken,
}

/// Whether what failed may have had its effect all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Certainly not: it was refused, or not sent.
    None,
    /// Perhaps: there was no answer, or one that does not tell.
    Possible,
}

impl Fault {
    /// The world may recover.
    pub fn transient(source: impl Into<anyhow::Error>) -> Self {
        Self::new(FaultClass::Transient { retry_after: None }, source)
    }

    /// The world may recover, and the receiver said when.
    pub fn transient_after(retry_after: Option<Duration>, source: impl Into<anyhow::Error>) -> Self {
        Self::new(FaultClass::Transient { retry_after }, source)
    }

    /// This event can never succeed.
    pub fn poison(reason: DeadReason, source: impl Into<anyhow::Error>) -> Self {
        Self::new(FaultClass::Poison(reason), source)
    }

    /// We are misconfigured.
    pub fn broken(source: impl Into<anyhow::Error>) -> Self {
        Self::new(FaultClass::Broken, source)
    }

    fn new(class: FaultClass, source: impl Into<anyhow::Error>) -> Self {
        Self { class, effect: Effect::None, source: source.into() }
    }

    /// The same failure, of which `effect` is known. Without this, it had none.
    #[must_use]
    pub fn with_effect(self, effect: Effect) -> Self {
        Self { effect, ..self }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.source)
    }
}

/// What to say of `who`, which gave `found` answers for `expected` events.
pub(crate) fn miscounted(who: &str, found: usize, expected: usize) -> anyhow::Error {
    anyhow::anyhow!(
        "expected an answer of {who} for each of {expected} events, found {found}; this is a defect of {who}: report it"
    )
}

/// Why an event is given up. The code is stable: it is a header on DEAD and a label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeadReason {
    /// The payload is not what its headers say: no JSON, no Avro, no form.
    Malformed,
    /// A header that every message of its stream carries is missing or unreadable.
    MissingHeader,
    /// The object that holds the body is gone.
    BodyLost,
    /// No configured secret gives the stored signature for the body: a forgery, or the secret is gone.
    Unverified,
    /// The receiver refused this event for good.
    Rejected,
    /// It failed as often as the retry policy allows.
    Exhausted,
    /// A stage or a sink panicked on it: a defect of Headrace, which the detail names.
    Panicked,
    /// Processes died on it each time that they worked on it alone: out of memory, a stack overflow, an abort.
    Crashed,
}

impl DeadReason {
    /// All reasons, for documentation and metrics.
    pub const ALL: [Self; 8] = [
        Self::Malformed,
        Self::MissingHeader,
        Self::BodyLost,
        Self::Unverified,
        Self::Rejected,
        Self::Exhausted,
        Self::Panicked,
        Self::Crashed,
    ];

    /// The stable code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::MissingHeader => "missing_header",
            Self::BodyLost => "body_lost",
            Self::Unverified => "unverified",
            Self::Rejected => "rejected",
            Self::Exhausted => "exhausted",
            Self::Panicked => "panicked",
            Self::Crashed => "crashed",
        }
    }
}

/// Why an event was left out on purpose. Each needs a configured filter and is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiscardReason {
    /// A configured filter excludes it.
    Filtered,
}

impl DiscardReason {
    /// The stable code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Filtered => "filtered",
        }
    }
}
