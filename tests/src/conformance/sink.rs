//! The suite for sinks. Each case is one test of a sink's `tests/<name>.rs`, by
//! [`sink_conformance!`](crate::sink_conformance).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::{Consumer, pull};
use async_trait::async_trait;
use futures::TryStreamExt as _;
use headrace_local::poll;
use headrace_runtime::batch::Batch;
use headrace_runtime::broker::Broker;
use headrace_runtime::config;
use headrace_runtime::consumer::Lane;
use headrace_runtime::delivery::{Delivery, Sink, SinkLoop, Terms};
use headrace_runtime::fault::Fault;
use headrace_runtime::health::{Health, State};
use headrace_runtime::payload::Payload as _;
use headrace_runtime::settler::Settler;
use tokio::time::sleep;

use super::{COMPONENT, Lanes, POLICY};
use crate::harness::samples::{Sample, unreadable};
use crate::harness::{CEILING, DeadLetter, Nats, streams, until};
use crate::standin::server::{Failure, When, Which};

/// How often a receiver gets an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Once, whatever happens.
    Once,
    /// At least once.
    AtLeastOnce,
}

/// A sink under test with its receiver.
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
    /// The sink's terms.
    fn terms(&self) -> Terms;
    /// Ids that the receiver holds, in order, repeats included.
    fn received(&self) -> Vec<String>;

    /// Makes the receiver fail from the next request on.
    fn fail_next(&self, _times: usize, _failure: Failure, _when: When, _which: Which) {
        panic!("this receiver cannot fail on command");
    }
    /// Requests still to fail.
    fn failures_left(&self) -> usize {
        0
    }
    /// How many requests it has held.
    fn held(&self) -> usize {
        0
    }
    /// Lets held requests go.
    fn release(&self) {}
    /// Refuses this item for good.
    fn refuse(&self, _id: &str) {
        panic!("this receiver refuses no single item");
    }
    /// Takes no connections, until [`Case::up`].
    fn down(&self) {
        panic!("this receiver is no server");
    }
    /// Takes connections again.
    async fn up(&self) {}
    /// Refuses us altogether, until [`Case::mend`].
    async fn break_access(&self);
    /// Takes us again.
    async fn mend(&self);
    /// Waits for what the receiver does late, such as indexing. The suite calls it where time passes
    /// between two processes, and never after a crash.
    async fn settle_down(&self) {}
}

/// A sink that panics on a batch with the item `victim`, before it delivers any.
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

    async fn deliver(&self, batch: &Batch<S::Item>) -> Delivery {
        if let Some(victim) = &self.victim {
            assert!(batch.items().iter().all(|item| item.value.id() != victim), "panicking on {victim}");
        }
        self.inner.deliver(batch).await
    }
}

/// One nats-server, one receiver, and the sinks that run on them.
struct Rig<C> {
    nats: Nats,
    broker: Broker,
    health: Health,
    case: C,
}

type ItemOf<C> = <<C as Case>::Sink as Sink>::Item;

impl<C: Case> Rig<C> {
    async fn start() -> Self {
        Self::on(Nats::start().await).await
    }

    async fn on(nats: Nats) -> Self {
        Self { broker: nats.broker().await, health: Health::new(), case: C::start().await, nats }
    }

    /// Runs a new sink, as a new process would.
    fn run(&self) -> Lanes {
        self.run_panicking(None)
    }

    /// The same with a sink that panics on the item `victim`.
    fn run_panicking(&self, victim: Option<String>) -> Lanes {
        let terms = self.case.terms();
        let settler = Settler::new(COMPONENT, &self.broker, POLICY, self.health.register(COMPONENT));
        let sink = SinkLoop {
            broker: self.broker.clone(),
            subscription: terms.subscription(COMPONENT, ItemOf::<C>::STREAM),
            sink: Panicking { inner: self.case.sink(), victim },
            batching: terms.batching,
            call_timeout: terms.call_timeout,
            settler,
        };
        let sink = Arc::new(sink);
        Lanes::run(terms.lanes, move |stop| {
            let sink = Arc::clone(&sink);
            async move { sink.run_lane(stop).await }
        })
    }

    /// Publishes samples and returns their ids.
    async fn publish(&self, numbers: std::ops::Range<u16>) -> Vec<String> {
        let samples: Vec<ItemOf<C>> = numbers.map(ItemOf::<C>::sample).collect();
        self.nats.publish_all(samples.iter().map(Sample::message)).await;
        samples.iter().map(|sample| sample.id().to_owned()).collect()
    }

    async fn settled(&self) {
        self.nats.settled(ItemOf::<C>::STREAM, COMPONENT).await;
    }

