//! Items that the receiver refused one by one, until it is known whether they are to blame or the receiver.
//!
//! They stay ours until then. What proves whom is decided in [`crate::settle::refusals`].

use std::collections::VecDeque;
use std::mem;

use super::SinkLoop;
use super::answer::Progress;
use crate::component::sink::Sink;
use crate::consume::hold::while_held;
use crate::consume::sub_batch::SubBatch;
use crate::fault::{DeadReason, Effect, Fault, FaultClass};
use crate::message::Delivered;
use crate::message::payload::{Identity, Payload};
use crate::retry::Attempt;
use crate::settle::Outcome;
use crate::settle::refusals::Blame;

/// How many items of a batch are tried one by one, from the first, while none is accepted. Then the last is tried too.
/// A receiver that refuses everything would else be asked twice for each item of the batch, at every attempt.
const TRIED_MAX: usize = 16;

/// The broker gives what comes again before what is new. So the consumer rests only for this part of the time after which
/// the refused items come again: all other messages that may be unsettled, four batches, have their turn before. One of
/// them may be accepted.
const TURNS: u32 = 5;

/// An item that was refused alone.
pub(super) struct RefusedItem {
    pub(super) message: Delivered,
    /// The name of its event.
    pub(super) name: String,
    pub(super) fault: Fault,
    /// The refusal proves that the item is to blame.
    pub(super) proven: bool,
}

/// How a refused item is named: as its event is, so that a repetition has the same name.
pub(super) fn name_of<T: Payload>(item: &T) -> String {
    let Identity { tenant, id, .. } = item.identity();
    format!("{tenant}/{id}")
}

impl Progress {
    /// The next sub-batch to deliver; `None` when all are delivered, or so many were refused that the receiver seems to
    /// refuse everything.
    pub(super) fn next<T>(&self, sub_batches: &mut VecDeque<SubBatch<T>>) -> Option<SubBatch<T>> {
        if self.is_searched {
            None
        } else if self.is_at_end() {
            sub_batches.pop_back()
        } else {
            sub_batches.pop_front()
        }
    }

    /// Puts the halves of a sub-batch back, so that the next to deliver is one of them.
    pub(super) fn put_back<T>(&self, halves: [SubBatch<T>; 2], sub_batches: &mut VecDeque<SubBatch<T>>) {
        if self.is_at_end() {
            sub_batches.extend(halves);
        } else {
            halves.into_iter().rev().for_each(|half| sub_batches.push_front(half));
        }
    }

    /// Notes that one more call was followed up. Before it, `refused_before` items had been refused.
    pub(super) const fn note(&mut self, refused_before: usize) {
        self.is_searched |= refused_before >= TRIED_MAX && self.refused.len() > refused_before;
    }

    /// Whether the last item is looked for, because so many of the first were refused.
    const fn is_at_end(&self) -> bool {
        self.refused.len() >= TRIED_MAX
    }
}

impl<S: Sink> SinkLoop<S> {
    /// Settles the refused items if the receiver has accepted another since the batch began.
    pub(super) async fn give_up_proven(&self, progress: &mut Progress) {
        if progress.refused.is_empty() || self.settler.refusals.acceptances() == progress.acceptances {
            return;
        }
        progress.is_searched = false;
        self.judge(progress, VecDeque::new(), &[]).await;
    }

    /// Settles the refused items, of which nobody knows yet who is to blame, and the sub-batches that were not tried any
    /// more. Meanwhile it keeps the waiting messages ours.
    pub(super) async fn judge(
        &self,
        progress: &mut Progress,
        untried: VecDeque<SubBatch<S::Item>>,
        waiting: &[Delivered],
    ) {
        let refused = mem::take(&mut progress.refused);
        let Some(first) = refused.first() else { return };
        let problem = match first.fault.class {
            FaultClass::Poison(DeadReason::Panicked) => "the sink panics on every item: report it",
            _ => {
                "the receiver refuses every item, so no event is to blame and none is given up; check what was changed \
                 there (a table's columns and constraints, an index, a project)"
            }
        };
        let every = format!("{problem}. It says: {}", first.fault);
        let items = refused.iter().map(|item| (item.name.as_str(), item.proven));
        let blames = self.settler.refusals.judge(items, progress.acceptances);
        let (messages, faults): (Vec<Delivered>, Vec<Fault>) =
            refused.into_iter().map(|item| (item.message, item.fault)).unzip();
        let held: Vec<&Delivered> = messages.iter().chain(waiting).collect();
        let asked = match blames.iter().find(|blame| matches!(blame, Blame::ItemUnlessBroken(_))) {
            Some(_) => while_held(&held, self.subscription.ack_wait, self.ask()).await,
            None => Ok(()),
        };
        let broken = || Outcome::Failed(Fault::broken(anyhow::anyhow!(every.clone())));
        let put_off = |times| Outcome::NotYet { wait: self.settler.policy().backoff(times) };
        let is_broken = blames.contains(&Blame::Receiver);
        let (mut outcomes, mut is_clear) = (Vec::with_capacity(messages.len()), !is_broken);
        for (fault, blame) in faults.into_iter().zip(blames) {
            outcomes.push(match (blame, &asked) {
                (Blame::Item, _) | (Blame::ItemUnlessBroken(_), Ok(())) => Outcome::Failed(fault),
                (Blame::Receiver, _) => broken(),
                (Blame::ItemUnlessBroken(times), Err(trouble)) => {
                    is_clear = false;
                    self.report(trouble);
                    put_off(times)
                }
                (Blame::Nobody(times), _) => {
                    is_clear = false;
                    let why = "the receiver refuses an item, which is held back until another shows who is to blame";
                    self.settler.health.degraded(format!("{why}: {fault}"));
                    put_off(times)
                }
            });
        }
        // A call without a clear answer may take effect until its time has passed. No look-up can be believed before.
        let unclear = self.call_timeout + self.broker.clock_skew();
        let again = |untried: &SubBatch<S::Item>| match untried.effect {
            Effect::Possible => Outcome::NotYet { wait: unclear },
            Effect::None if is_broken => broken(),
            Effect::None => put_off(Attempt(1)),
        };
        let untried =
            untried.iter().flat_map(|untried| untried.messages.iter().map(move |message| (message, again(untried))));
        let settled = messages.iter().zip(outcomes).chain(untried).collect();
        let pause = self.settle_ours(settled).await;
        if is_clear && pause.is_none() {
            self.settler.health.healthy();
        }
        progress.pause = progress.pause.max(pause.map(|pause| if is_broken { pause / TURNS } else { pause }));
    }
}
