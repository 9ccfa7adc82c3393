//! Settles the messages of a sub-batch after its items' results, and says how the receiver is.

use std::time::Duration;

use super::SinkLoop;
use super::answer::Progress;
use super::refused::{RefusedItem, name_of};
use crate::component::sink::{Sink, Taken};
use crate::consume::sub_batch::SubBatch;
use crate::fault::{Fault, FaultClass};
use crate::message::Delivered;
use crate::message::payload::Payload as _;
use crate::observe::metrics::seconds_since;
use crate::settle::Outcome;

impl<S: Sink> SinkLoop<S> {
    /// Settles each item after its result. The refused ones are kept in `progress`. Returns how long the consumer must
    /// rest, when it must.
    pub(super) async fn settle_each(
        &self,
        sub_batch: SubBatch<S::Item>,
        results: Vec<Result<Taken, Fault>>,
        progress: &mut Progress,
    ) -> Option<Duration> {
        let (mut delivered, mut known, mut unanswered) = (Vec::new(), 0, None);
        let (mut settled, mut outcomes) = (Vec::with_capacity(results.len()), Vec::with_capacity(results.len()));
        let SubBatch { messages, batch, .. } = sub_batch;
        for ((message, item), result) in messages.into_iter().zip(batch.items()).zip(results) {
            outcomes.push(match result {
                Ok(taken) => {
                    self.settler.metrics.sink().deliver_seconds.record(seconds_since(item.value.received_at()));
                    match taken {
                        Taken::Now => delivered.push(item),
                        Taken::Before => known += 1,
                    }
                    Outcome::Done
                }
                Err(fault @ Fault { class: FaultClass::Poison(_), .. }) => {
                    let name = name_of(&item.value);
                    // Several messages of an event count as one item.
                    let is_known = progress.refused.iter().any(|refused| refused.name == name);
                    let proven = !is_known && self.settler.refusals.refused(&name);
                    progress.refused.push(RefusedItem { message, name, fault, proven });
                    continue;
                }
                Err(fault) => {
                    unanswered = Some(fault.to_string());
                    Outcome::Failed(fault)
                }
            });
            settled.push(message);
        }
        let pause = self.settler.settle_all(settled.iter().zip(outcomes).collect()).await;
        self.settler.metrics.sink().delivered.increment((delivered.len() + known) as u64);
        if !delivered.is_empty() {
            self.settler.refusals.accepted(delivered.iter().map(|item| name_of(&item.value)));
        }
        match (delivered.is_empty(), unanswered, pause) {
            // Already reported as broken by the settler.
            (_, _, Some(_)) => {}
            (true, Some(why), None) => self.settler.health.degraded(why),
            (true, None, None) if known > 0 => self.healthy_unless_refused(),
            // A refusal alone does not tell how the receiver is.
            (true, None, None) => {}
            (false, _, None) => self.settler.health.healthy(),
        }
        pause
    }

    /// Settles the messages of items whose effects were there before.
    pub(super) async fn settle_known(&self, sub_batch: &SubBatch<S::Item>) {
        for item in sub_batch.batch.items() {
            self.settler.metrics.sink().deliver_seconds.record(seconds_since(item.value.received_at()));
        }
        self.settler.settle_all(sub_batch.messages.iter().map(|message| (message, Outcome::Done)).collect()).await;
        self.settler.metrics.sink().delivered.increment(sub_batch.messages.len() as u64);
        self.healthy_unless_refused();
    }

    /// The receiver answered, and took nothing. It may still refuse everything.
    fn healthy_unless_refused(&self) {
        if !self.settler.refusals.are_open() {
            self.settler.health.healthy();
        }
    }

    pub(super) async fn give_back(&self, messages: &[Delivered], outcome: impl Fn() -> Outcome) {
        self.settle_ours(messages.iter().map(|message| (message, outcome())).collect()).await;
    }

    /// Settles the messages that are still ours. Returns how long the consumer must rest, when it must.
    pub(super) async fn settle_ours(&self, outcomes: Vec<(&Delivered, Outcome)>) -> Option<Duration> {
        let mut ours = Vec::with_capacity(outcomes.len());
        for (message, outcome) in outcomes {
            // Never answer for an expired message: the broker would accept the answer although another process has the
            // message.
            if !message.is_held(self.subscription.ack_wait) {
                self.settler.expire(message);
            } else {
                ours.push((message, outcome));
            }
        }
        self.settler.settle_all(ours).await
    }
}
