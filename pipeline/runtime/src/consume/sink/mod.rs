//! The loop that runs a sink: gather → deliver → settle.
//!
//! When a call fails as a whole, the loop sends the same batch again, unchanged, for as long as it takes: a receiver
//! that is down costs no event an attempt. It splits a batch only when the batch seems too large, or when one of its
//! events seems to be poison. What is refused alone is given up only when the receiver accepts others. Meanwhile
//! progress acknowledgements keep the batch ours. When calls of the component fail again and again, a breaker that all its
//! workers share lets them wait ([`crate::limit`]). No message is acknowledged before its item is delivered. Read
//! [`crate::settle`] next.

mod admission;
mod answer;
mod late;
mod ownership;
mod refused;
mod settled;

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::answer::Progress;
use self::late::Late;
use self::refused::RefusedItem;
use crate::aside::pause::Gate;
use crate::broker::Broker;
use crate::component::batch::{Batch, BatchPolicy};
use crate::component::sink::{BatchResult, Sink};
use crate::component::subscription::Subscription;
use crate::consume::Subscriber;
use crate::consume::hold::{prolong_when_due, while_held};
use crate::consume::read::{read_all, room_for, room_of, within};
use crate::consume::sub_batch::{Ownership, Parts, SubBatch};
use crate::consume::trial::{self, Group, begin, close, end, plan};
use crate::crash::{self, Point};
use crate::every::rest_for;
use crate::fault::panics::caught;
use crate::fault::{DiscardReason, Effect, Fault, FaultClass};
use crate::limit::{Limiter, Pass};
use crate::memory::BODY_COPIES_DELIVERED;
use crate::message::Delivered;
use crate::message::incarnation::Incarnation;
use crate::observe::metrics::seconds;
use crate::settle::Outcome;
use crate::settle::settler::Settler;

/// Everything a sink's loop needs.
pub struct SinkLoop<S: Sink> {
    /// The broker.
    pub broker: Broker,
    /// Which messages it takes.
    pub subscription: Subscription,
    /// The sink.
    pub sink: S,
    /// How its batches grow.
    pub batching: BatchPolicy,
    /// Longest time for one call of the sink.
    pub call_timeout: Duration,
    /// When calls to its receiver may be made. Loops that call the same receiver share one.
    pub limiter: Limiter,
    /// Settles its messages.
    pub settler: Settler,
    /// Closed while a person has the sink paused.
    pub gate: Gate,
}

impl<S: Sink> SinkLoop<S> {
    /// Runs one worker until `stop`; several may run at once.
    ///
    /// # Errors
    /// When the broker refuses the consumer; the supervisor starts the worker again.
    pub async fn run_worker(&self, stop: CancellationToken) -> anyhow::Result<()> {
        self.settler.beside(Box::pin(self.take_and_deliver(stop))).await
    }

    async fn take_and_deliver(&self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut subscriber = Subscriber::open(&self.broker, &self.subscription).await?;
        // So that its series begin at 0.
        self.settler.metrics.sink();
        self.await_gate(&stop).await;
        self.await_receiver(&stop).await;
        let mut late = Late::default();
        while self.may_take_beside(&mut late, &mut subscriber, &stop).await {
            let (messages, incarnation) = self.gather(&mut late, &mut subscriber, &stop).await?;
            if messages.is_empty() {
                continue;
            }
            let _taken = self.settler.memory.account.note(room_of(&messages));
            let messages = self.give_back_early(messages, &incarnation).await;
            if let Some(pause) = self.take_out(messages, &mut late, &incarnation, &mut subscriber, &stop).await {
                self.set_free(&mut late, &mut subscriber).await;
                rest_for(pause, &stop).await;
            }
        }
        self.broker.flush().await;
        Ok(())
    }

