//! The loop that runs a sink: gather → deliver → settle.
//!
//! A batch of which nothing is known is presented again unchanged, for as long as it takes: a receiver that is down
//! costs no event an attempt. Only one that seems to be too large is cut. Meanwhile progress acknowledgements keep the batch ours.

use std::collections::VecDeque;
use std::time::Duration;

use headrace_schemas::id::EventId;
use headrace_schemas::time::Timestamp;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::component::batch::{Batch, BatchPolicy};
use crate::component::sink::{Delivery, Sink};
use crate::component::subscription::Subscription;
use crate::consume::Lane;
use crate::consume::chain::rest_for;
use crate::consume::duplicates::{Copies, Place};
use crate::consume::hold::{held_until, prolong_when_due, while_held};
use crate::consume::read::{read_all, within};
use crate::consume::sub_batch::{Part, Standing};
use crate::crash::{self, Point};
use crate::fault::panics::caught;
use crate::fault::{DiscardReason, Fault, FaultClass, Reason};
use crate::message::Delivered;
use crate::message::epoch::{BROKER_CLOCK_SKEW, Epoch};
use crate::message::payload::Payload;
use crate::observe::metrics::{seconds, seconds_since};
use crate::retry::Attempt;
use crate::settle::Outcome;
use crate::settle::settler::Settler;

/// A batch is cut at this failure that may be its size: one lost answer says nothing of that.
const CUT_AT: u32 = 2;
/// A batch of no more bytes is not cut: a receiver that answers nothing, whatever the size, is not served by many calls.
const CUT_BYTES_MIN: usize = 1 << 20;
/// How long copies are put off while an earlier one may be on its way.
const COPIES_WAIT: Duration = Duration::from_millis(500);
/// How often to ask whether it is a batch's turn.
const TURN_POLL: Duration = Duration::from_millis(20);

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
    /// Settles its messages.
    pub settler: Settler,
}

impl<S: Sink> SinkLoop<S> {
    /// Runs one lane until `stop`; several may run at once.
    ///
    /// # Errors
    /// When the broker refuses the consumer; the supervisor starts the lane again.
    pub async fn run_lane(&self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut lane = Lane::open(&self.broker, &self.subscription).await?;
        self.await_receiver(&stop).await;
        while !stop.is_cancelled() {
            let BatchPolicy { events_max, bytes_max, linger } = self.batching;
            let (messages, epoch) = lane.gather(events_max, bytes_max, linger, &stop).await?;
            if messages.is_empty() {
                continue;
            }
            let messages = self.leave_early(messages, &epoch).await;
            if let Some(pause) = self.take_out(messages, &epoch, &mut lane, &stop).await {
                rest_for(pause, &stop).await;
            }
        }
        self.broker.flush().await;
        Ok(())
    }

    /// Reads and delivers what was gathered, so much at once as the batch's bytes allow: messages are small that refer to
    /// large bodies. What waits is kept ours. Returns how long the consumer must rest.
    async fn take_out(
        &self,
        mut messages: Vec<Delivered>,
        epoch: &Epoch,
        lane: &mut Lane,
        stop: &CancellationToken,
    ) -> Option<Duration> {
        let (mut pause, mut is_first) = (None, true);
        while !messages.is_empty() {
            let bytes_max = self.batching.bytes_max;
            let waiting = messages.split_off(within(messages.iter().map(Delivered::bytes_when_read), bytes_max));
            if !is_first && stop.is_cancelled() {
                self.give_back(&messages, || Outcome::Interrupted).await;
            } else if !is_first && self.is_lost(&messages, epoch, lane).await {
                messages.iter().for_each(|message| self.settler.lapse(message));
            } else {
                let _held = self.settler.metrics.hold(messages.iter().map(Delivered::bytes_when_read).sum());
                let (parts, unread) = self.read(messages, &waiting).await;
                pause = pause.max(unread).max(self.deliver(parts, &waiting, epoch, lane, stop).await);
            }
            (messages, is_first) = (waiting, false);
        }
        pause
    }

