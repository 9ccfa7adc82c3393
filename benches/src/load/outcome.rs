//! What became of the deliveries of a load: the counts so far, and the final outcome.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;

/// What became of the deliveries so far.
#[derive(Default)]
pub(crate) struct Counts {
    pub(super) sent: AtomicU64,
    pub(super) accepted: AtomicU64,
    pub(super) repeated: AtomicU64,
    pub(super) aged: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) broken: AtomicU64,
    /// Refusals by status and reason.
    pub(super) refused_by: Mutex<BTreeMap<String, u64>>,
    pub(super) last_problem: Mutex<Option<String>>,
}

impl Counts {
    /// Answered with a 2xx.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Answered with a 2xx, and not for the first time.
    pub(super) fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }

    /// Answered with anything else.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Not answered.
    pub(super) fn broken(&self) -> u64 {
        self.broken.load(Ordering::Relaxed)
    }
}

/// What became of all deliveries.
pub(crate) struct Outcome {
    /// Deliveries that the load began to send.
    pub(crate) sent: u64,
    /// Answered with a 2xx.
    pub(crate) accepted: u64,
    /// Those of them that were accepted before under the same id: they make no row.
    pub(crate) repeated: u64,
    /// Those of them whose ids are of an earlier time and that were never sent before.
    pub(crate) aged: u64,
    /// Answered with anything else.
    pub(crate) refused: u64,
    /// The refused ones, by status and reason: `503 stream_full`.
    pub(crate) refused_by: BTreeMap<String, u64>,
    /// Not answered.
    pub(crate) broken: u64,
    /// Due but never begun.
    pub(crate) unsent: u64,
    /// Answered with a 2xx within the window.
    pub(crate) accepted_in_window: u64,
    /// The last thing that went wrong.
    pub(crate) last_problem: Option<String>,
    /// Latencies in microseconds, of deliveries that were due within the window.
    pub(crate) latency: Histogram<u64>,
}

impl Outcome {
    /// Says what was lost before the gateway's 2xx, if anything.
    pub(crate) fn loss(&self) -> Option<String> {
        (self.accepted != self.sent || self.unsent > 0).then(|| {
            let Self { sent, accepted, refused, broken, unsent, .. } = self;
            let last = self.last_problem.as_deref().unwrap_or("none noted");
            format!(
                "of {sent} deliveries sent {accepted} were accepted, {refused} refused and {broken} not answered; \
                 {unsent} more were due and never sent (last problem: {last})"
            )
        })
    }
}
