//! What the log tells of messages that were not simply settled. Thousands may fare alike at once, so each kind has one
//! line in ten seconds ([`crate::observe::recurring`]).

use std::time::Duration;

use crate::fault::DeadReason;
use crate::message::Delivered;
use crate::observe::recurring::{Line, Recurring};

/// At most one line of a kind in this time.
const WINDOW: Duration = Duration::from_secs(10);

/// How messages fared. Each kind has lines of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// They were held too long.
    Expired,
    /// They failed, with this outcome, and come again.
    Retried(&'static str),
    /// They were given up, for the reason with this code.
    Dead(&'static str),
    /// They are given up for the reason with this code, and DEAD does not take them.
    NotDeadYet(&'static str),
}

impl Kind {
    pub(super) const fn dead(reason: DeadReason) -> Self {
        Self::Dead(reason.code())
    }

    pub(super) const fn not_dead_yet(reason: DeadReason) -> Self {
        Self::NotDeadYet(reason.code())
    }

    /// How one fared, and how several did.
    const fn text(self) -> [&'static str; 2] {
        match self {
            Self::Expired => [
                "message was held longer than its ack_wait (was this process stopped?); left to its redelivery",
                "more messages were held longer than their ack_wait; left to their redelivery",
            ],
            Self::Retried(_) => [
                "message failed and is tried again",
                "more messages failed and are tried again; the last fault is told",
            ],
            Self::Dead(_) => ["message dead-lettered", "more messages dead-lettered; the last detail is told"],
            Self::NotDeadYet(_) => [
                "cannot dead-letter yet; the message comes again",
                "cannot dead-letter more messages yet; they come again, and the last fault is told",
            ],
        }
    }

    const fn code(self) -> Option<&'static str> {
        match self {
            Self::Expired => None,
            Self::Retried(code) | Self::Dead(code) | Self::NotDeadYet(code) => Some(code),
        }
    }
}

/// A component's lines.
pub(super) type Told = Recurring<Kind, Fared>;

pub(super) const fn told() -> Told {
    Recurring::new(WINDOW)
}

/// How one message fared, or several of a kind.
#[derive(Debug)]
pub(super) struct Fared {
    component: String,
    kind: Kind,
    count: u64,
    /// The first and the last sequence.
    span: (u64, u64),
    /// Of the last of them: stream and sequence.
    origin: String,
    /// Of the last of them.
    attempts: u64,
    /// Of the last of them.
    cause: Option<String>,
    /// Of the last of them, when it comes again.
    delay: Option<Duration>,
}

impl Fared {
    pub(super) fn new(component: &str, kind: Kind, message: &Delivered) -> Self {
        Self {
            component: component.to_owned(),
            kind,
            count: 1,
            span: (message.sequence, message.sequence),
            origin: message.origin(),
            attempts: message.attempts_in_all(),
            cause: None,
            delay: None,
        }
    }

    pub(super) fn because(self, cause: impl Into<String>) -> Self {
        Self { cause: Some(cause.into()), ..self }
    }

    pub(super) fn again_in(self, delay: Duration) -> Self {
        Self { delay: Some(delay), ..self }
    }
}

impl Line for Fared {
    fn add(&mut self, later: Self) {
        let span = (self.span.0.min(later.span.0), self.span.1.max(later.span.1));
        *self = Self { count: self.count + later.count, span, ..later };
    }

    fn tell(self) {
        let Self { component, kind, count, span: (first, last), origin, attempts, cause, delay } = self;
        let (code, cause, delay_ms) = (kind.code(), cause.as_deref(), delay.map(|delay| delay.as_millis()));
        let [one, several] = kind.text();
        if count == 1 {
            tracing::warn!(component, code, cause, origin, attempts, delay_ms, "{one}");
        } else {
            tracing::warn!(
                component,
                code,
                cause,
                count,
                sequences = format!("{first} to {last}"),
                origin,
                "{several}"
            );
        }
    }
}