    /// Gives back what was held in an earlier epoch, or may be in a stream that is gone, until a call of that epoch must
    /// have ended: before that no look-up of it can be believed. Nothing of it is read.
    async fn leave_early(&self, messages: Vec<Delivered>, epoch: &Epoch) -> Vec<Delivered> {
        let needed = self.call_timeout + BROKER_CLOCK_SKEW;
        let wait = needed.saturating_sub(Timestamp::now().since(epoch.since()));
        if wait.is_zero() {
            return messages;
        }
        let is_early = |message: &Delivered| message.is_of_earlier_epoch() || message.may_be_copy_of_lost();
        let (early, others): (Vec<_>, Vec<_>) = messages.into_iter().partition(is_early);
        self.give_back(&early, || Outcome::NotYet { wait }).await;
        others
    }

    /// Whether another has `messages` for certain: no body is read for that.
    async fn is_lost(&self, messages: &[Delivered], epoch: &Epoch, lane: &mut Lane) -> bool {
        Instant::now() >= held_until(messages, self.subscription.ack_wait)
            || lane.epoch().await.is_ok_and(|now| now != *epoch)
    }

    /// Waits until the receiver accepts us, so that nothing is taken from the stream before.
    async fn await_receiver(&self, stop: &CancellationToken) {
        let mut failures = 0;
        while !stop.is_cancelled() {
            let checked = timeout(self.call_timeout, self.sink.check()).await;
            match checked.unwrap_or_else(|_| Err(timed_out(self.call_timeout))) {
                Ok(()) => return self.settler.health.healthy(),
                Err(fault) => {
                    failures += 1;
                    self.report(&fault);
                    rest_for(self.settler.policy().backoff(Attempt(failures)), stop).await;
                }
            }
        }
    }

    /// Reads the messages and settles those that are unreadable or not wanted. First deliveries and
    /// suspects are parts of their own.
    async fn read(
        &self,
        messages: Vec<Delivered>,
        waiting: &[Delivered],
    ) -> (VecDeque<Part<S::Item>>, Option<Duration>) {
        let held: Vec<&Delivered> = messages.iter().chain(waiting).collect();
        let values = while_held(&held, self.subscription.ack_wait, read_all::<S::Item>(&messages, &self.broker)).await;
        let window = self.broker.duplicate_window();
        let (mut firsts, mut suspects) = (Part::empty(), Part::empty());
        let (mut settled, mut outcomes) = (Vec::new(), Vec::new());
        for (message, value) in messages.into_iter().zip(values) {
            let outcome = match value {
                Ok(value) if self.sink.wants(&value) => {
                    let id = EventId::from_stored(value.id());
                    let suspect = message.is_suspect(&id, value.received_at(), window);
                    if suspect { &mut suspects } else { &mut firsts }.push(message, value, suspect);
                    continue;
                }
                Ok(_) => Outcome::Discarded(DiscardReason::Filtered),
                Err(outcome) => outcome,
            };
            settled.push(message);
            outcomes.push(outcome);
        }
        let pause = self.settler.settle_all(settled.iter().zip(outcomes).collect()).await;
        let parts = [firsts, suspects].into_iter().filter(|part| !part.messages.is_empty());
        (parts.collect(), pause)
    }

    /// Whether `part` is ours to deliver at this moment, and what of it: suspects of which a look-up cannot be believed
    /// yet are given back.
    async fn standing(
        &self,
        part: Part<S::Item>,
        epoch: &Epoch,
        lane: &mut Lane,
    ) -> (Part<S::Item>, anyhow::Result<Standing>) {
        let part = match self.ripe(part, epoch, lane).await {
            Ok(part) => part,
            Err((part, error)) => return (part, Err(error)),
        };
        let valid_until = held_until(&part.messages, self.subscription.ack_wait);
        if Instant::now() + self.call_timeout >= valid_until {
            return (part, Ok(Standing::Lapsed));
        }
        let standing = match lane.epoch().await {
            Ok(now) if now == *epoch => Ok(Standing::Ours { valid_until }),
            // The broker has forgotten that it gave these to us, and gives them to others.
            Ok(_) => Ok(Standing::Lapsed),
            Err(error) => Err(error),
        };
        (part, standing)
    }

