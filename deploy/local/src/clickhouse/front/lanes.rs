//! Who may use the engine now. Inserts, other statements, and those of the user who only reads have places of their own, so
//! that none holds up another; each has a bounded queue, and what does not fit is refused at once. A request gets none of
//! this before its statement is there: who sends half of one holds nothing but its connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Limits;
use super::failure::Failure;
use super::users::Role;

/// What a statement is, as far as places go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Everything but an insert with data.
    Query,
    /// An insert with data.
    Insert,
}

/// All lanes.
pub(super) struct Lanes {
    queries: Lane,
    inserts: Lane,
    reads: Lane,
}

/// A lane, and the door before it: a thread reads each statement, and says only then which lane it takes.
struct Lane {
    what: &'static str,
    running_max: usize,
    waiting_max: usize,
    door: Arc<Semaphore>,
    running: Arc<Semaphore>,
    admitted: Arc<Semaphore>,
    waiting: AtomicUsize,
    wait_max: Duration,
}

/// A place in a lane, given back on drop.
pub(super) struct Place {
    _running: OwnedSemaphorePermit,
    _admitted: OwnedSemaphorePermit,
}

impl Lanes {
    pub(super) fn new(limits: &Limits) -> Self {
        let lane = |what, running_max| Lane::new(what, running_max, limits.waiting_max, limits.wait_max);
        Self {
            queries: lane("queries", limits.queries_max),
            inserts: lane("inserts", limits.inserts_max),
            reads: lane("queries of the user reader", limits.reads_max),
        }
    }

    /// Lets a request in, to have its statement read on a thread. Held until its statement has ended. `kind` is what its
    /// beginning looks like.
    pub(super) fn admit(&self, role: Role, kind: Kind) -> Result<OwnedSemaphorePermit, Failure> {
        let lane = self.lane(role, kind);
        Arc::clone(&lane.door).try_acquire_owned().map_err(|_| lane.saturated())
    }

    /// Waits for a place, on a thread that may block.
    pub(super) fn enter(&self, role: Role, kind: Kind, runtime: &Handle) -> Result<Place, Failure> {
        self.lane(role, kind).enter(runtime)
    }

    /// Whether somebody waits for what a request of this kind holds.
    pub(super) fn is_short(&self, role: Role, kind: Kind) -> bool {
        let lane = self.lane(role, kind);
        lane.waiting.load(Ordering::Relaxed) > 0 || lane.door.available_permits() == 0
    }

    fn lane(&self, role: Role, kind: Kind) -> &Lane {
        match (role, kind) {
            (Role::Reader, _) => &self.reads,
            (Role::Writer, Kind::Query) => &self.queries,
            (Role::Writer, Kind::Insert) => &self.inserts,
        }
    }
}

impl Lane {
    fn new(what: &'static str, running_max: usize, waiting_max: usize, wait_max: Duration) -> Self {
        let admitted_max = running_max + waiting_max;
        Self {
            what,
            running_max,
            waiting_max,
            // One more than the lane takes, so that the lane itself says how many are too many.
            door: Arc::new(Semaphore::new(admitted_max + 1)),
            running: Arc::new(Semaphore::new(running_max)),
            admitted: Arc::new(Semaphore::new(admitted_max)),
            waiting: AtomicUsize::new(0),
            wait_max,
        }
    }

    fn saturated(&self) -> Failure {
        Failure::saturated(self.what, self.running_max, self.waiting_max)
    }

    fn enter(&self, runtime: &Handle) -> Result<Place, Failure> {
        let admitted = Arc::clone(&self.admitted).try_acquire_owned().map_err(|_| self.saturated())?;
        let running = Arc::clone(&self.running).acquire_owned();
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let running = runtime.block_on(async { tokio::time::timeout(self.wait_max, running).await });
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let running = running.map_err(|_| self.saturated())?.expect("the semaphore is never closed");
        Ok(Place { _running: running, _admitted: admitted })
    }
}