    /// Runs until the first sample is delivered, so that what follows meets a sink at work.
    async fn at_work(&self) -> (Lanes, Vec<String>) {
        let lanes = self.run();
        let ids = self.publish(0..1).await;
        self.settled().await;
        (lanes, ids)
    }

    /// All of `ids` are received, none twice where that is promised, and nothing else is.
    fn assert_received(&self, ids: &[String]) {
        let counts = counts(self.case.received());
        let received: BTreeSet<&String> = counts.keys().collect();
        assert_eq!(received, ids.iter().collect::<BTreeSet<_>>(), "what was published is what was received");
        if C::PROMISE == Promise::Once {
            assert!(counts.values().all(|count| *count == 1), "received more than once: {counts:?}");
        }
    }

    fn assert_no_repeats(&self) {
        let counts = counts(self.case.received());
        assert!(counts.values().all(|count| *count == 1), "received more than once without need: {counts:?}");
    }

    async fn assert_nothing_dead(&self) {
        let dead = self.nats.dead_letters().await;
        assert!(dead.is_empty(), "dead-lettered: {dead:#?}");
    }

    /// The last word on health follows the last acknowledgement.
    async fn turns_green(&self) {
        until("health turns green", || self.state() == Some(State::Healthy)).await;
    }

    fn state(&self) -> Option<State> {
        self.health.snapshot().remove(COMPONENT)
    }
}

fn counts(ids: Vec<String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    ids.into_iter().for_each(|id| *counts.entry(id).or_default() += 1);
    counts
}

fn dead_ids(letters: &[DeadLetter], reason: &str) -> BTreeSet<String> {
    letters.iter().filter(|letter| letter.reason == reason).map(|letter| letter.id.clone()).collect()
}

/// Everything arrives once, is acknowledged, and the component is healthy.
pub async fn success<C: Case>() {
    let rig = Rig::<C>::start().await;
    let lanes = rig.run();
    let ids = rig.publish(0..120).await;
    rig.settled().await;
    rig.assert_received(&ids);
    rig.assert_no_repeats();
    rig.assert_nothing_dead().await;
    rig.turns_green().await;
    lanes.stop().await;
}

/// Messages that nobody can read are dead-lettered, the others arrive.
pub async fn unreadable_messages<C: Case>() {
    let rig = Rig::<C>::start().await;
    rig.nats.publish(unreadable::<ItemOf<C>>(100)).await;
    let ids = rig.publish(0..5).await;
    rig.nats.publish(unreadable::<ItemOf<C>>(101)).await;
    let lanes = rig.run();
    rig.settled().await;
    rig.assert_received(&ids);
    let dead = rig.nats.dead_letters().await;
    assert_eq!(dead_ids(&dead, "malformed").len(), 2, "{dead:#?}");
    lanes.stop().await;
}

/// The receiver refuses several of a batch: those are dead-lettered with its reason, and only those.
pub async fn partial_failure<C: Case>() {
    let rig = Rig::<C>::start().await;
    let mut ids = rig.publish(0..30).await;
    // More than there are attempts: what follows a refused item must not pay for it.
    let refused: BTreeSet<String> = ids.iter().skip(1).step_by(3).cloned().collect();
    refused.iter().for_each(|id| rig.case.refuse(id));
    let lanes = rig.run();
    rig.settled().await;
    ids.retain(|id| !refused.contains(id));
    rig.assert_received(&ids);
    let dead = rig.nats.dead_letters().await;
    assert_eq!(dead.len(), refused.len(), "{dead:#?}");
    assert_eq!(dead_ids(&dead, "rejected"), refused);
    assert!(dead.iter().all(|letter| letter.detail.len() > 20), "a reason in words: {dead:#?}");
    rig.turns_green().await;
    lanes.stop().await;
}

/// One item alone is refused.
pub async fn poison<C: Case>() {
    let rig = Rig::<C>::start().await;
    let (lanes, ids) = rig.at_work().await;
    rig.case.refuse(ItemOf::<C>::sample(1).id());
    let poison = rig.publish(1..2).await;
    rig.settled().await;
    rig.assert_received(&ids);
    let dead = rig.nats.dead_letters().await;
    assert_eq!(dead_ids(&dead, "rejected"), poison.into_iter().collect());
    assert_eq!(dead[0].attempts, "1");
    // It was the last: nothing that is delivered after it says that the receiver works.
    rig.turns_green().await;
    lanes.stop().await;
}

/// The sink panics on one item of many: that one is dead-lettered and names the panic, the others arrive.
pub async fn panics<C: Case>() {
    let rig = Rig::<C>::start().await;
    let mut ids = rig.publish(0..30).await;
    let victim = ids.remove(17);
    let lanes = rig.run_panicking(Some(victim.clone()));
    rig.settled().await;
    rig.assert_received(&ids);
    let dead = rig.nats.dead_letters().await;
    assert_eq!(dead.len(), 1, "{dead:#?}");
    assert_eq!(dead_ids(&dead, "panicked"), BTreeSet::from([victim]));
    assert!(dead[0].detail.contains("the sink panicked: panicking on"), "{dead:#?}");
    lanes.stop().await;
}