    /// Reads and delivers `messages` in portions of at most the batch's bytes, because a small message may refer to a
    /// large body. Meanwhile it keeps the waiting ones ours. A few suspects become late. Returns how long the consumer must
    /// rest, when it must.
    async fn take_out(
        &self,
        messages: Vec<Delivered>,
        late: &mut Late,
        incarnation: &Incarnation,
        subscriber: &mut Subscriber,
        stop: &CancellationToken,
    ) -> Option<Duration> {
        let (mut pause, mut is_first) = (None, true);
        let (mut messages, mut plan) = plan(&self.settler, self.subscription.ack_wait, messages).await;
        while !messages.is_empty() {
            let fitting = within(messages.iter().map(Delivered::bytes_when_read), self.batching.bytes_max);
            let room = |message: &Delivered| room_for::<S::Item>(message, BODY_COPIES_DELIVERED);
            let fitting = fitting.min(within(messages.iter().map(room), self.settler.memory.portion_max));
            let (count, group) = plan.next(fitting);
            let waiting = messages.split_off(count);
            if !is_first && stop.is_cancelled() {
                self.give_back(&messages, || Outcome::Interrupted).await;
            } else if !is_first && self.is_lost(&messages, incarnation, subscriber).await {
                messages.iter().for_each(|message| self.settler.expire(message));
            } else {
                // It never waits: a worker of a sink has all of this for itself.
                let _room = self.settler.memory.take(messages.iter().map(room).fold(0, usize::saturating_add)).await;
                let held: Vec<&Delivered> = messages.iter().chain(&waiting).collect();
                let begun = begin(&self.settler, &messages, group.as_ref());
                match while_held(&held, self.subscription.ack_wait, begun).await {
                    Ok(trial) => {
                        let (sub_batches, unread) = self.read(messages, &waiting).await;
                        end(&self.settler, trial).await;
                        let sub_batches = if group.is_none() && !self.sink.suspects_linger().is_zero() {
                            late.keep_few(sub_batches, incarnation, &self.settler, self.broker.message_max())
                        } else {
                            sub_batches
                        };
                        let portion = Portion { waiting: &waiting, group: group.as_ref() };
                        let delivered = self.deliver(sub_batches, &portion, incarnation, subscriber, stop);
                        // By themselves: when one of them has lapsed, what is delivered must be held all the same.
                        let rest = while_held(&late.messages(), self.subscription.ack_wait, delivered).await;
                        pause = pause.max(unread).max(rest);
                        close(&self.settler, group).await;
                    }
                    Err(fault) => {
                        trial::give_back(&self.settler, self.subscription.ack_wait, &messages, &fault).await;
                    }
                }
            }
            (messages, is_first) = (waiting, false);
        }
        pause
    }

    async fn check(&self) -> Result<(), Fault> {
        let checked = timeout(self.call_timeout, self.sink.check()).await;
        checked.unwrap_or_else(|_| Err(timed_out(self.call_timeout)))
    }

    /// Reads the messages and settles those that are unreadable or unwanted. Returns the others as sub-batches, first
    /// deliveries before suspects and each of one key, and how long the consumer must rest, when it must.
    async fn read(
        &self,
        messages: Vec<Delivered>,
        waiting: &[Delivered],
    ) -> (VecDeque<SubBatch<S::Item>>, Option<Duration>) {
        let held: Vec<&Delivered> = messages.iter().chain(waiting).collect();
        let values = while_held(&held, self.subscription.ack_wait, read_all::<S::Item>(&messages, &self.broker)).await;
        let window = self.broker.duplicate_window();
        let mut parts = Parts::of(messages.len());
        let (mut settled, mut outcomes) = (Vec::new(), Vec::new());
        for (message, value) in messages.into_iter().zip(values) {
            let outcome = match value {
                Ok(value) if self.sink.wants(&value) => {
                    let suspect = message.is_suspect(&value, window);
                    parts.push(self.sink.key(&value), message, value, suspect);
                    continue;
                }
                Ok(_) => Outcome::Discarded(DiscardReason::Filtered),
                Err(outcome) => outcome,
            };
            settled.push(message);
            outcomes.push(outcome);
        }
        let pause = self.settler.settle_all(settled.iter().zip(outcomes).collect()).await;
        (parts.into_sub_batches(), pause)
    }

