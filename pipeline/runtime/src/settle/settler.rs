//! Carries out what [`settle`] decides: acknowledge, deliver again, dead-letter, pause. It counts each, and logs what a
//! person may want to know.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::AckKind;
use futures::FutureExt as _;
use futures::future::join_all;
use headrace_schemas::header;
use headrace_schemas::subject;

use crate::broker::Broker;
use crate::crash::{self, Point};
use crate::fault::{DeadReason, Fault, FaultClass};
use crate::memory::Share;
use crate::message::Delivered;
use crate::observe::component::ComponentMetrics;
use crate::observe::health::ComponentHealth;
use crate::publish::{Publisher, is_full};
use crate::retry::RetryPolicy;
use crate::settle::failures::Failures;
use crate::settle::refusals::Refusals;
use crate::settle::told::{Fared, Kind, Told, told};
use crate::settle::trials::{Trials, UNANSWERED_MIN};
use crate::settle::{Outcome, Settlement, settle};

/// Settles the messages of one component.
#[derive(Clone)]
pub struct Settler {
    component: String,
    publisher: Publisher,
    policy: RetryPolicy,
    failures: Failures,
    told: Arc<Told>,
    pub(crate) trials: Trials,
    /// What the component's receiver refuses, when it has one.
    pub(crate) refusals: Refusals,
    /// The component's signals.
    pub metrics: ComponentMetrics,
    /// The component's health.
    pub health: ComponentHealth,
    /// What each of the component's workers may hold in memory.
    pub memory: Share,
}

impl Settler {
    /// A settler for `component`, without bounds on memory.
    #[must_use]
    pub fn new(component: &str, broker: &Broker, policy: RetryPolicy, health: ComponentHealth) -> Self {
        Self {
            component: component.to_owned(),
            publisher: Publisher::new(broker),
            policy,
            failures: Failures::default(),
            told: Arc::new(told()),
            trials: Trials::new(component, broker),
            refusals: Refusals::default(),
            metrics: ComponentMetrics::new(component),
            health,
            memory: Share::unbounded(component),
        }
    }

    /// The same with bounds on memory.
    #[must_use]
    pub fn within(self, memory: Share) -> Self {
        Self { memory, ..self }
    }

    /// The component's retry policy.
    #[must_use]
    pub const fn policy(&self) -> &RetryPolicy {
        &self.policy
    }

    /// Settles `message` after `outcome`. Returns how long the consumer must rest, when it must.
    pub async fn settle(&self, message: &Delivered, outcome: Outcome) -> Option<Duration> {
        self.settle_all(vec![(message, outcome)]).await
    }

    /// Settles each message after its outcome. Returns how long the consumer must rest, when it must.
    ///
    /// Acknowledgements are sent without waiting for a confirmation, and the confirmations of DEAD are awaited
    /// together. So a broker that is lost costs one timeout, however many messages there are.
    pub async fn settle_all(&self, outcomes: Vec<(&Delivered, Outcome)>) -> Option<Duration> {
        let (mut pause, mut degraded, mut dead_letters) = (None, None, Vec::new());
        for (message, outcome) in outcomes {
            match self.decide(message, &outcome) {
                Settlement::Ack => {
                    self.failures.forget(message.sequence);
                    message.answer(AckKind::Ack).await;
                    crash::pass(Point::AfterAck);
                }
                Settlement::Nak { delay } => {
                    if let Outcome::Unread(fault) | Outcome::Unpublished(fault) | Outcome::Untried(fault) = &outcome {
                        degraded.get_or_insert_with(|| fault.to_string());
                    }
                    self.log_retry(message, &outcome, delay);
                    if !matches!(outcome, Outcome::Untried(_)) {
                        self.failures.answered(message.sequence, message.attempt);
                    }
                    message.answer(AckKind::Nak(Some(delay))).await;
                }
                Settlement::DeadLetter(reason) => dead_letters.push((message, reason, outcome)),
                Settlement::Pause { delay } => {
                    self.health.broken(describe(&outcome));
                    self.failures.answered(message.sequence, message.attempt);
                    message.answer(AckKind::Nak(Some(delay))).await;
                    pause = pause.max(Some(delay));
                }
            }
        }
        // Degraded until something goes through again: a component that gets nothing through must not look healthy. Said
        // once, because each message may have a cause in words of its own.
        if let Some(why) = degraded {
            self.health.degraded(why);
        }
        let dead =
            dead_letters.iter().map(|(message, reason, outcome)| self.dead_letter(message, *reason, outcome).boxed());
        join_all(dead).await.into_iter().fold(pause, Option::max)
    }

    /// Decides what becomes of `message`, and counts and logs it.
    fn decide(&self, message: &Delivered, outcome: &Outcome) -> Settlement {
        self.metrics.settled(outcome.label());
        // The same trace id on every hop: with `debug` on, a delivery can be followed from request to row.
        tracing::debug!(
            component = self.component,
            outcome = outcome.label(),
            id = message.header(header::ID),
            trace_id = message.traceparent().and_then(|text| text.get(3..35)),
            origin = message.origin(),
            attempt = message.attempt.0,
            "message settled"
        );
        if let Outcome::Discarded(reason) = outcome {
            self.metrics.discarded(reason.code());
        }
        // Only the event's own failures count as attempts. A delivery may come to nothing without a failure, and for
        // the broker's trouble or a wrong configuration no event is to blame.
        let attempt = match outcome {
            Outcome::Failed(Fault { class: FaultClass::Transient { .. }, .. }) => self.failures.add(message.sequence),
            _ => message.attempt,
        };
        settle(outcome, attempt, &self.policy)
    }

