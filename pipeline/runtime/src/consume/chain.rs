//! The loop that runs a chain of stages: pull → process → publish → settle.

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::join_all;
use headrace_schemas::time::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::component::stage::{BoxedStage, Verdict};
use crate::component::subscription::Subscription;
use crate::consume::Subscriber;
use crate::consume::conflicts::{Known, conflicts};
use crate::consume::hold::{prolong_when_due, while_held};
use crate::consume::read::{read_all, room_for, room_of, within};
use crate::consume::trial::{self, Group, begin, close, end, plan};
use crate::crash::{self, Point};
use crate::every::rest_for;
use crate::fault::panics::caught;
use crate::fault::{Effect, Fault, FaultClass, miscounted};
use crate::memory::{BODY_COPIES_READ, Held};
use crate::message::Delivered;
use crate::message::payload::{Content, Payload, Product};
use crate::observe::metrics::seconds_since;
use crate::publish::{Publisher, Stored, Unconfirmed};
use crate::settle::Outcome;
use crate::settle::settler::Settler;

/// How many events a stage works on before it lets other tasks run. At about 10 µs each, this is the half millisecond
/// that work may keep a reactor thread.
const SLICE: usize = 32;
/// The most messages that a worker takes at once.
pub const TAKE_MAX: usize = 256;
/// The most bytes of messages that a worker takes at once.
pub const TAKE_MAX_BYTES: usize = 16 << 20;
/// The most memory for what a slice reads. What needs more travels alone.
pub const SLICE_BYTES_MAX: usize = 32 << 20;

/// How a chain takes messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As they come, so that each goes on as soon as possible.
    Prompt,
    /// Gathered for a while and worked on together, for stages whose events belong together.
    Gathered {
        /// The longest wait for more.
        linger: Duration,
    },
}

/// Everything a chain's loop needs.
pub struct ChainLoop<In, Out> {
    /// The broker.
    pub broker: Broker,
    /// Which messages it takes.
    pub subscription: Subscription,
    /// How it takes them.
    pub pace: Pace,
    /// The stages.
    pub stage: BoxedStage<In, Out>,
    /// Settles its messages.
    pub settler: Settler,
}

/// A message, when its event was received, and the products that were sent for it, or its outcome when none were.
type OnItsWay = (Delivered, Timestamp, Result<Vec<Sent>, Outcome>);

impl<In: Payload, Out: Product> ChainLoop<In, Out> {
    /// Runs one worker until `stop`; several may run at once.
    ///
    /// # Errors
    /// When the broker refuses the consumer; the supervisor starts the worker again.
    pub async fn run_worker(&self, stop: CancellationToken) -> anyhow::Result<()> {
        self.settler.beside(Box::pin(self.take_and_work(stop))).await
    }

    async fn take_and_work(&self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut subscriber = Subscriber::open(&self.broker, &self.subscription).await?;
        let publisher = Publisher::new(&self.broker);
        // So that its series begin at 0.
        self.settler.metrics.chain();
        self.settler.health.healthy();
        let memory = &self.settler.memory;
        let (take_max, bytes_max) = (TAKE_MAX.min(memory.messages_max), TAKE_MAX_BYTES.min(memory.bytes_max));
        while !stop.is_cancelled() {
            let (messages, slice) = match self.pace {
                Pace::Prompt => (subscriber.ready(take_max, bytes_max, &stop).await?, SLICE),
                Pace::Gathered { linger } => (subscriber.gather(take_max, bytes_max, linger, &stop).await?.0, take_max),
            };
            let _taken = memory.account.note(room_of(&messages));
            let (mut messages, mut plan) = plan(&self.settler, self.subscription.ack_wait, messages).await;
            while !messages.is_empty() {
                let sizes = messages.iter().take(slice).map(|message| room_for::<In>(message, BODY_COPIES_READ));
                let (count, group) = plan.next(within(sizes, SLICE_BYTES_MAX.min(memory.portion_max)));
                let rest = messages.split_off(count);
                if stop.is_cancelled() {
                    self.give_back(&messages).await;
                } else if let Some(pause) = self.try_out(&publisher, messages, &rest, group).await {
                    self.give_back(&rest).await;
                    rest_for(pause, &stop).await;
                    break;
                }
                messages = rest;
                tokio::task::yield_now().await;
            }
        }
        self.broker.flush().await;
        Ok(())
    }

    /// Takes a slice all the way, with a mark of it when it is on trial. Returns how long the consumer must rest, when it
    /// must.
    async fn try_out(
        &self,
        publisher: &Publisher,
        messages: Vec<Delivered>,
        waiting: &[Delivered],
        group: Option<Group>,
    ) -> Option<Duration> {
        if group.is_none() {
            return self.work(publisher, messages, waiting).await;
        }
        let held: Vec<&Delivered> = messages.iter().chain(waiting).collect();
        let begun = begin(&self.settler, &messages, group.as_ref());
        let trial = match while_held(&held, self.subscription.ack_wait, begun).await {
            Ok(trial) => trial,
            Err(fault) => {
                trial::give_back(&self.settler, self.subscription.ack_wait, &messages, &fault).await;
                return None;
            }
        };
        let pause = self.work(publisher, messages, waiting).await;
        end(&self.settler, trial).await;
        close(&self.settler, group).await;
        pause
    }

