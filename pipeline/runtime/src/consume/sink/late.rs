//! A few suspects among many first deliveries wait for those of the next batches.
//!
//! Suspects travel by themselves: they are looked up, and nobody inserts them with others. For a table, a call with few
//! costs nearly as much as one with many, and each leaves a part that all later look-ups read too. So where a steady load
//! brings a few with each batch, those of some seconds make one call. A message that was delivered before never waits, nor
//! does one beside few others: then nothing is saved.
//!
//! What waits is held like any message that is worked on. It counts in the worker's share of memory, and is given back
//! when the worker may take no more.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::SinkLoop;
use crate::component::sink::Sink;
use crate::consume::Subscriber;
use crate::consume::hold::{prolong_when_due, while_held};
use crate::consume::read::room_of;
use crate::consume::sub_batch::SubBatch;
use crate::memory::Held;
use crate::message::Delivered;
use crate::message::incarnation::Incarnation;
use crate::settle::Outcome;
use crate::settle::settler::Settler;

/// Suspects wait beside at least so many first deliveries.
const FIRSTS_MIN: usize = 64;
/// And when there are at least so many first deliveries to each of them.
const FIRSTS_TO_ONE: usize = 8;
/// They take no more than this part of a worker's share of memory, in bytes and in messages.
const SHARE: usize = 4;

/// Suspects that wait, and were read once.
#[derive(Default)]
pub(super) struct Late {
    messages: Vec<Delivered>,
    /// Since when the first of them waits, and the incarnation in which they all were taken.
    taken: Option<(Instant, Incarnation)>,
    /// Whether the suspects of what is being delivered go on, because those that waited are among them.
    goes_on: bool,
    held: Option<Held>,
}

impl Late {
    fn refs(&self) -> Vec<&Delivered> {
        self.messages.iter().collect()
    }

    fn clear(&mut self) -> Vec<Delivered> {
        (self.taken, self.held) = (None, None);
        std::mem::take(&mut self.messages)
    }

    /// Whether those that wait, after another `gathered` messages, have waited long enough.
    fn is_due(&self, gathered: usize, linger: Duration, settler: &Settler) -> bool {
        let memory = &settler.memory;
        gathered < FIRSTS_MIN
            || self.taken.as_ref().is_some_and(|(since, _)| since.elapsed() >= linger)
            || self.messages.len() >= memory.messages_max / SHARE
            || room_of(&self.messages) >= memory.bytes_max / SHARE
    }

    /// Keeps the suspects of `sub_batches`, of `incarnation`, if they are few. Their items are read again.
    pub(super) fn keep_few<T>(
        &mut self,
        sub_batches: impl Iterator<Item = SubBatch<T>>,
        incarnation: &Incarnation,
        settler: &Settler,
    ) -> impl Iterator<Item = SubBatch<T>> {
        let (suspects, mut others): (Vec<_>, Vec<_>) = sub_batches.partition(|part| part.batch.is_suspect());
        let count = |parts: &[SubBatch<T>]| -> usize { parts.iter().map(|part| part.messages.len()).sum() };
        let firsts = count(&others);
        if self.goes_on || firsts < FIRSTS_MIN || count(&suspects) * FIRSTS_TO_ONE > firsts {
            others.extend(suspects);
            return others.into_iter();
        }
        for part in suspects {
            // A body is not fetched twice.
            let (waiting, ready) =
                part.partition(|message, _| !message.may_be_redelivered() && !message.refers_to_body());
            self.messages.extend(waiting.messages);
            others.extend((!ready.messages.is_empty()).then_some(ready));
        }
        if !self.messages.is_empty() {
            self.taken.get_or_insert_with(|| (Instant::now(), incarnation.clone()));
            self.held = Some(settler.memory.account.note(room_of(&self.messages)));
        }
        others.into_iter()
    }
}

impl<S: Sink> SinkLoop<S> {
    /// As [`SinkLoop::may_take`], with messages that wait. While messages may not be taken, they are given back, so that
    /// other processes get them.
    pub(super) async fn may_take_beside(&self, late: &mut Late, stop: &CancellationToken) -> bool {
        let is_idle = stop.is_cancelled()
            || self.limiter.open_until().is_some()
            || !late.messages.is_empty() && self.gate.paused_since(stop).await.is_some();
        if is_idle {
            self.give_back(&late.clear(), || Outcome::Interrupted).await;
        }
        while_held(&late.refs(), self.subscription.ack_wait, self.may_take(stop)).await
    }

    /// Gathers messages, and adds those that have waited long enough.
    pub(super) async fn gather(
        &self,
        late: &mut Late,
        subscriber: &mut Subscriber,
        stop: &CancellationToken,
    ) -> anyhow::Result<(Vec<Delivered>, Incarnation)> {
        let (batching, memory) = (self.batching, &self.settler.memory);
        // Together they are no more than a worker may take. What waits is at most a quarter, and one batch of suspects.
        let events_max = batching.events_max.min(memory.messages_max).saturating_sub(late.messages.len()).max(1);
        let bytes_max = batching.bytes_max.min(memory.bytes_max).saturating_sub(room_of(&late.messages));
        let ack_wait = self.subscription.ack_wait;
        let gathering = subscriber.gather(events_max, bytes_max, batching.linger, stop);
        let (messages, incarnation) = match while_held(&late.refs(), ack_wait, gathering).await {
            Ok(gathered) => gathered,
            Err(error) => {
                self.give_back(&late.clear(), || Outcome::Interrupted).await;
                return Err(error);
            }
        };
        late.goes_on = false;
        if late.messages.is_empty() || !late.is_due(messages.len(), self.sink.suspects_linger(), &self.settler) {
            return Ok((messages, incarnation));
        }
        late.goes_on = true;
        let is_former = late.taken.as_ref().is_some_and(|(_, taken)| *taken != incarnation);
        // The broker gives the others to somebody else, or has done so.
        let is_ours = |message: &Delivered| !is_former && message.is_held(ack_wait);
        let (mut ours, lapsed): (Vec<_>, Vec<_>) = late.clear().into_iter().partition(is_ours);
        lapsed.iter().for_each(|message| self.settler.expire(message));
        prolong_when_due(&ours.iter().collect::<Vec<_>>(), ack_wait).await;
        ours.extend(messages);
        Ok((ours, incarnation))
    }
}