    /// Delivers the sub-batches, and those that they are split into. Meanwhile it keeps the waiting messages ours.
    /// Returns how long the consumer must rest, when it must.
    async fn deliver(
        &self,
        mut sub_batches: VecDeque<SubBatch<S::Item>>,
        portion: &Portion<'_>,
        incarnation: &Incarnation,
        subscriber: &mut Subscriber,
        stop: &CancellationToken,
    ) -> Option<Duration> {
        let (mut progress, waiting) = (Progress::since(self.settler.refusals.acceptances()), portion.waiting);
        while let Some(sub_batch) = progress.next(&mut sub_batches) {
            let ack_wait = self.subscription.ack_wait;
            let all = all_of(&sub_batch, &sub_batches, waiting, &progress.refused);
            let admitted = self.admitted_again(&sub_batch, progress.failures, stop);
            let Some(pass) = while_held(&all, ack_wait, admitted).await else {
                self.leave(&sub_batch, progress.failures).await;
                continue;
            };
            // Renew the hold here too: if every call is short, the timer in `while_held` never fires.
            prolong_when_due(&all, ack_wait).await;
            // Mark each call anew: a trial must not last while the receiver is away, or a restart would count as a death.
            let begun = begin(&self.settler, &sub_batch.messages, portion.group);
            let trial = match while_held(&all, ack_wait, begun).await {
                Ok(trial) => trial,
                Err(fault) => {
                    drop(pass);
                    self.put_off(sub_batch, &fault, &mut sub_batches, &mut progress, stop).await;
                    continue;
                }
            };
            let (mut sub_batch, ownership) = self.ownership(sub_batch, incarnation, subscriber).await;
            let result = match ownership {
                _ if sub_batch.messages.is_empty() => None,
                Ok(Ownership::Owned { valid_until }) => {
                    sub_batch.batch.set_valid_until(valid_until);
                    let held = all_of(&sub_batch, &sub_batches, waiting, &progress.refused);
                    Some(Ok(while_held(&held, ack_wait, self.call(&sub_batch.batch, pass)).await))
                }
                Ok(Ownership::Expired) => {
                    sub_batch.messages.iter().for_each(|message| self.settler.expire(message));
                    None
                }
                Err(error) => {
                    // No call is made before the next try, and another worker's may be.
                    drop(pass);
                    Some(Err(error))
                }
            };
            end(&self.settler, trial).await;
            match result {
                None => {}
                Some(Ok(result)) => {
                    let refused_before = progress.refused.len();
                    self.follow_up(sub_batch, result, &mut sub_batches, waiting, &mut progress, stop).await;
                    progress.note(refused_before);
                    self.give_up_proven(&mut progress).await;
                }
                Some(Err(error)) => {
                    let fault = Fault::transient(error.context("cannot tell whether the messages are still ours"));
                    self.put_off(sub_batch, &fault, &mut sub_batches, &mut progress, stop).await;
                }
            }
        }
        self.judge(&mut progress, sub_batches, waiting).await;
        progress.pause
    }

    /// Rests because of a fault of the broker's, before the next try at `sub_batch`.
    async fn put_off(
        &self,
        sub_batch: SubBatch<S::Item>,
        fault: &Fault,
        sub_batches: &mut VecDeque<SubBatch<S::Item>>,
        progress: &mut Progress,
        stop: &CancellationToken,
    ) {
        progress.failures += 1;
        rest_for(self.pause_after(fault, progress.failures), stop).await;
        sub_batches.push_front(sub_batch);
    }

    async fn call(&self, batch: &Batch<S::Item>, pass: Pass) -> BatchResult {
        let began = Instant::now();
        crash::pass(Point::BeforeInsert);
        let answer = timeout(self.call_timeout, caught("the sink", self.sink.deliver(batch))).await;
        crash::pass(Point::AfterInsert);
        self.settler.metrics.sink().call_seconds.record(seconds(began.elapsed()));
        self.settler.metrics.sink().call_events.record(batch.items().len() as f64);
        let result = match answer {
            Ok(answer) => answer.unwrap_or_else(BatchResult::Whole),
            Err(_) => BatchResult::TooMuch(timed_out(self.call_timeout)),
        };
        if let Some(answer) = self.told_by(&result) {
            pass.answered(answer);
        }
        result
    }

    fn report(&self, fault: &Fault) {
        let why = match self.limiter.open_until() {
            Some((until, failures)) => {
                format!("{fault}; no call is made until {until}, because {failures} in a row failed")
            }
            None => fault.to_string(),
        };
        match fault.class {
            FaultClass::Broken => self.settler.health.broken(why),
            _ => self.settler.health.degraded(why),
        }
    }
}

/// What is beside the sub-batches that are delivered.
struct Portion<'a> {
    /// The messages that wait for their turn.
    waiting: &'a [Delivered],
    /// The group on trial that the sub-batches are made of, if they are.
    group: Option<&'a Group>,
}

/// Every message that is held while `sub_batch` is delivered.
fn all_of<'a, T>(
    sub_batch: &'a SubBatch<T>,
    sub_batches: &'a VecDeque<SubBatch<T>>,
    waiting: &'a [Delivered],
    refused: &'a [RefusedItem],
) -> Vec<&'a Delivered> {
    sub_batch
        .messages
        .iter()
        .chain(sub_batches.iter().flat_map(|sub_batch| &sub_batch.messages))
        .chain(waiting)
        .chain(refused.iter().map(|item| &item.message))
        .collect()
}

fn timed_out(after: Duration) -> Fault {
    Fault::transient(anyhow::anyhow!("no answer within {} ms", after.as_millis())).with_effect(Effect::Possible)
}