/// The receiver is away, in every way that passes by itself, and for longer than there are attempts:
/// that costs no event anything.
pub async fn transient<C: Case>() {
    let rig = Rig::<C>::start().await;
    let (lanes, mut ids) = rig.at_work().await;
    let ways = [
        Failure::Status(503),
        Failure::Status(500),
        Failure::Status(502),
        Failure::StatusAfter(429, 0),
        Failure::Reset,
        Failure::Garbage,
        Failure::Torn,
    ];
    for (number, failure) in (1..).zip(ways) {
        // One item, so that every failure meets it.
        rig.case.fail_next(POLICY.attempts_max as usize + 2, failure, When::Before, Which::Any);
        ids.extend(rig.publish(number..number + 1).await);
        rig.settled().await;
        rig.assert_received(&ids);
        assert_eq!(rig.case.failures_left(), 0, "{failure:?}");
    }
    rig.assert_nothing_dead().await;
    rig.turns_green().await;
    lanes.stop().await;
}

/// The receiver is no longer there, for longer than the broker waits for a word on a message, and later it is again.
pub async fn down<C: Case>() {
    let rig = Rig::<C>::start().await;
    let (lanes, mut ids) = rig.at_work().await;
    rig.case.down();
    ids.extend(rig.publish(1..6).await);
    until("health turns yellow", || matches!(rig.state(), Some(State::Degraded(_)))).await;
    // The time itself is what this is about: however short the single calls and pauses are, the events stay this sink's.
    sleep(rig.case.terms().ack_wait + Duration::from_secs(1)).await;
    let consumed = rig.nats.consumer(ItemOf::<C>::STREAM, COMPONENT).await.expect("it was opened");
    assert!(consumed.unsettled > 0 && consumed.redelivered == 0, "{consumed:?}");
    rig.case.up().await;
    rig.settled().await;
    rig.assert_received(&ids);
    rig.assert_nothing_dead().await;
    lanes.stop().await;

    rig.case.down();
    let lanes = rig.run();
    ids.extend(rig.publish(6..9).await);
    until("health turns yellow from the start", || matches!(rig.state(), Some(State::Degraded(_)))).await;
    rig.case.up().await;
    rig.settled().await;
    rig.assert_received(&ids);
    lanes.stop().await;
}

/// Answers that never come, with and without the effect behind them.
pub async fn timeouts<C: Case>() {
    let rig = Rig::<C>::start().await;
    let (lanes, mut ids) = rig.at_work().await;
    for (number, when) in [(1, When::Before), (2, When::After)] {
        rig.case.fail_next(1, Failure::Hang, when, Which::Deliveries);
        ids.extend(rig.publish(number * 10..number * 10 + 3).await);
        rig.settled().await;
        rig.assert_received(&ids);
        assert_eq!(rig.case.failures_left(), 0, "{when:?}");
    }
    rig.assert_nothing_dead().await;
    lanes.stop().await;
}

/// The answer to a request that had its effect is lost, in every way.
pub async fn lost_answers<C: Case>() {
    let rig = Rig::<C>::start().await;
    let (lanes, mut ids) = rig.at_work().await;
    let ways = [Failure::Reset, Failure::Torn, Failure::Garbage, Failure::Status(502), Failure::Status(504)];
    for (number, failure) in (1..).zip(ways) {
        rig.case.fail_next(1, failure, When::After, Which::Deliveries);
        ids.extend(rig.publish(number * 10..number * 10 + 3).await);
        rig.settled().await;
        rig.assert_received(&ids);
        assert_eq!(rig.case.failures_left(), 0, "{failure:?}");
    }
    rig.assert_nothing_dead().await;
    lanes.stop().await;
}

/// The receiver does not accept us, from the start and then in the middle: health says so, and
/// nothing is lost or dead-lettered, however long it takes.
pub async fn broken<C: Case>() {
    let rig = Rig::<C>::start().await;
    rig.case.break_access().await;
    let mut ids = rig.publish(0..3).await;
    let lanes = rig.run();
    until("health turns red", || matches!(rig.state(), Some(State::Broken(_)))).await;
    rig.case.mend().await;
    rig.settled().await;
    rig.assert_received(&ids);
    rig.turns_green().await;

    rig.case.break_access().await;
    ids.extend(rig.publish(3..6).await);
    until("health turns red again", || matches!(rig.state(), Some(State::Broken(_)))).await;
    rig.case.mend().await;
    rig.settled().await;
    rig.assert_received(&ids);
    rig.assert_nothing_dead().await;
    lanes.stop().await;
}

