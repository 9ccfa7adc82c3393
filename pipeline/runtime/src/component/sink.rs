//! Sinks: what a receiver outside looks like to the loop that delivers to it ([`crate::consume::sink`]).
//!
//! A sink answers for each event, or for the batch as a whole when it knows nothing of any single one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::broker::Stream;
use crate::component::batch::{Batch, BatchPolicy, Key};
use crate::component::subscription::Subscription;
use crate::fault::Fault;
use crate::message::payload::Payload;

/// A receiver outside. It classifies failures and never retries, sleeps, acknowledges or spawns.
#[async_trait]
pub trait Sink: Send + Sync + 'static {
    /// What it takes.
    type Item: Payload;

    /// Whether the receiver is reachable and accepts our credentials. It is also asked when the receiver refuses a single
    /// item and nothing else shows who is to blame. So it should look at all that may make the receiver refuse every
    /// item.
    ///
    /// # Errors
    /// Transient when it is away, broken when a person must act.
    async fn check(&self) -> Result<(), Fault>;

    /// Whether `item` is for this sink. Any other item is discarded as filtered, and counted.
    fn wants(&self, _item: &Self::Item) -> bool {
        true
    }

    /// With which others `item` may be delivered: those of the same key. The same item always has the same key. What was
    /// gathered at once is parted by key, so the batch's bounds hold for all keys together.
    fn key(&self, _item: &Self::Item) -> Key {
        Key::default()
    }

    /// How long a few suspects that come with many first deliveries may wait for others, an eighth of the `ack_wait` at most.
    /// It is for receivers that a call with few costs nearly as much as one with many.
    fn suspects_linger(&self) -> Duration {
        Duration::ZERO
    }

    /// Delivers `batch`, which is never empty and has items of one key only.
    async fn deliver(&self, batch: &Batch<Self::Item>) -> BatchResult;
}

/// A sink whose type is not known, only what it takes. All clones are one.
pub struct BoxedSink<T>(Arc<dyn Sink<Item = T>>);

impl<T> Clone for BoxedSink<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Payload> BoxedSink<T> {
    /// Forgets the type of `sink`.
    #[must_use]
    pub fn new(sink: impl Sink<Item = T>) -> Self {
        Self(Arc::new(sink))
    }
}

#[async_trait]
impl<T: Payload> Sink for BoxedSink<T> {
    type Item = T;

    async fn check(&self) -> Result<(), Fault> {
        self.0.check().await
    }

    fn wants(&self, item: &T) -> bool {
        self.0.wants(item)
    }

    fn key(&self, item: &T) -> Key {
        self.0.key(item)
    }

    fn suspects_linger(&self) -> Duration {
        self.0.suspects_linger()
    }

    async fn deliver(&self, batch: &Batch<T>) -> BatchResult {
        self.0.deliver(batch).await
    }
}

/// A sink's answer for a batch.
#[derive(Debug)]
pub enum BatchResult {
    /// One answer for each item, in their order. With fewer or more answers than items, none of them counts.
    Each(Vec<Result<(), Fault>>),
    /// As [`Self::Each`], and some of the effects existed already. An item of which that is so does not show that the
    /// receiver accepts anything.
    Told(Vec<Result<Taken, Fault>>),
    /// The effects of all items exist already, so the receiver was given none of them. This does not show that it would
    /// have accepted any.
    AlreadyThere,
    /// Nothing is known about any single item: the batch failed, or had no clear answer. It is presented again
    /// unchanged. When a batch of several is poison, it is split to find the item that is to blame. Before that its items
    /// become suspects if the effect of a call for them is possible.
    Whole(Fault),
    /// As [`Self::Whole`], and the cause may be the size of the batch or the time that it took. When it happens again
    /// the batch is cut, and its items become suspects.
    TooMuch(Fault),
}

/// How the effect of a delivered item came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The receiver took it now.
    Now,
    /// It was there before, and the receiver was not given the item.
    Before,
}

impl BatchResult {
    /// All `count` items were delivered.
    #[must_use]
    pub fn all(count: usize) -> Self {
        Self::Each((0..count).map(|_| Ok(())).collect())
    }
}

/// How a sink is run: how much at once, how long it may take.
#[derive(Clone, Debug)]
pub struct SinkOptions {
    /// Subjects it reads; empty means all of its items' stream.
    pub filters: Vec<String>,
    /// How its batches grow.
    pub batching: BatchPolicy,
    /// Longest time for one call.
    pub call_timeout: Duration,
    /// How long the broker waits for an acknowledgement, of any kind, before it gives a message to another; at least
    /// twice `call_timeout`.
    pub ack_wait: Duration,
    /// How many batches are gathered or delivered at once, in each process.
    pub workers: usize,
}

impl SinkOptions {
    /// The consumer for these options, for the sink `component` on `stream`.
    #[must_use]
    pub fn subscription(&self, component: &str, stream: Stream) -> Subscription {
        Subscription {
            component: component.to_owned(),
            stream,
            filters: self.filters.clone(),
            ack_wait: self.ack_wait,
            // Room for a few processes to share the work.
            unsettled_max: self.batching.events_max * self.workers * 4,
            sink: None,
        }
    }
}
