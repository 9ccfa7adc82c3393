//! Who may use the engine now. Reads and inserts have places of their own, so that slow reads never hold up an insert;
//! each kind has a bounded queue, and what does not fit is refused at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::failure::Failure;

/// What a statement is, as far as places go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Everything but an insert with data.
    Query,
    /// An insert with data.
    Insert,
}

/// Both lanes, and the door before them: until a statement is read, nobody knows which lane it takes.
pub(super) struct Lanes {
    requests_max: usize,
    door: Arc<Semaphore>,
    queries: Lane,
    inserts: Lane,
}

struct Lane {
    what: &'static str,
    running_max: usize,
    waiting_max: usize,
    running: Arc<Semaphore>,
    admitted: Arc<Semaphore>,
    wait_max: Duration,
}

/// A place in a lane, given back on drop.
pub(super) struct Place {
    _running: OwnedSemaphorePermit,
    _admitted: OwnedSemaphorePermit,
}

impl Lanes {
    pub(super) fn new(queries_max: usize, inserts_max: usize, waiting_max: usize, wait_max: Duration) -> Self {
        // All that both lanes may hold, so that one lane alone can never close the door to the other.
        let requests_max = queries_max + inserts_max + 2 * waiting_max;
        Self {
            requests_max,
            door: Arc::new(Semaphore::new(requests_max)),
            queries: Lane::new("queries", queries_max, waiting_max, wait_max),
            inserts: Lane::new("inserts", inserts_max, waiting_max, wait_max),
        }
    }

    /// Lets a request in, to have its statement read on a thread. Held until its statement has ended.
    pub(super) fn admit(&self) -> Result<OwnedSemaphorePermit, Failure> {
        let refused = |_| Failure::saturated("requests", self.requests_max, 0);
        Arc::clone(&self.door).try_acquire_owned().map_err(refused)
    }

    /// Waits for a place, on a thread that may block.
    pub(super) fn enter(&self, kind: Kind, runtime: &Handle) -> Result<Place, Failure> {
        match kind {
            Kind::Query => self.queries.enter(runtime),
            Kind::Insert => self.inserts.enter(runtime),
        }
    }
}

impl Lane {
    fn new(what: &'static str, running_max: usize, waiting_max: usize, wait_max: Duration) -> Self {
        Self {
            what,
            running_max,
            waiting_max,
            running: Arc::new(Semaphore::new(running_max)),
            admitted: Arc::new(Semaphore::new(running_max + waiting_max)),
            wait_max,
        }
    }

    fn enter(&self, runtime: &Handle) -> Result<Place, Failure> {
        let saturated = || Failure::saturated(self.what, self.running_max, self.waiting_max);
        let admitted = Arc::clone(&self.admitted).try_acquire_owned().map_err(|_| saturated())?;
        let running = Arc::clone(&self.running).acquire_owned();
        let running = runtime
            .block_on(async { tokio::time::timeout(self.wait_max, running).await })
            .map_err(|_| saturated())?
            .expect("the semaphore is never closed");
        Ok(Place { _running: running, _admitted: admitted })
    }
}