/// The same items come again, to the same process and to the next.
pub async fn duplicates<C: Case>() {
    let rig = Rig::<C>::start().await;
    let lanes = rig.run();
    let ids = rig.publish(0..10).await;
    rig.settled().await;
    let samples: Vec<ItemOf<C>> = (0..10).map(ItemOf::<C>::sample).collect();
    rig.nats.publish_all(samples.iter().map(Sample::repeated)).await;
    rig.settled().await;
    rig.assert_received(&ids);
    lanes.stop().await;

    let third = samples.iter().map(|sample| {
        let mut message = sample.repeated();
        message.message_id.push_str("/and again");
        message
    });
    rig.nats.publish_all(third).await;
    rig.case.settle_down().await;
    let lanes = rig.run();
    rig.settled().await;
    rig.assert_received(&ids);
    rig.assert_nothing_dead().await;
    lanes.stop().await;
}

/// An event comes again while another process still has the first message of it, and together with an older message
/// that is delivered again: the copy waits for the first.
pub async fn copies<C: Case>() {
    const WINDOW_S: u64 = 4;
    let rig = Rig::<C>::on(Nats::with(config::Streams { duplicate_window_s: WINDOW_S, ..streams() }).await).await;
    let subscription = rig.case.terms().subscription(COMPONENT, ItemOf::<C>::STREAM);
    drop(Lane::open(&rig.broker, &subscription).await.expect("the broker of this test runs"));
    let ids = rig.publish(0..2).await;
    let stream = rig.nats.jetstream().get_stream(ItemOf::<C>::STREAM.name()).await.expect("it was made");
    let other: Consumer<pull::Config> = stream.get_consumer(COMPONENT).await.expect("it was opened");
    let held = other.fetch().max_messages(2).messages().await.expect("the broker of this test runs");
    let held: Vec<_> = held.try_collect().await.expect("two messages wait");
    let [older, first] = &held[..] else { panic!("expected two messages, found {}", held.len()) };

    // The broker drops what comes again sooner; time itself is what this case is about.
    for _ in 0..WINDOW_S {
        sleep(Duration::from_secs(1)).await;
        for message in &held {
            message.ack_with(AckKind::Progress).await.expect("connected");
        }
    }
    rig.nats.publish(ItemOf::<C>::sample(1).repeated()).await;
    older.ack_with(AckKind::Nak(None)).await.expect("connected");
    let lanes = rig.run();
    let older_is_delivered = async || {
        first.ack_with(AckKind::Progress).await.expect("connected");
        rig.case.received().contains(&ids[0]).then_some(())
    };
    poll::until("the older message is delivered", CEILING, older_is_delivered).await.expect("it is nobody's");
    // The copy was there together with it.
    sleep(Duration::from_secs(1)).await;
    assert_eq!(rig.case.received(), [ids[0].clone()], "the copy waits");
    first.ack_with(AckKind::Nak(None)).await.expect("connected");
    rig.settled().await;
    rig.assert_received(&ids);
    rig.assert_nothing_dead().await;
    lanes.stop().await;
}

/// A shutdown in the middle of a batch finishes what is on its way and leaves the rest to the next
/// process; nothing is lost and nothing is done twice.
pub async fn shutdown<C: Case>() {
    let rig = Rig::<C>::start().await;
    let (lanes, mut ids) = rig.at_work().await;
    rig.case.fail_next(1, Failure::Hold, When::Before, Which::Deliveries);
    ids.extend(rig.publish(1..40).await);
    until("a delivery is on its way", || rig.case.held() == 1).await;
    lanes.ask_to_stop();
    rig.case.release();
    lanes.stop().await;

    let lanes = rig.run();
    rig.settled().await;
    rig.assert_received(&ids);
    rig.assert_no_repeats();
    rig.assert_nothing_dead().await;
    lanes.stop().await;
}

/// The process dies between the effect and its acknowledgement.
pub async fn crash<C: Case>() {
    let rig = Rig::<C>::start().await;
    let (lanes, mut ids) = rig.at_work().await;
    rig.case.fail_next(1, Failure::Hold, When::After, Which::Deliveries);
    ids.extend(rig.publish(1..4).await);
    until("a delivery has its effect", || rig.case.held() == 1).await;
    lanes.kill().await;
    rig.case.release();

    let lanes = rig.run();
    rig.settled().await;
    rig.assert_received(&ids);
    rig.assert_nothing_dead().await;
    lanes.stop().await;
}

/// Makes a test of each case: `sink_conformance!(SplunkCase: success, broken)`.
#[macro_export]
macro_rules! sink_conformance {
    ($case:ty: $($name:ident),+ $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $crate::conformance::sink::$name::<$case>().await;
        }
    )+};
}
