//! Tracks the open connections, and decides which one to cut off when there are too many. The first to go is a client
//! that has not said who it is, then one that asks nothing, then one that is still sending its statement. Among equals,
//! the one that has been in its state for longest goes first. A connection whose statement runs or waits for its place
//! must never be cut off.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The pause between two attempts to cut a connection off.
const CUT_EVERY: Duration = Duration::from_millis(100);

/// What a connection is doing, in the order in which connections are cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// The client has shown no password yet.
    Stranger,
    /// Between two requests.
    Idle,
    /// A request is on its way and has no place yet.
    Sending,
    /// A statement runs, waits for its place, or is being answered.
    Busy,
}

/// All connections.
#[derive(Debug)]
pub(super) struct Connections {
    places: Arc<Semaphore>,
    open: Mutex<(u64, HashMap<u64, Arc<Shared>>)>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<(State, Instant)>,
    cut: CancellationToken,
}

/// One connection, for as long as it is open.
#[derive(Debug)]
pub(super) struct ConnectionGuard {
    number: u64,
    shared: Arc<Shared>,
    connections: Arc<Connections>,
    _place: OwnedSemaphorePermit,
}

impl Connections {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { places: Arc::new(Semaphore::new(most)), open: Mutex::default() })
    }

    /// Makes room for one more connection, if necessary by cutting another off. Waits while all are busy.
    pub(super) async fn enter(self: &Arc<Self>) -> ConnectionGuard {
        let place = self.place().await;
        let shared =
            Arc::new(Shared { state: Mutex::new((State::Stranger, Instant::now())), cut: CancellationToken::new() });
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.0 += 1;
        let number = open.0;
        open.1.insert(number, Arc::clone(&shared));
        drop(open);
        ConnectionGuard { number, shared, connections: Arc::clone(self), _place: place }
    }

    async fn place(&self) -> OwnedSemaphorePermit {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return place;
        }
        let place = Arc::clone(&self.places).acquire_owned();
        tokio::pin!(place);
        loop {
            self.cut_one();
            // All connections may be busy now. Try again after a while, when one may be idle.
            if let Ok(place) = tokio::time::timeout(CUT_EVERY, &mut place).await {
                return place.expect("the semaphore is never closed");
            }
        }
    }

    fn cut_one(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let first = open.1.values().map(|shared| (shared.state(), shared)).min_by_key(|(state, _)| *state);
        if let Some(((state, _), shared)) = first
            && state != State::Busy
        {
            shared.cut.cancel();
        }
    }
}

impl Shared {
    fn state(&self) -> (State, Instant) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionGuard {
    pub(super) fn set(&self, state: State) {
        *self.shared.state.lock().unwrap_or_else(PoisonError::into_inner) = (state, Instant::now());
    }

    /// Resolves when the connection is to be cut off.
    pub(super) async fn cut(&self) {
        self.shared.cut.cancelled().await;
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.connections.open.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::{Connections, State};

    #[tokio::test(start_paused = true)]
    async fn strangers_go_before_idle_ones_and_busy_ones_stay() {
        let connections = Connections::new(3);
        let (busy, idle, stranger) = (connections.enter().await, connections.enter().await, connections.enter().await);
        busy.set(State::Busy);
        idle.set(State::Idle);
        let mut kept = Vec::new();
        for leaving in [stranger, idle] {
            let leave = async {
                leaving.cut().await;
                drop(leaving);
            };
            let (entered, ()) = tokio::join!(connections.enter(), leave);
            entered.set(State::Busy);
            kept.push(entered);
        }
        assert!(!busy.shared.cut.is_cancelled());
    }
}