    /// Keeps of suspects those of which a look-up can be believed, and gives the others back.
    ///
    /// It cannot be believed while an effect may still come: of a copy, until no earlier message of its event can be
    /// unsettled.
    async fn ripe(
        &self,
        part: Part<S::Item>,
        epoch: &Epoch,
        lane: &mut Lane,
    ) -> Result<Part<S::Item>, (Part<S::Item>, anyhow::Error)> {
        if !part.batch.is_suspect() {
            return Ok(part);
        }
        let window = self.broker.duplicate_window();
        let may_be_copy = |message: &Delivered, item: &S::Item| {
            message.may_be_copy(&EventId::from_stored(item.id()), item.received_at(), window)
        };
        if !part.iter().any(|(message, item)| may_be_copy(message, item)) {
            return Ok(part);
        }
        let mut copies = Copies::of(part.messages.iter().map(Place::of), S::Item::COPIES_APART.then_some(window));
        let began = Instant::now();
        loop {
            match lane.oldest_unsettled().await {
                Ok((now, oldest)) if now == *epoch => copies.oldest = oldest,
                // Nothing of it is ours any more.
                Ok(_) => return Ok(part),
                Err(error) => return Err((part, error)),
            }
            // Whoever has a message before ours is at work on it. What must keep its order is not given back at
            // once: it would come back in another.
            if S::Item::COPIES_APART || copies.are_first() || began.elapsed() >= COPIES_WAIT {
                break;
            }
            sleep(TURN_POLL).await;
        }
        let (ripe, early) =
            part.partition(|message, item| !may_be_copy(message, item) || copies.may_be_looked_up(Place::of(message)));
        self.give_back(&early.messages, || Outcome::NotYet { wait: COPIES_WAIT }).await;
        Ok(ripe)
    }

    /// Delivers the parts and all parts that come of them, and keeps those that wait ours. Returns how long the consumer
    /// must rest.
    async fn deliver(
        &self,
        mut parts: VecDeque<Part<S::Item>>,
        waiting: &[Delivered],
        epoch: &Epoch,
        lane: &mut Lane,
        stop: &CancellationToken,
    ) -> Option<Duration> {
        // Failures since something went through, and those of them that may be the batch's size. Others between these say
        // nothing: what was abandoned may still keep the receiver busy.
        let (mut failures, mut too_much) = (0, 0);
        let mut pause = None;
        while let Some(part) = parts.pop_front() {
            if stop.is_cancelled() && failures > 0 {
                // A call without a clear answer may have its effect until its time has passed; before that no look-up
                // of another process can be believed.
                let wait = self.call_timeout + BROKER_CLOCK_SKEW;
                self.give_back(&part.messages, || Outcome::NotYet { wait }).await;
                continue;
            }
            let ack_wait = self.subscription.ack_wait;
            let all = all_of(&part, &parts, waiting);
            // Renew here too: if every call is short, the timer beside it never fires.
            prolong_when_due(&all, ack_wait).await;
            let (mut part, standing) = self.standing(part, epoch, lane).await;
            if part.messages.is_empty() {
                continue;
            }
            match standing {
                Ok(Standing::Ours { valid_until }) => part.batch.set_valid_until(valid_until),
                Ok(Standing::Lapsed) => {
                    part.messages.iter().for_each(|message| self.settler.lapse(message));
                    continue;
                }
                Err(error) => {
                    failures += 1;
                    let fault = Fault::transient(error.context("cannot tell whether the messages are still ours"));
                    rest_for(self.pause_after(&fault, failures), stop).await;
                    parts.push_front(part);
                    continue;
                }
            }
            let held = all_of(&part, &parts, waiting);
            let delivery = while_held(&held, ack_wait, self.call(&part.batch)).await;
            too_much += u32::from(matches!(delivery, Delivery::TooMuch(_)));
            match delivery {
                Delivery::Each(results) => {
                    (failures, too_much) = (0, 0);
                    pause = pause.max(self.settle_each(part, results).await);
                }
                Delivery::Whole(Fault { class: FaultClass::Poison(reason), .. }) if part.messages.len() > 1 => {
                    if reason == Reason::Panicked {
                        // Before it panicked it may have delivered any of them.
                        part.batch.suspect();
                    }
                    part.halves().into_iter().rev().for_each(|half| parts.push_front(half));
                }
                Delivery::Whole(fault @ Fault { class: FaultClass::Poison(_), .. }) => {
                    pause = pause.max(self.settle_each(part, vec![Err(fault)]).await);
                }
                Delivery::TooMuch(fault) if too_much >= CUT_AT && self.may_be_cut(&part) => {
                    failures += 1;
                    // What the calls before did may show until the time of a call has passed; then it is looked up.
                    let pause = self.pause_after(&fault, failures).max(self.call_timeout);
                    while_held(&held, ack_wait, rest_for(pause, stop)).await;
                    part.batch.suspect();
                    part.cut().into_iter().rev().for_each(|half| parts.push_front(half));
                }
                Delivery::Whole(fault) | Delivery::TooMuch(fault) => {
                    failures += 1;
                    while_held(&held, ack_wait, rest_for(self.pause_after(&fault, failures), stop)).await;
                    parts.push_front(part);
                }
            }
        }
        pause
    }

