//! What a sink's suite runs on: the sink under test with its receiver, a nats-server, and the real loop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use headrace_runtime::aside::pause::Gate;
use headrace_runtime::broker::Broker;
use headrace_runtime::component::batch::{Batch, Key};
use headrace_runtime::component::sink::{BatchResult, Sink, SinkOptions};
use headrace_runtime::consume::sink::SinkLoop;
use headrace_runtime::fault::Fault;
use headrace_runtime::limit::{BreakerPolicy, Limiter, Limits, Rate};
use headrace_runtime::message::payload::Payload as _;
use headrace_runtime::observe::health::{Health, State};
use headrace_runtime::settle::settler::Settler;

use super::{COMPONENT, POLICY, Workers};
use crate::harness::samples::Sample;
use crate::harness::{DeadLetter, Nats, until};
use crate::standin::server::{Failure, Protocol, Server, When, Which};

/// A breaker that is open for the longest pause, as it is in the product.
const LIMITS: Limits = Limits {
    rate: Rate { per_call: Duration::ZERO, per_event: Duration::ZERO, burst: Duration::ZERO },
    breaker: BreakerPolicy { failures_max: 5, open: POLICY.backoff_max },
};

/// How often a receiver gets an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Once, whatever happens.
    Once,
    /// At least once.
    AtLeastOnce,
}

/// A sink under test with its receiver. A receiver that is a server is a [`ServerCase`] too.
#[async_trait]
pub trait Case: Send + Sync + Sized + 'static {
    /// The sink.
    type Sink: Sink<Item: Sample>;

    /// What it promises its receiver.
    const PROMISE: Promise;

    /// Starts a receiver of its own.
    async fn start() -> Self;
    /// A new sink for that receiver, as a new process would build it.
    fn sink(&self) -> Self::Sink;
    /// The sink's options.
    fn options(&self) -> SinkOptions;
    /// The ids that the receiver holds, in order, including repeats.
    fn received(&self) -> Vec<String>;

    /// Denies us all access until [`Case::mend`].
    async fn break_access(&self);
    /// Grants us access again.
    async fn mend(&self);
    /// Waits for what the receiver does late, such as indexing. The suite calls this where time passes between two
    /// processes, but never after a crash.
    async fn settle_down(&self) {}
}

/// A case whose receiver is a server. The sink talks to a stand-in, or to a proxy in front of the real server, and that
/// fails on command.
pub trait ServerCase: Case {
    /// What the stand-in or proxy speaks.
    type Protocol: Protocol;

    /// The stand-in or proxy.
    fn peer(&self) -> &Server<Self::Protocol>;
    /// Refuses this item for good.
    fn refuse(&self, id: &str);
}

/// A case that can hold a delivery on command, before or after its effect: for ever ([`Failure::Hang`]) or until it is
/// released ([`Failure::Hold`]). Every server can.
pub trait HeldCase: Case {
    /// Holds the next delivery in this way.
    fn hold_next(&self, failure: Failure, when: When);
    /// How many deliveries are still to be held.
    fn holds_left(&self) -> usize;
    /// How many deliveries were held so far.
    fn held(&self) -> usize;
    /// Releases all held deliveries.
    fn release(&self);
}

impl<C: ServerCase> HeldCase for C {
    fn hold_next(&self, failure: Failure, when: When) {
        self.peer().fail_next(1, failure, when, Which::Deliveries);
    }
    fn holds_left(&self) -> usize {
        self.peer().failures_left()
    }
    fn held(&self) -> usize {
        self.peer().held()
    }
    fn release(&self) {
        self.peer().release();
    }
}

/// A sink that panics on a batch with the item `victim`, before it delivers any item.
struct Panicking<S> {
    inner: S,
    victim: Option<String>,
}

#[async_trait]
impl<S: Sink> Sink for Panicking<S> {
    type Item = S::Item;

    async fn check(&self) -> Result<(), Fault> {
        self.inner.check().await
    }

    fn wants(&self, item: &S::Item) -> bool {
        self.inner.wants(item)
    }

    fn key(&self, item: &S::Item) -> Key {
        self.inner.key(item)
    }

    fn suspects_linger(&self) -> Duration {
        self.inner.suspects_linger()
    }

    async fn deliver(&self, batch: &Batch<S::Item>) -> BatchResult {
        if let Some(victim) = &self.victim {
            assert!(batch.items().iter().all(|item| item.value.id() != victim), "panicking on {victim}");
        }
        self.inner.deliver(batch).await
    }
}

