//! What follows from a sink's answer for a sub-batch: its items are settled, or it is sent again, whole or in pieces.
//!
//! A sub-batch that is sent again stays in front of the others, so that its messages keep their order.

use std::collections::VecDeque;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::refused::RefusedItem;
use super::{SinkLoop, all_of};
use crate::component::sink::{BatchResult, Sink, Taken};
use crate::consume::hold::while_held;
use crate::consume::sub_batch::SubBatch;
use crate::every::rest_for;
use crate::fault::{Effect, Fault, FaultClass, miscounted};
use crate::message::Delivered;
use crate::message::payload::Payload;
use crate::retry::Attempt;

/// A batch is cut at this many failures that its size may explain. A single one may be just a lost answer.
const CUT_AT: u32 = 2;
/// A batch of this many bytes or fewer is not cut. A receiver that answers nothing at any size gains nothing from more
/// calls.
const CUT_BYTES_MIN: usize = 1 << 20;

/// How the delivery of some sub-batches goes so far.
#[derive(Default)]
pub(super) struct Progress {
    /// Failures since the last success.
    pub(super) failures: u32,
    /// Those among them that the batch's size may explain. Other failures in between do not reset this count: a call
    /// that we abandoned may still keep the receiver busy.
    too_much: u32,
    /// How long the consumer must rest, when it must.
    pub(super) pause: Option<Duration>,
    /// Items that were refused alone, until it is known who is to blame.
    pub(super) refused: Vec<RefusedItem>,
    /// The receiver seems to refuse everything: so many of the first items were refused, and one from the end.
    pub(super) is_searched: bool,
    /// How often the receiver had accepted something before.
    pub(super) acceptances: u64,
}

impl Progress {
    /// Of a delivery that begins now. The receiver has accepted something this often.
    pub(super) fn since(acceptances: u64) -> Self {
        Self { acceptances, ..Self::default() }
    }
}

impl<S: Sink> SinkLoop<S> {
    /// Settles `sub_batch`, or puts it or its pieces back into `sub_batches`. Meanwhile it keeps the messages of all of
    /// them, the refused and the waiting ones, ours.
    pub(super) async fn follow_up(
        &self,
        mut sub_batch: SubBatch<S::Item>,
        result: BatchResult,
        sub_batches: &mut VecDeque<SubBatch<S::Item>>,
        waiting: &[Delivered],
        progress: &mut Progress,
        stop: &CancellationToken,
    ) {
        let count = sub_batch.messages.len();
        progress.too_much += u32::from(matches!(result, BatchResult::TooMuch(_)));
        match result {
            BatchResult::Each(results) => {
                let results = results.into_iter().map(|result| result.map(|()| Taken::Now)).collect();
                self.follow_up_each(sub_batch, results, sub_batches, waiting, progress, stop).await;
            }
            BatchResult::Told(results) => {
                self.follow_up_each(sub_batch, results, sub_batches, waiting, progress, stop).await;
            }
            BatchResult::AlreadyThere => {
                (progress.failures, progress.too_much) = (0, 0);
                self.settle_known(&sub_batch).await;
            }
            // An earlier call may have had the effect that this one refuses. So look it up before anything is given up,
            // and before the batch becomes others, which the receiver does not know again.
            BatchResult::Whole(fault @ Fault { class: FaultClass::Poison(_), .. })
                if sub_batch.effect == Effect::Possible && !sub_batch.batch.is_suspect() =>
            {
                self.doubt(&mut sub_batch, &fault, sub_batches, waiting, progress, stop).await;
                sub_batches.push_front(sub_batch);
            }
            BatchResult::Whole(Fault { class: FaultClass::Poison(_), effect, .. }) if count > 1 => {
                if effect == Effect::Possible {
                    sub_batch.batch.suspect();
                }
                progress.put_back(sub_batch.halves(), sub_batches);
            }
            BatchResult::Whole(fault @ Fault { class: FaultClass::Poison(_), .. }) => {
                let pause = self.settle_each(sub_batch, vec![Err(fault)], progress).await;
                progress.pause = progress.pause.max(pause);
            }
            BatchResult::TooMuch(fault) if progress.too_much >= CUT_AT && may_be_cut(&sub_batch) => {
                self.doubt(&mut sub_batch, &fault, sub_batches, waiting, progress, stop).await;
                sub_batch.cut().into_iter().rev().for_each(|half| sub_batches.push_front(half));
            }
            BatchResult::Whole(fault) | BatchResult::TooMuch(fault) => {
                progress.failures += 1;
                sub_batch.effect = sub_batch.effect.max(fault.effect);
                let wait = self.pause_after(&fault, progress.failures);
                let held = all_of(&sub_batch, sub_batches, waiting, &progress.refused);
                while_held(&held, self.subscription.ack_wait, rest_for(wait, stop)).await;
                sub_batches.push_front(sub_batch);
            }
        }
    }

    /// Settles each item of `sub_batch` after its own result, if there are as many.
    async fn follow_up_each(
        &self,
        mut sub_batch: SubBatch<S::Item>,
        results: Vec<Result<Taken, Fault>>,
        sub_batches: &mut VecDeque<SubBatch<S::Item>>,
        waiting: &[Delivered],
        progress: &mut Progress,
        stop: &CancellationToken,
    ) {
        let count = sub_batch.messages.len();
        if results.len() != count {
            let fault = Fault::broken(miscounted("the sink", results.len(), count)).with_effect(Effect::Possible);
            self.doubt(&mut sub_batch, &fault, sub_batches, waiting, progress, stop).await;
            return sub_batches.push_front(sub_batch);
        }
        (progress.failures, progress.too_much) = (0, 0);
        let pause = self.settle_each(sub_batch, results, progress).await;
        progress.pause = progress.pause.max(pause);
    }

    /// Makes suspects of the items of `sub_batch`, after a failure that leaves open what became of them. An earlier call
    /// may take effect until the time of a call has passed. Only after that can they be looked up, so it rests first.
    async fn doubt(
        &self,
        sub_batch: &mut SubBatch<S::Item>,
        fault: &Fault,
        sub_batches: &VecDeque<SubBatch<S::Item>>,
        waiting: &[Delivered],
        progress: &mut Progress,
        stop: &CancellationToken,
    ) {
        progress.failures += 1;
        let wait = self.pause_after(fault, progress.failures).max(self.call_timeout);
        let held = all_of(sub_batch, sub_batches, waiting, &progress.refused);
        while_held(&held, self.subscription.ack_wait, rest_for(wait, stop)).await;
        sub_batch.batch.suspect();
    }

    /// Reports a failure of the whole batch. Returns how long to wait before the batch is sent again.
    pub(super) fn pause_after(&self, fault: &Fault, failures: u32) -> Duration {
        self.report(fault);
        self.settler.policy().jittered(Attempt(failures)).max(self.wish_of(fault))
    }

    /// How long the receiver wishes to be left alone.
    pub(super) fn wish_of(&self, fault: &Fault) -> Duration {
        let FaultClass::Transient { retry_after: Some(wish) } = fault.class else { return Duration::ZERO };
        // Honour the sink's own wish up to the time of a call, whatever the policy says: until then the failed call may
        // still take effect.
        wish.min(self.settler.policy().retry_after_max.max(self.call_timeout))
    }
}

fn may_be_cut<T: Payload>(sub_batch: &SubBatch<T>) -> bool {
    sub_batch.messages.len() > 1 && sub_batch.bytes() > CUT_BYTES_MIN
}
