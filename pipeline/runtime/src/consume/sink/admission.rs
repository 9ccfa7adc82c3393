//! Lets calls wait until their receiver may be called, and tells the limiter what came of them.

use tokio_util::sync::CancellationToken;

use super::SinkLoop;
use crate::component::sink::{BatchResult, Sink};
use crate::consume::sub_batch::SubBatch;
use crate::every::rest_for;
use crate::fault::{DeadReason, Effect, Fault, FaultClass};
use crate::limit::{Answer, Pass};
use crate::settle::Outcome;

impl<S: Sink> SinkLoop<S> {
    /// Waits until messages may be taken. Returns false when `stop` was cancelled.
    ///
    /// While the breaker is open a worker takes none, so that other processes get them, which may reach the receiver.
    pub(super) async fn may_take(&self, stop: &CancellationToken) -> bool {
        while !stop.is_cancelled() {
            self.await_gate(stop).await;
            tokio::select! {
                () = self.limiter.ready() => {}
                () = stop.cancelled() => {}
            }
            // It may have been paused meanwhile.
            if self.gate.paused_since(stop).await.is_none() {
                break;
            }
        }
        !stop.is_cancelled()
    }

    /// Waits while a person has the sink paused, and then until the receiver accepts us.
    pub(super) async fn await_gate(&self, stop: &CancellationToken) {
        let Some(since) = self.gate.paused_since(stop).await else { return };
        self.settler.health.paused(format!("since {since}, by `headrace sinks pause`"));
        self.gate.opened(stop).await;
        self.await_receiver(stop).await;
    }

    /// Waits until the receiver accepts us. Nothing is taken from the stream before that.
    pub(super) async fn await_receiver(&self, stop: &CancellationToken) {
        let mut failures = 0;
        while !stop.is_cancelled()
            && let Some(pass) = self.admitted(0, stop).await
        {
            let checked = self.check().await;
            pass.answered(self.told_by_check(&checked));
            match checked {
                Ok(()) => return self.settler.health.healthy(),
                Err(fault) => {
                    failures += 1;
                    rest_for(self.pause_after(&fault, failures), stop).await;
                }
            }
        }
    }

    /// Waits until a call with `events` events may be made. `None` when `stop` is cancelled and the call would have to
    /// wait.
    pub(super) async fn admitted(&self, events: usize, stop: &CancellationToken) -> Option<Pass> {
        tokio::select! {
            biased;
            pass = self.limiter.admit(events) => Some(pass),
            () = stop.cancelled() => None,
        }
    }

    /// The same for a sub-batch. After a failure it does not begin again once `stop` is cancelled.
    pub(super) async fn admitted_again(
        &self,
        sub_batch: &SubBatch<S::Item>,
        failures: u32,
        stop: &CancellationToken,
    ) -> Option<Pass> {
        if stop.is_cancelled() && failures > 0 {
            return None;
        }
        self.admitted(sub_batch.messages.len(), stop).await
    }

    /// Gives a sub-batch back because of a shutdown, after so many failures.
    pub(super) async fn leave(&self, sub_batch: &SubBatch<S::Item>, failures: u32) {
        if failures == 0 && sub_batch.effect == Effect::None {
            return self.give_back(&sub_batch.messages, || Outcome::Interrupted).await;
        }
        // A call without a clear answer may take effect until its time has passed. Until then no other process can
        // believe a look-up.
        let wait = self.call_timeout + self.broker.clock_skew();
        self.give_back(&sub_batch.messages, || Outcome::NotYet { wait }).await;
    }

    /// What a call tells of its receiver, if anything.
    pub(super) fn told_by(&self, result: &BatchResult) -> Option<Answer> {
        match result {
            BatchResult::Whole(fault) | BatchResult::TooMuch(fault) => self.told_by_fault(fault),
            // It answered, whatever it says of single items.
            BatchResult::Each(_) | BatchResult::Told(_) | BatchResult::AlreadyThere => Some(Answer::WORKS),
        }
    }

    /// The same, of a check.
    fn told_by_check(&self, checked: &Result<(), Fault>) -> Answer {
        checked.as_ref().err().and_then(|fault| self.told_by_fault(fault)).unwrap_or(Answer::WORKS)
    }

    fn told_by_fault(&self, fault: &Fault) -> Option<Answer> {
        let wish = self.wish_of(fault);
        let works = match fault.class {
            // The sink did not come to ask it.
            FaultClass::Poison(DeadReason::Panicked) => return None,
            FaultClass::Poison(_) => true,
            // It says when, and that it did nothing: a busy receiver (429) is in order. Without a clear answer it may be
            // a proxy that says so.
            FaultClass::Transient { retry_after: Some(_) } => fault.effect == Effect::None,
            FaultClass::Transient { retry_after: None } | FaultClass::Broken => false,
        };
        Some(Answer { works, wish })
    }

    /// Asks the receiver whether it is in order, unless no call is made.
    pub(super) async fn ask(&self) -> Result<(), Fault> {
        if self.limiter.open_until().is_some() {
            return Err(Fault::transient(anyhow::anyhow!("the receiver is not asked, because calls to it fail")));
        }
        self.check().await
    }
}
