//! A few suspects among many first deliveries wait for those of the next batches.
//!
//! Suspects travel by themselves: they are looked up, and nobody inserts them with others. For a table, a call with few
//! costs nearly as much as one with many, and each leaves a part that all later look-ups read too. So where a steady load
//! brings a few with each batch, those of some seconds make one call. A message that was delivered before never waits, nor
//! does one beside few others: then nothing is saved.
//!
//! What waits is held, like what is worked on, and counts in the worker's share of memory. Where the worker may take no more
//! it is given back, and where nobody can tell whether it is still ours it is left without an answer.

use std::cell::Cell;
use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::SinkLoop;
use crate::component::sink::Sink;
use crate::consume::Subscriber;
use crate::consume::hold::{prolong_when_due, while_held};
use crate::consume::read::room_of;
use crate::consume::sub_batch::SubBatch;
use crate::memory::{Held, Share};
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
/// A worker that has to wait longer before it takes more gives them back.
const HOLD_MAX: Duration = Duration::from_millis(200);

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
    /// What waits.
    pub(super) fn messages(&self) -> Vec<&Delivered> {
        self.messages.iter().collect()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    fn clear(&mut self) -> Vec<Delivered> {
        (self.taken, self.held) = (None, None);
        std::mem::take(&mut self.messages)
    }

    fn is_of(&self, incarnation: &Incarnation) -> bool {
        self.taken.as_ref().is_some_and(|(_, taken)| taken == incarnation)
    }

    /// Whether those that wait, after another `gathered` messages, have waited long enough.
    fn is_due(&self, gathered: usize, linger: Duration, memory: &Share) -> bool {
        gathered < FIRSTS_MIN
            || self.taken.as_ref().is_some_and(|(since, _)| since.elapsed() >= linger)
            || self.messages.len() >= memory.messages_max / SHARE / 2
            || room_of(&self.messages) >= memory.bytes_max / SHARE / 2
    }

    /// Keeps the suspects of `sub_batches`, of `incarnation`, if they are few. Their items are read again.
    pub(super) fn keep_few<T>(
        &mut self,
        sub_batches: VecDeque<SubBatch<T>>,
        incarnation: &Incarnation,
        settler: &Settler,
        message_max: usize,
    ) -> VecDeque<SubBatch<T>> {
        let count = |is_suspect| -> usize {
            let of_these = sub_batches.iter().filter(|part| part.batch.is_suspect() == is_suspect);
            of_these.map(|part| part.messages.len()).sum()
        };
        let (firsts, memory) = (count(false), &settler.memory);
        // Beside them there must be room for the largest message.
        let is_small = memory.bytes_max - memory.bytes_max / SHARE < message_max;
        if self.goes_on || is_small || firsts < FIRSTS_MIN || count(true) * FIRSTS_TO_ONE > firsts {
            return sub_batches;
        }
        let mut others = VecDeque::with_capacity(sub_batches.len());
        for part in sub_batches {
            if !part.batch.is_suspect() {
                others.push_back(part);
                continue;
            }
            let (room, places) = (Cell::new(room_of(&self.messages)), Cell::new(self.messages.len()));
            let (waiting, ready) = part.partition(|message, _| {
                let taken = (room.get() + room_of(std::slice::from_ref(message)), places.get() + 1);
                let is_room = taken.0 <= memory.bytes_max / SHARE && taken.1 <= memory.messages_max / SHARE;
                // A body is not fetched twice.
                let waits = is_room && !message.may_be_redelivered() && !message.refers_to_body();
                if waits {
                    room.set(taken.0);
                    places.set(taken.1);
                }
                waits
            });
            self.messages.extend(waiting.messages.into_iter().map(Delivered::apart));
            others.extend((!ready.messages.is_empty()).then_some(ready));
        }
        if !self.messages.is_empty() {
            self.taken.get_or_insert_with(|| (Instant::now(), incarnation.clone()));
            self.held = Some(memory.account.note(room_of(&self.messages)));
        }
        others
    }
}

impl<S: Sink> SinkLoop<S> {
    /// As [`SinkLoop::may_take`], with messages that wait. When that lasts, they are given back, so that other processes get
    /// them.
    pub(super) async fn may_take_beside(
        &self,
        late: &mut Late,
        subscriber: &mut Subscriber,
        stop: &CancellationToken,
    ) -> bool {
        if !late.is_empty() {
            let waits = late.messages();
            let may_take = while_held(&waits, self.subscription.ack_wait, self.may_take(stop));
            if timeout(HOLD_MAX, may_take).await.is_ok_and(|may_take| may_take) {
                return true;
            }
            self.set_free(late, subscriber).await;
        }
        self.may_take(stop).await
    }

    /// Gives back what waits, if it is certainly ours. An answer that reaches the broker in another incarnation, or late,
    /// could be for a message that somebody else has.
    pub(super) async fn set_free(&self, late: &mut Late, subscriber: &mut Subscriber) {
        if late.is_empty() {
            return;
        }
        let is_ours = subscriber.incarnation().await.is_ok_and(|now| late.is_of(&now));
        let messages = late.clear();
        if is_ours {
            self.give_back(&messages, || Outcome::Interrupted).await;
        } else {
            messages.iter().for_each(|message| self.settler.expire(message));
        }
    }

    /// Gathers messages, and adds those that have waited long enough.
    pub(super) async fn gather(
        &self,
        late: &mut Late,
        subscriber: &mut Subscriber,
        stop: &CancellationToken,
    ) -> anyhow::Result<(Vec<Delivered>, Incarnation)> {
        let (batching, memory, ack_wait) = (self.batching, &self.settler.memory, self.subscription.ack_wait);
        // Together they are no more than a worker may take.
        let events_max = batching.events_max.min(memory.messages_max).saturating_sub(late.messages.len()).max(1);
        let bytes_max = batching.bytes_max.min(memory.bytes_max).saturating_sub(room_of(&late.messages));
        let gathering = subscriber.gather(events_max, bytes_max, batching.linger, stop);
        let gathered = while_held(&late.messages(), ack_wait, gathering).await;
        late.goes_on = false;
        let (messages, incarnation) = match gathered {
            Ok(gathered) => gathered,
            Err(error) => {
                // Without an answer: the broker may be away, or have another configuration.
                late.clear().iter().for_each(|message| self.settler.expire(message));
                return Err(error);
            }
        };
        let is_former = !late.is_of(&incarnation);
        // A small part of the time in which they lapse, so that a slow machine does not spend it on holding them.
        let linger = self.sink.suspects_linger().min(ack_wait / 8);
        if late.is_empty() || !is_former && !late.is_due(messages.len(), linger, memory) {
            return Ok((messages, incarnation));
        }
        // The broker gives the others to somebody else, or has done so.
        let is_ours = |message: &Delivered| !is_former && message.is_held(ack_wait);
        let (mut ours, lapsed): (Vec<_>, Vec<_>) = late.clear().into_iter().partition(is_ours);
        lapsed.iter().for_each(|message| self.settler.expire(message));
        prolong_when_due(&ours.iter().collect::<Vec<_>>(), ack_wait).await;
        late.goes_on = !ours.is_empty();
        ours.extend(messages);
        Ok((ours, incarnation))
    }
}