    /// Whether processes may have died on `message`: several deliveries had no outcome, as far as we know.
    pub(crate) fn is_questionable(&self, message: &Delivered) -> bool {
        // Only a message that comes often costs a look into what we remember.
        message.attempt.0 > UNANSWERED_MIN
            && self.failures.unanswered(message.sequence, message.attempt) >= UNANSWERED_MIN
    }

    /// Forgets `message` without answering: it was held so long that the broker gives it to another.
    pub fn expire(&self, message: &Delivered) {
        self.metrics.lapsed.increment(1);
        // No process has died on it. If it stayed questionable, a slow machine would come to do nothing but trials: groups wait
        // for their turn until they expire, and come again as questionable.
        self.failures.answered(message.sequence, message.attempt);
        tracing::debug!(component = self.component, origin = message.origin(), "message expired");
        self.tell(Kind::Expired, message, |fared| fared);
    }

    /// Sends `message` to DEAD. Returns how long the consumer must rest when DEAD does not take it.
    async fn dead_letter(&self, message: &Delivered, reason: DeadReason, outcome: &Outcome) -> Option<Duration> {
        let detail = describe(outcome);
        let headers = self.dead_headers(message, reason, &detail);
        let tenant = subject::tenant_of(message.subject());
        let subject = subject::dead(&self.component, tenant);
        let sent = self.publisher.send_headers(subject, headers, message.payload().clone()).await;
        let stored = match sent {
            Ok(unconfirmed) => unconfirmed.confirmed_or_cut_off().await,
            Err(fault) => Err(fault),
        };
        match stored {
            // Ack only after DEAD has it: a crash between the two costs a duplicate that DEAD's
            // deduplication drops, the other order loses the event.
            Ok(_) => {
                self.failures.forget(message.sequence);
                self.metrics.dead(reason.code());
                self.tell(Kind::dead(reason), message, |fared| fared.because(detail));
                message.answer(AckKind::Ack).await;
                None
            }
            Err(fault) => {
                let delay = self.policy.backoff(message.attempt);
                // A message that kills processes must be recognized when it comes again.
                if reason != DeadReason::Crashed {
                    self.failures.answered(message.sequence, message.attempt);
                }
                self.not_given_up(&fault);
                let kind = Kind::not_dead_yet(reason);
                self.tell(kind, message, |fared| fared.because(fault.to_string()).again_in(delay));
                message.answer(AckKind::Nak(Some(delay))).await;
                Some(delay)
            }
        }
    }

    /// Tells that DEAD does not take a message. Where it is full, that passes only when a person makes room.
    fn not_given_up(&self, fault: &Fault) {
        if is_full(fault) {
            self.health.broken(format!(
                "expected room in DEAD for what can never succeed, found it full, or the broker's disk; until there is room, it comes \
                 again and holds up what is behind it. Look at what is there with `headrace dead list`, mend the cause, and make \
                 room with `headrace dead redrive` or `headrace dead drop`, with a larger `streams.dead`, or on the disk ({fault})"
            ));
        } else {
            self.health.degraded(format!("DEAD does not take what can never succeed: {fault}"));
        }
    }

    fn dead_headers(&self, message: &Delivered, reason: DeadReason, detail: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, values) in message.headers().into_iter().flat_map(HeaderMap::iter) {
            // Leave out NATS' own headers: with the message's deduplication key, DEAD would refuse a second dead letter
            // of it.
            if !name.to_string().starts_with("Nats-") {
                values.iter().for_each(|value| headers.append(name.clone(), value.clone()));
            }
        }
        let origin = message.origin();
        // The time is part of the key, because a broker that lost its newest messages gives their sequences to others.
        let message_id = format!("{}/{origin}@{}", self.component, message.stored_at.as_micros());
        headers.insert(header::MESSAGE_ID, message_id);
        headers.insert(header::DEAD_COMPONENT, self.component.as_str());
        headers.insert(header::DEAD_REASON, reason.code());
        headers.insert(header::DEAD_DETAIL, one_line(detail).as_str());
        headers.insert(header::DEAD_ATTEMPTS, message.attempts_in_all().to_string());
        headers.insert(header::DEAD_SUBJECT, message.subject().as_str());
        headers.insert(header::DEAD_ORIGIN, origin);
        headers
    }

    fn log_retry(&self, message: &Delivered, outcome: &Outcome, delay: Duration) {
        let (Outcome::Failed(fault) | Outcome::Unpublished(fault) | Outcome::Unread(fault) | Outcome::Untried(fault)) =
            outcome
        else {
            return;
        };
        let kind = Kind::Retried(outcome.label());
        self.tell(kind, message, |fared| fared.because(fault.to_string()).again_in(delay));
    }

    fn tell(&self, kind: Kind, message: &Delivered, more: impl FnOnce(Fared) -> Fared) {
        self.told.note(kind, more(Fared::new(&self.component, kind, message)));
    }

    /// Runs a worker's `work`. Meanwhile it tells in time what is left to tell of its messages, and removes marks of trials
    /// that could not be removed.
    pub(crate) async fn beside<T>(&self, work: impl Future<Output = T>) -> T {
        self.told.beside(self.trials.beside(work)).await
    }
}

fn describe(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Failed(Fault { source, class, .. })
        | Outcome::Unpublished(Fault { source, class, .. })
        | Outcome::Unread(Fault { source, class, .. })
        | Outcome::Untried(Fault { source, class, .. }) => match class {
            FaultClass::Transient { .. } => format!("{source:#} (temporary, but too often)"),
            FaultClass::Poison(_) | FaultClass::Broken => format!("{source:#}"),
        },
        other => other.label().to_owned(),
    }
}

/// `text` for a NATS header: without line breaks, which a header cannot hold, and cut to about a screen.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().take(1_000).map(|char| if char.is_control() { ' ' } else { char }).collect()
}