    fn may_be_cut(&self, part: &Part<S::Item>) -> bool {
        part.messages.len() > 1 && part.bytes() > CUT_BYTES_MIN
    }

    /// Tells of a failure of the whole batch, and how long to wait before it is presented again.
    fn pause_after(&self, fault: &Fault, failures: u32) -> Duration {
        self.report(fault);
        let policy = self.settler.policy();
        let wish = match fault.class {
            FaultClass::Transient { retry_after: Some(wish) } => wish,
            _ => Duration::ZERO,
        };
        // A sink's own wish, within the time of a call, is a condition: the effect may still come until then.
        policy.backoff(Attempt(failures)).max(wish.min(policy.backoff_max.max(self.call_timeout)))
    }

    async fn call(&self, batch: &Batch<S::Item>) -> Delivery {
        let began = Instant::now();
        crash::pass(Point::BeforeInsert);
        let answer = timeout(self.call_timeout, caught("the sink", self.sink.deliver(batch))).await;
        crash::pass(Point::AfterInsert);
        self.settler.metrics.call_seconds.record(seconds(began.elapsed()));
        self.settler.metrics.call_events.record(batch.items().len() as f64);
        match answer {
            Ok(answer) => answer.unwrap_or_else(Delivery::Whole),
            Err(_) => Delivery::TooMuch(timed_out(self.call_timeout)),
        }
    }

    async fn settle_each(&self, part: Part<S::Item>, results: Vec<Result<(), Fault>>) -> Option<Duration> {
        debug_assert_eq!(results.len(), part.messages.len(), "a sink answers for every item");
        let (mut delivered, mut unanswered) = (0, None);
        let outcomes = part.batch.items().iter().zip(results).map(|(item, result)| match result {
            Ok(()) => {
                delivered += 1;
                self.settler.metrics.deliver_seconds.record(seconds_since(item.value.received_at()));
                Outcome::Done
            }
            Err(fault) => {
                // Who refuses an item for itself is there and accepts us.
                if fault.class != FaultClass::Poison(Reason::Rejected) {
                    unanswered = Some(fault.to_string());
                }
                Outcome::Failed(fault)
            }
        });
        let outcomes: Vec<Outcome> = outcomes.collect();
        let pause = self.settler.settle_all(part.messages.iter().zip(outcomes).collect()).await;
        self.settler.metrics.delivered.increment(delivered);
        match (delivered, unanswered, pause) {
            // Already reported as broken by the settler.
            (_, _, Some(_)) => {}
            (0, Some(why), None) => self.settler.health.degraded(why),
            _ => self.settler.health.healthy(),
        }
        pause
    }

    async fn give_back(&self, messages: &[Delivered], outcome: impl Fn() -> Outcome) {
        let mut ours = Vec::with_capacity(messages.len());
        for message in messages {
            // The broker would take our word on what another has by now.
            if Instant::now() >= message.held_until(self.subscription.ack_wait) {
                self.settler.lapse(message);
            } else {
                ours.push((message, outcome()));
            }
        }
        self.settler.settle_all(ours).await;
    }

    fn report(&self, fault: &Fault) {
        match fault.class {
            FaultClass::Broken => self.settler.health.broken(fault.to_string()),
            _ => self.settler.health.degraded(fault.to_string()),
        }
    }
}

/// Every message that is held while `part` is delivered.
fn all_of<'a, T>(part: &'a Part<T>, parts: &'a VecDeque<Part<T>>, waiting: &'a [Delivered]) -> Vec<&'a Delivered> {
    part.messages.iter().chain(parts.iter().flat_map(|part| &part.messages)).chain(waiting).collect()
}

fn timed_out(after: Duration) -> Fault {
    Fault::transient(anyhow::anyhow!("no answer within {} ms", after.as_millis()))
}