    /// Takes a slice all the way. Meanwhile it keeps the slice and the waiting messages ours. Returns how long the
    /// consumer must rest, when it must.
    async fn work(
        &self,
        publisher: &Publisher,
        mut messages: Vec<Delivered>,
        waiting: &[Delivered],
    ) -> Option<Duration> {
        let _room = self.room(&messages, waiting).await;
        self.leave_expired(&mut messages, waiting).await;
        let (readable, inputs, mut pause) = self.read_all(messages, waiting).await;
        let verdicts = self.process(&readable, inputs).await;
        let sent = self.send_all(publisher, readable, verdicts).await;
        let (mut messages, mut outcomes) = (Vec::with_capacity(sent.len()), Vec::with_capacity(sent.len()));
        let mut known = Vec::new();
        // One after the other, as they come: the time of each counts from its sending, so all that are lost with a server
        // cost one timeout.
        for (message, received_at, on_its_way) in sent {
            outcomes.push(match on_its_way {
                Ok(on_their_way) => self.confirm(on_their_way, received_at, &mut known).await,
                Err(outcome) => outcome,
            });
            messages.push(message);
        }
        // A slice whose messages have all expired proves nothing.
        let published = !outcomes.is_empty() && !outcomes.iter().any(|it| matches!(it, Outcome::Unpublished(_)));
        // Ack only after the PubAck: a crash between the two costs a duplicate that the broker's
        // window or the suspect look-up drops, the other order loses the event.
        pause = pause.max(self.settler.settle_all(messages.iter().zip(outcomes).collect()).await);
        // A chain whose products are not stored is not healthy, though none of its messages is lost.
        if pause.is_none() && published {
            self.settler.health.healthy();
        }
        let conflicts = conflicts::<Out>(&self.broker, known.into_iter()).await;
        self.settler.metrics.chain().conflicts.increment(conflicts);
        pause
    }

    /// Takes the room for what the slice reads. Meanwhile it keeps the slice and the waiting messages ours.
    async fn room(&self, messages: &[Delivered], waiting: &[Delivered]) -> Held {
        let bytes = messages.iter().map(|message| room_for::<In>(message, BODY_COPIES_READ));
        let bytes = bytes.fold(0, usize::saturating_add);
        let held: Vec<&Delivered> = messages.iter().chain(waiting).collect();
        while_held(&held, self.subscription.ack_wait, self.settler.memory.take(bytes)).await
    }

    /// Renews the hold on `messages` and on the waiting ones. Removes from `messages` those that have expired, so that
    /// no body is read for a message that another has by now.
    async fn leave_expired(&self, messages: &mut Vec<Delivered>, waiting: &[Delivered]) {
        let ack_wait = self.subscription.ack_wait;
        let held: Vec<&Delivered> = messages.iter().chain(waiting).collect();
        prolong_when_due(&held, ack_wait).await;
        messages.retain(|message| {
            let is_ours = message.is_held(ack_wait);
            if !is_ours {
                self.settler.expire(message);
            }
            is_ours
        });
    }

    /// Reads the messages and settles those that cannot be read. Returns how long the consumer must rest, when it must.
    async fn read_all(
        &self,
        messages: Vec<Delivered>,
        waiting: &[Delivered],
    ) -> (Vec<(Delivered, Timestamp)>, Vec<In>, Option<Duration>) {
        let held: Vec<&Delivered> = messages.iter().chain(waiting).collect();
        let values = while_held(&held, self.subscription.ack_wait, read_all::<In>(&messages, &self.broker)).await;
        let mut readable = Vec::with_capacity(messages.len());
        let mut inputs = Vec::with_capacity(messages.len());
        let (mut unreadable, mut outcomes) = (Vec::new(), Vec::new());
        for (message, value) in messages.into_iter().zip(values) {
            match value {
                Ok(input) => {
                    readable.push((message, input.received_at()));
                    inputs.push(input);
                }
                Err(outcome) => {
                    unreadable.push(message);
                    outcomes.push(outcome);
                }
            }
        }
        let pause = self.settler.settle_all(unreadable.iter().zip(outcomes).collect()).await;
        (readable, inputs, pause)
    }

    async fn read(&self, message: &Delivered) -> Result<In, Fault> {
        caught("reading it", In::read(message, &self.broker)).await.unwrap_or_else(Err)
    }

    /// The stage's verdicts on `inputs`, which were read from `messages`: one for each. When the stage panics or gives
    /// another number of verdicts, it gets each message alone, so that only those on which it does so fail.
    async fn process(&self, messages: &[(Delivered, Timestamp)], inputs: Vec<In>) -> Vec<Verdict<Out>> {
        let fault = match caught("the stage", self.stage.process(inputs)).await {
            Ok(verdicts) if verdicts.len() == messages.len() => return verdicts,
            Ok(verdicts) => self.miscounted(verdicts.len(), messages.len()),
            Err(fault) => fault,
        };
        if messages.len() == 1 {
            return vec![Verdict::Fail(fault)];
        }
        let alone = messages.iter().map(|(message, _)| self.process_alone(message).boxed());
        join_all(alone).await.into_iter().map(|verdict| verdict.unwrap_or_else(Verdict::Fail)).collect()
    }

