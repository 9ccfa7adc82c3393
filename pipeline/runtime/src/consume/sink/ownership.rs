//! Whether messages are still ours to deliver, and whether the look-up of a suspect can be believed yet.
//!
//! Nothing here delivers or settles for good: a message whose time has not come is given back.

use std::time::Duration;

use headrace_schemas::time::Timestamp;
use tokio::time::{Instant, sleep};

use super::SinkLoop;
use crate::broker::Stream;
use crate::component::sink::Sink;
use crate::component::subscription::{Subscription, WhenBehind};
use crate::consume::Subscriber;
use crate::consume::duplicates::{DuplicateCheck, Position};
use crate::consume::hold::held_until;
use crate::consume::sub_batch::{Ownership, SubBatch};
use crate::message::Delivered;
use crate::message::incarnation::Incarnation;
use crate::message::payload::Payload as _;
use crate::settle::Outcome;

/// How long a possible duplicate is put off while an earlier message of its event may be unsettled.
const DUPLICATES_WAIT: Duration = Duration::from_millis(500);
/// How often to ask whether the batch's turn has come.
const TURN_POLL: Duration = Duration::from_millis(20);

impl<S: Sink> SinkLoop<S> {
    /// Gives back, unread, the messages from before `incarnation` and those that may duplicate a message of a deleted
    /// stream. A call of the earlier incarnation may still be running. Until it must have ended, no look-up of these
    /// messages can be believed. Returns the other messages.
    pub(super) async fn give_back_early(&self, messages: Vec<Delivered>, incarnation: &Incarnation) -> Vec<Delivered> {
        let needed = self.call_timeout + self.broker.clock_skew();
        let wait = needed.saturating_sub(Timestamp::now().since(incarnation.since()));
        if wait.is_zero() {
            return messages;
        }
        let is_early = |message: &Delivered| message.is_of_earlier_incarnation() || message.may_duplicate_lost();
        let (early, others): (Vec<_>, Vec<_>) = messages.into_iter().partition(is_early);
        self.give_back(&early, || Outcome::NotYet { wait }).await;
        others
    }

    /// Whether `messages` are certainly not ours any more, so that nobody need read their bodies.
    pub(super) async fn is_lost(
        &self,
        messages: &[Delivered],
        incarnation: &Incarnation,
        subscriber: &mut Subscriber,
    ) -> bool {
        held_until(messages, self.subscription.ack_wait).is_over()
            || subscriber.incarnation().await.is_ok_and(|now| now != *incarnation)
    }

    /// Whether `sub_batch` is ours to deliver now. Suspects whose look-up cannot be believed yet are given back; the
    /// rest is returned.
    pub(super) async fn ownership(
        &self,
        sub_batch: SubBatch<S::Item>,
        incarnation: &Incarnation,
        subscriber: &mut Subscriber,
    ) -> (SubBatch<S::Item>, anyhow::Result<Ownership>) {
        let sub_batch = match self.ready_for_lookup(sub_batch, incarnation, subscriber).await {
            Ok(sub_batch) => sub_batch,
            Err((sub_batch, error)) => return (sub_batch, Err(error)),
        };
        let valid_until = held_until(&sub_batch.messages, self.subscription.ack_wait);
        if valid_until.time_left() <= self.call_timeout {
            return (sub_batch, Ok(Ownership::Expired));
        }
        let ownership = match subscriber.incarnation().await {
            // Somebody else's configuration gives our messages to others earlier than we expect.
            Ok(_) if subscriber.ack_wait() < self.subscription.ack_wait => Ok(Ownership::Expired),
            // This sink was set aside. What it missed is brought to it once more, so nobody may deliver it here.
            Ok(_) if self.may_be_set_aside() && subscriber.has_lost(&sub_batch.messages) => Ok(Ownership::Expired),
            Ok(now) if now == *incarnation => Ok(Ownership::Owned { valid_until }),
            // The broker has forgotten that it gave us these messages, and gives them to others.
            Ok(_) => Ok(Ownership::Expired),
            Err(error) => Err(error),
        };
        (sub_batch, ownership)
    }

    fn may_be_set_aside(&self) -> bool {
        let Subscription { sink, stream, .. } = &self.subscription;
        // Another process may have another configuration, by which this sink catches up.
        *stream == Stream::Events
            && sink.as_ref().is_some_and(|owner| !matches!(owner.when_behind, WhenBehind::Store { .. }))
    }

    /// Keeps the messages whose look-up can be believed now, and gives the others back.
    ///
    /// While an earlier message of the same event may be unsettled, its effect may still come. So the look-up of a
    /// possible duplicate cannot be believed yet.
    async fn ready_for_lookup(
        &self,
        sub_batch: SubBatch<S::Item>,
        incarnation: &Incarnation,
        subscriber: &mut Subscriber,
    ) -> Result<SubBatch<S::Item>, (SubBatch<S::Item>, anyhow::Error)> {
        if !sub_batch.batch.is_suspect() {
            return Ok(sub_batch);
        }
        let window = self.broker.duplicate_window();
        let may_be_duplicate = |message: &Delivered, item: &S::Item| message.may_be_duplicate(item, window);
        if !sub_batch.iter().any(|(message, item)| may_be_duplicate(message, item)) {
            return Ok(sub_batch);
        }
        let mut check = DuplicateCheck::of(
            sub_batch.messages.iter().map(Position::of),
            S::Item::DUPLICATES_APART.then_some(window),
            self.broker.clock_skew(),
        );
        let began = Instant::now();
        loop {
            match subscriber.oldest_unsettled().await {
                Ok((now, oldest)) if now == *incarnation => check.oldest = oldest,
                // In a new incarnation none of these messages is ours any more.
                Ok(_) => return Ok(sub_batch),
                Err(error) => return Err((sub_batch, error)),
            }
            // Another worker is at work on the messages before ours. Messages that must keep their order are not given
            // back at once, because they would come back in another order.
            if S::Item::DUPLICATES_APART || check.are_first() || began.elapsed() >= DUPLICATES_WAIT {
                break;
            }
            sleep(TURN_POLL).await;
        }
        let (ready, early) = sub_batch.partition(|message, item| {
            !may_be_duplicate(message, item) || check.may_be_looked_up(Position::of(message))
        });
        self.give_back(&early.messages, || Outcome::NotYet { wait: DUPLICATES_WAIT }).await;
        Ok(ready)
    }
}
