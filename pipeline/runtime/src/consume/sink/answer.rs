//! What follows from a sink's answer for a sub-batch: its items are settled, or it is sent again, whole or in pieces.
//!
//! A sub-batch that is sent again stays in front of the others, so that its messages keep their order.

use std::collections::VecDeque;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{SinkLoop, all_of};
use crate::component::sink::{BatchResult, Sink};
use crate::consume::chain::rest_for;
use crate::consume::hold::while_held;
use crate::consume::sub_batch::SubBatch;
use crate::fault::{DeadReason, Fault, FaultClass};
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
}

impl<S: Sink> SinkLoop<S> {
    /// Settles `sub_batch`, or puts it or its pieces in front of `sub_batches` again. Meanwhile it keeps the messages of
    /// all of them, and the waiting ones, ours.
    pub(super) async fn follow_up(
        &self,
        mut sub_batch: SubBatch<S::Item>,
        result: BatchResult,
        sub_batches: &mut VecDeque<SubBatch<S::Item>>,
        waiting: &[Delivered],
        progress: &mut Progress,
        stop: &CancellationToken,
    ) {
        let ack_wait = self.subscription.ack_wait;
        progress.too_much += u32::from(matches!(result, BatchResult::TooMuch(_)));
        match result {
            BatchResult::Each(results) => {
                (progress.failures, progress.too_much) = (0, 0);
                progress.pause = progress.pause.max(self.settle_each(sub_batch, results).await);
            }
            BatchResult::Whole(Fault { class: FaultClass::Poison(reason), .. }) if sub_batch.messages.len() > 1 => {
                if reason == DeadReason::Panicked {
                    // The sink may have delivered any of them before it panicked.
                    sub_batch.batch.suspect();
                }
                sub_batch.halves().into_iter().rev().for_each(|half| sub_batches.push_front(half));
            }
            BatchResult::Whole(fault @ Fault { class: FaultClass::Poison(_), .. }) => {
                progress.pause = progress.pause.max(self.settle_each(sub_batch, vec![Err(fault)]).await);
            }
            BatchResult::TooMuch(fault) if progress.too_much >= CUT_AT && may_be_cut(&sub_batch) => {
                progress.failures += 1;
                // An earlier call may take effect until the time of a call has passed. Only after that can the halves
                // be looked up.
                let wait = self.pause_after(&fault, progress.failures).max(self.call_timeout);
                while_held(&all_of(&sub_batch, sub_batches, waiting), ack_wait, rest_for(wait, stop)).await;
                sub_batch.batch.suspect();
                sub_batch.cut().into_iter().rev().for_each(|half| sub_batches.push_front(half));
            }
            BatchResult::Whole(fault) | BatchResult::TooMuch(fault) => {
                progress.failures += 1;
                let wait = self.pause_after(&fault, progress.failures);
                while_held(&all_of(&sub_batch, sub_batches, waiting), ack_wait, rest_for(wait, stop)).await;
                sub_batches.push_front(sub_batch);
            }
        }
    }

    /// Reports a failure of the whole batch. Returns how long to wait before the batch is sent again.
    pub(super) fn pause_after(&self, fault: &Fault, failures: u32) -> Duration {
        self.report(fault);
        let policy = self.settler.policy();
        let wish = match fault.class {
            FaultClass::Transient { retry_after: Some(wish) } => wish,
            _ => Duration::ZERO,
        };
        // Honour the sink's own wish up to the time of a call, even beyond `backoff_max`: until then the failed call
        // may still take effect.
        policy.backoff(Attempt(failures)).max(wish.min(policy.backoff_max.max(self.call_timeout)))
    }
}

fn may_be_cut<T: Payload>(sub_batch: &SubBatch<T>) -> bool {
    sub_batch.messages.len() > 1 && sub_batch.bytes() > CUT_BYTES_MIN
}