    async fn process_alone(&self, message: &Delivered) -> Result<Verdict<Out>, Fault> {
        // Read it again: the first input was lost in the panic.
        let input = self.read(message).await?;
        let mut verdicts = caught("the stage", self.stage.process(vec![input])).await?;
        match (verdicts.pop(), verdicts.len()) {
            (Some(verdict), 0) => Ok(verdict),
            (None, found) => Err(self.miscounted(found, 1)),
            (Some(_), others) => Err(self.miscounted(others + 1, 1)),
        }
    }

    /// The stage gave `found` answers for `expected` messages. Nobody knows which is whose, so none of them counts.
    fn miscounted(&self, found: usize, expected: usize) -> Fault {
        let fault = Fault::transient(miscounted("the stage", found, expected)).with_effect(Effect::Possible);
        tracing::error!(component = self.subscription.component, %fault, "answers of a stage are left out");
        fault
    }

    /// Sends the products of `messages` according to `verdicts`. All are sent before any is confirmed.
    async fn send_all(
        &self,
        publisher: &Publisher,
        messages: Vec<(Delivered, Timestamp)>,
        verdicts: Vec<Verdict<Out>>,
    ) -> Vec<OnItsWay> {
        let mut sent = Vec::with_capacity(messages.len());
        let mut refused: Option<String> = None;
        for ((message, received_at), verdict) in messages.into_iter().zip(verdicts) {
            if !message.is_held(self.subscription.ack_wait) {
                self.settler.expire(&message);
                continue;
            }
            let on_its_way = match (verdict, &refused) {
                // A connection that refused one message does not take the next. So its timeout is waited for only once.
                (Verdict::Forward(products), Some(why)) if !products.is_empty() => {
                    Err(Outcome::Unpublished(Fault::transient(anyhow::anyhow!("not sent after another: {why}"))))
                }
                (verdict, _) => self.send(publisher, &message, verdict).await,
            };
            if let Err(Outcome::Unpublished(fault)) = &on_its_way {
                refused.get_or_insert_with(|| fault.to_string());
            }
            sent.push((message, received_at, on_its_way));
        }
        sent
    }

    async fn send(
        &self,
        publisher: &Publisher,
        message: &Delivered,
        verdict: Verdict<Out>,
    ) -> Result<Vec<Sent>, Outcome> {
        let products = match verdict {
            Verdict::Forward(products) => products,
            Verdict::Discard(reason) => return Err(Outcome::Discarded(reason)),
            Verdict::Fail(fault) => return Err(Outcome::Failed(fault)),
        };
        let handover = self.stage.handover();
        let mut on_their_way = Vec::with_capacity(products.len());
        for product in products {
            let content = product.content();
            let written = caught("writing its product", async move { product.write(handover) }).await;
            let outgoing = written.unwrap_or_else(Err).map_err(Outcome::Failed)?;
            crash::pass(Point::BeforePublish);
            let sent = publisher.send(outgoing, message.traceparent()).await;
            crash::pass(Point::BeforePubAck);
            on_their_way.push(Sent { unconfirmed: sent.map_err(unsent)?, content });
        }
        Ok(on_their_way)
    }

    /// Waits until the broker has confirmed the products of a message. Adds to `known` those that it had already.
    async fn confirm(&self, sent: Vec<Sent>, received_at: Timestamp, known: &mut Vec<Known>) -> Outcome {
        let published = sent.len() as u64;
        let mut failed: Option<Fault> = None;
        for Sent { unconfirmed, content } in sent {
            match (unconfirmed.confirmed_or_cut_off().await, content) {
                (Ok(Stored { sequence, duplicate: true }), Some(content)) => known.push(Known { sequence, content }),
                (Ok(_), _) => {}
                (Err(fault), _) => failed = failed.or(Some(fault)),
            }
        }
        match failed {
            Some(fault) => Outcome::Unpublished(fault),
            None => {
                crash::pass(Point::AfterPubAck);
                let metrics = self.settler.metrics.chain();
                metrics.published.increment(published);
                metrics.publish_seconds.record(seconds_since(received_at));
                Outcome::Done
            }
        }
    }

    async fn give_back(&self, messages: &[Delivered]) {
        let outcomes = messages.iter().map(|message| (message, Outcome::Interrupted)).collect();
        self.settler.settle_all(outcomes).await;
    }
}

/// A product on its way, and the content that it was made of.
struct Sent {
    unconfirmed: Unconfirmed,
    content: Option<Content<String>>,
}

/// What becomes of a message whose product could not be sent. The broker's trouble is not the event's fault. But a
/// product that is larger than any message can never be sent.
fn unsent(fault: Fault) -> Outcome {
    match fault.class {
        FaultClass::Poison(_) => Outcome::Failed(fault),
        FaultClass::Transient { .. } | FaultClass::Broken => Outcome::Unpublished(fault),
    }
}
