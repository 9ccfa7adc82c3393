//! What a process may hold in memory: one budget, divided among its holders at the start.
//!
//! Each worker of a chain or a sink, the gateway and each source that is asked is a holder. It has an [`Account`] of its
//! own and takes nothing beyond it, so none can use up another's room: a sink whose receiver is away for a day holds
//! what is its own, and everybody else goes on.
//!
//! Nobody waits for ever for room:
//!
//! * What a request to the broker may bring is set aside once, when the budget is divided ([`Share`]). A request is open
//!   nearly all the time, so this room could serve nobody else anyway.
//! * What is read for a portion of these messages (bodies, decoded values, a call's buffers) is taken at once, before
//!   anything is read, and given back at once when the portion is settled. Who holds such room never takes more.
//! * So a take waits only for holders that wait for no room. Only the workers of a chain share an account, and they
//!   wait for the broker alone. A worker of a sink has all the room that it may ever take for itself.
//! * A take asks for no more than its account has. So the largest body is always read, alone if need be.
//!
//! [`divide`] has the arithmetic, [`limit`] what the machine allows.

pub mod config;
pub mod divide;
pub mod limit;

use std::sync::Arc;

use metrics::{Gauge, Histogram, gauge, histogram};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::observe::metrics::{HELD_BYTES, HELD_BYTES_MAX, MEMORY_BUDGET, MEMORY_WAIT_SECONDS, seconds};

/// What a message takes besides its bytes: its headers as a map, and what is known of its delivery. Measured: 2.6 KB with
/// the headers of a GitHub delivery.
pub const MESSAGE_BYTES: usize = 3 << 10;
/// How often a stage has a body in memory that the broker keeps apart: whole, and either in the pieces that it comes in or
/// decoded from a form.
pub const BODY_COPIES_READ: usize = 2;
/// How often a sink has it: whole, as a row, and as that row is sent.
pub const BODY_COPIES_DELIVERED: usize = 3;

/// How much one holder may hold. Cheap to clone; all clones are one account.
#[derive(Clone)]
pub struct Account {
    room: Arc<Semaphore>,
    size: usize,
    held: Gauge,
    waited: Histogram,
}

/// Bytes that are held; given back when it is dropped, also by who is cut off.
pub struct Held {
    room: Option<OwnedSemaphorePermit>,
    bytes: usize,
    gauge: Gauge,
}

impl Account {
    /// An account of `size` bytes for `component`.
    #[must_use]
    pub fn new(component: &str, size: usize) -> Self {
        show_max(component, size);
        Self::of(component, size)
    }

    fn of(component: &str, size: usize) -> Self {
        Self {
            room: Arc::new(Semaphore::new(size.min(Semaphore::MAX_PERMITS))),
            size,
            held: gauge!(HELD_BYTES, "component" => component.to_owned()),
            waited: histogram!(MEMORY_WAIT_SECONDS, "component" => component.to_owned()),
        }
    }

    /// Takes `bytes`, at once or not at all.
    #[must_use]
    pub fn try_take(&self, bytes: u32) -> Option<Held> {
        let room = Arc::clone(&self.room).try_acquire_many_owned(bytes).ok()?;
        Some(self.count(Some(room), bytes as usize))
    }

    /// Takes `bytes`, and waits for them in turn. It waits for ever if the account never has so many.
    pub async fn take(&self, bytes: u32) -> Held {
        if let Some(held) = self.try_take(bytes) {
            return held;
        }
        let began = Instant::now();
        let room = Arc::clone(&self.room).acquire_many_owned(bytes).await;
        self.waited.record(seconds(began.elapsed()));
        self.count(room.ok(), bytes as usize)
    }

    /// Takes `bytes`, or all that the account has if it has less.
    pub async fn take_at_most(&self, bytes: usize) -> Held {
        self.take(u32::try_from(bytes.min(self.size)).unwrap_or(u32::MAX)).await
    }

    /// Counts bytes that were set aside already.
    #[must_use]
    pub fn note(&self, bytes: usize) -> Held {
        self.count(None, bytes)
    }

    fn count(&self, room: Option<OwnedSemaphorePermit>, bytes: usize) -> Held {
        self.held.increment(bytes as f64);
        Held { room, bytes, gauge: self.held.clone() }
    }
}

/// Shows the budget of this process.
pub fn show_budget(bytes: usize) {
    gauge!(MEMORY_BUDGET).set(bytes as f64);
}

/// Shows the most that `component` may hold.
fn show_max(component: &str, bytes: usize) {
    gauge!(HELD_BYTES_MAX, "component" => component.to_owned()).set(bytes as f64);
}

impl Held {
    /// How many bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds what `other` holds.
    pub fn merge(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
        match (&mut self.room, other.room.take()) {
            (Some(own), Some(room)) => own.merge(room),
            (own @ None, room) => *own = room,
            (Some(_), None) => {}
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gauge.decrement(self.bytes as f64);
    }
}

/// What one worker on a stream may hold.
#[derive(Clone)]
pub struct Share {
    /// The most messages that a request may bring.
    pub messages_max: usize,
    /// The most bytes that a request may bring, apart from [`MESSAGE_BYTES`] for each message.
    pub bytes_max: usize,
    /// The most that is read at once for several messages. What is larger is read alone.
    pub portion_max: usize,
    /// The most that is taken for one portion.
    pub take_max: usize,
    /// Where it is taken from.
    pub account: Account,
}

impl Share {
    /// A share without bounds, for a component that is run by itself.
    #[must_use]
    pub fn unbounded(component: &str) -> Self {
        let max = usize::MAX;
        let account = Account::of(component, Semaphore::MAX_PERMITS);
        Self { messages_max: max, bytes_max: max, portion_max: max, take_max: max, account }
    }

    /// Takes what reading a portion of `bytes` needs.
    pub async fn take(&self, bytes: usize) -> Held {
        self.account.take_at_most(bytes.min(self.take_max)).await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn an_account_gives_what_it_has_in_turn_and_gets_it_back() {
        let account = Account::new("normalize", 100);
        let mut first = account.take(60).await;
        let mut second = Box::pin(account.take_at_most(1_000));
        assert!(second.as_mut().now_or_never().is_none(), "it waits for all of the account");
        assert!(account.try_take(1).is_none(), "who comes later does not overtake it");
        first.merge(account.note(7));
        assert_eq!(first.bytes(), 67);
        drop(first);
        let second = second.await;
        assert_eq!((second.bytes(), account.room.available_permits()), (100, 0));
        drop(second);
        assert_eq!(account.room.available_permits(), 100);
    }

    #[tokio::test]
    async fn who_gives_up_waiting_keeps_nothing() {
        let account = Account::new("ingest", 10);
        let held = account.take(8).await;
        let mut waiting = Box::pin(account.take(9));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(waiting);
        assert!(account.try_take(2).is_some());
        drop(held);
        assert_eq!(account.room.available_permits(), 10);
    }

    #[tokio::test]
    async fn a_share_without_bounds_gives_everything() {
        let share = Share::unbounded("splunk");
        let (first, second) = (share.take(usize::MAX).await, share.take(usize::MAX).await);
        assert_eq!((first.bytes(), second.bytes()), (u32::MAX as usize, u32::MAX as usize));
    }
}