/// One nats-server, one receiver, and the sinks that run on them.
pub(super) struct Testbed<C> {
    pub(super) nats: Nats,
    pub(super) broker: Broker,
    health: Health,
    pub(super) case: C,
}

pub(super) type ItemOf<C> = <<C as Case>::Sink as Sink>::Item;

impl<C: Case> Testbed<C> {
    pub(super) async fn start() -> Self {
        Self::on(Nats::start().await).await
    }

    pub(super) async fn on(nats: Nats) -> Self {
        Self { broker: nats.broker().await, health: Health::new(), case: C::start().await, nats }
    }

    /// Runs a new sink, as a new process would.
    pub(super) fn run(&self) -> Workers {
        self.run_with(self.case.options().workers, None, LIMITS)
    }

    /// The same, with a sink that panics on the item `victim`.
    pub(super) fn run_panicking(&self, victim: String) -> Workers {
        self.run_with(self.case.options().workers, Some(victim), LIMITS)
    }

    /// The same, with a breaker that stays open for `open`, and with one worker, so that nobody else calls.
    pub(super) fn run_opening_for(&self, open: Duration) -> Workers {
        self.run_with(1, None, Limits { breaker: BreakerPolicy { open, ..LIMITS.breaker }, ..LIMITS })
    }

    fn run_with(&self, count: usize, victim: Option<String>, limits: Limits) -> Workers {
        let options = self.case.options();
        let settler = Settler::new(COMPONENT, &self.broker, POLICY, self.health.register(COMPONENT));
        let sink = SinkLoop {
            broker: self.broker.clone(),
            subscription: options.subscription(COMPONENT, ItemOf::<C>::STREAM),
            sink: Panicking { inner: self.case.sink(), victim },
            batching: options.batching,
            call_timeout: options.call_timeout,
            limiter: Limiter::new(COMPONENT, &limits),
            settler,
            gate: Gate::default(),
        };
        let sink = Arc::new(sink);
        Workers::run(count, move |stop| {
            let sink = Arc::clone(&sink);
            async move { sink.run_worker(stop).await }
        })
    }

    /// Publishes samples and returns their ids.
    pub(super) async fn publish(&self, numbers: std::ops::Range<u16>) -> Vec<String> {
        let samples: Vec<ItemOf<C>> = numbers.map(ItemOf::<C>::sample).collect();
        self.nats.publish_all(samples.iter().map(Sample::message)).await;
        samples.iter().map(|sample| sample.id().to_owned()).collect()
    }

    pub(super) async fn settled(&self) {
        self.nats.settled(ItemOf::<C>::STREAM, COMPONENT).await;
    }

    /// Runs the sink until the first sample is delivered, so that the case meets a sink at work.
    pub(super) async fn at_work(&self) -> (Workers, Vec<String>) {
        let workers = self.run();
        let ids = self.publish(0..1).await;
        self.settled().await;
        (workers, ids)
    }

    /// Checks that the receiver has all of `ids` and nothing else, and none twice if the sink promises that.
    pub(super) fn assert_received(&self, ids: &[String]) {
        let counts = counts(self.case.received());
        let received: BTreeSet<&String> = counts.keys().collect();
        assert_eq!(received, ids.iter().collect::<BTreeSet<_>>(), "what was published is what was received");
        if C::PROMISE == Promise::Once {
            assert!(counts.values().all(|count| *count == 1), "received more than once: {counts:?}");
        }
    }

    pub(super) fn assert_no_repeats(&self) {
        let counts = counts(self.case.received());
        assert!(counts.values().all(|count| *count == 1), "received more than once without need: {counts:?}");
    }

    pub(super) async fn assert_nothing_dead(&self) {
        let dead = self.nats.dead_letters().await;
        assert!(dead.is_empty(), "dead-lettered: {dead:#?}");
    }

    /// Waits until health is green. Health changes only after the last acknowledgement.
    pub(super) async fn turns_green(&self) {
        until("health turns green", || self.state() == Some(State::Healthy)).await;
    }

    pub(super) fn state(&self) -> Option<State> {
        self.health.snapshot().remove(COMPONENT)
    }
}

fn counts(ids: Vec<String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    ids.into_iter().for_each(|id| *counts.entry(id).or_default() += 1);
    counts
}

pub(super) fn dead_ids(dead_letters: &[DeadLetter], reason: &str) -> BTreeSet<String> {
    dead_letters
        .iter()
        .filter(|dead_letter| dead_letter.reason == reason)
        .map(|dead_letter| dead_letter.id.clone())
        .collect()
}
