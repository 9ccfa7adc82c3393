//! Decides who may use the engine now. Inserts, other statements, and statements of the user who only reads have
//! separate places, so that none holds up another. Each kind has a bounded queue, and a request that does not fit is
//! refused at once. A request must not get a place before its statement has arrived: a client that sends half a
//! statement holds only its connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::ServerLimits;
use super::failure::Failure;
use super::users::Role;

/// The kind of a statement. Each kind has places of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Everything but an insert with data.
    Query,
    /// An insert with data.
    Insert,
}

/// All queues.
pub(super) struct Admission {
    queries: Queue,
    inserts: Queue,
    reads: Queue,
}

/// A queue, and a door in front of it. The door bounds how many requests have a thread. A thread must first read the
/// statement to know the statement's queue.
struct Queue {
    what: &'static str,
    running_max: usize,
    waiting_max: usize,
    door: Arc<Semaphore>,
    running: Arc<Semaphore>,
    admitted: Arc<Semaphore>,
    waiting: AtomicUsize,
    wait_max: Duration,
}

/// A place in a queue. Dropping it gives the place back.
pub(super) struct Permit {
    _running: OwnedSemaphorePermit,
    _admitted: OwnedSemaphorePermit,
}

impl Admission {
    pub(super) fn new(limits: &ServerLimits) -> Self {
        let queue = |what, running_max| Queue::new(what, running_max, limits.waiting_max, limits.wait_max);
        Self {
            queries: queue("queries", limits.queries_max),
            inserts: queue("inserts", limits.inserts_max),
            reads: queue("queries of the user reader", limits.reads_max),
        }
    }

    /// Admits a request, so that a thread may read its statement. The caller holds the permit until the statement has
    /// ended. `kind` is a guess from the beginning of the request.
    pub(super) fn admit(&self, role: Role, kind: Kind) -> Result<OwnedSemaphorePermit, Failure> {
        let queue = self.queue(role, kind);
        Arc::clone(&queue.door).try_acquire_owned().map_err(|_| queue.saturated())
    }

    /// Waits for a place, on a thread that may block.
    pub(super) fn enter(&self, role: Role, kind: Kind, runtime: &Handle) -> Result<Permit, Failure> {
        self.queue(role, kind).enter(runtime)
    }

    /// Whether other requests wait for a place of this kind.
    pub(super) fn is_short(&self, role: Role, kind: Kind) -> bool {
        let queue = self.queue(role, kind);
        queue.waiting.load(Ordering::Relaxed) > 0 || queue.door.available_permits() == 0
    }

    fn queue(&self, role: Role, kind: Kind) -> &Queue {
        match (role, kind) {
            (Role::Reader, _) => &self.reads,
            (Role::Writer, Kind::Query) => &self.queries,
            (Role::Writer, Kind::Insert) => &self.inserts,
        }
    }
}

impl Queue {
    fn new(what: &'static str, running_max: usize, waiting_max: usize, wait_max: Duration) -> Self {
        let admitted_max = running_max + waiting_max;
        Self {
            what,
            running_max,
            waiting_max,
            // One more than the queue takes, so that the queue itself refuses the request that is too many.
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

    fn enter(&self, runtime: &Handle) -> Result<Permit, Failure> {
        let admitted = Arc::clone(&self.admitted).try_acquire_owned().map_err(|_| self.saturated())?;
        let running = Arc::clone(&self.running).acquire_owned();
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let running = runtime.block_on(async { tokio::time::timeout(self.wait_max, running).await });
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let running = running.map_err(|_| self.saturated())?.expect("the semaphore is never closed");
        Ok(Permit { _running: running, _admitted: admitted })
    }
}
