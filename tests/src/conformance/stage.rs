//! The suite for stages. [`stage_conformance!`](crate::stage_conformance) makes its tests.
//!
//! The stage under test runs in the real loop, inside a wrapper. The wrapper can make it fail for a while, panic on one
//! event, or wait in the middle of a batch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use async_nats::jetstream::message::StreamMessage;
use async_trait::async_trait;
use headrace_runtime::broker::{Broker, Stream};
use headrace_runtime::component::stage::Verdict;
use headrace_runtime::component::stage::{BoxedStage, Stage};
use headrace_runtime::component::subscription::Subscription;
use headrace_runtime::config;
use headrace_runtime::consume::chain::{ChainLoop, Pace};
use headrace_runtime::fault::Fault;
use headrace_runtime::message::payload::{Outgoing, Payload, Product};
use headrace_runtime::observe::health::{Health, State};
use headrace_runtime::settle::settler::Settler;
use headrace_schemas::header;
use rustix::process::Signal;
use tokio::sync::watch;

use super::{ACK_WAIT, COMPONENT, POLICY, Workers};
use crate::harness::samples::{Sample, unreadable};
use crate::harness::{Nats, until};
use crate::product::process::{freeze, signal};

/// A stage under test.
#[async_trait]
pub trait Case: Send + Sync + Sized + 'static {
    /// What the stage consumes.
    type In: Sample;
    /// What the stage produces: one for each sample.
    type Out: Product;

    /// The stream of its products.
    const TO: Stream;

    /// Prepares what the stage needs. The stage may keep state in `nats`.
    async fn start(nats: &Nats) -> Self;
    /// A new stage, as a new process would build it.
    fn stage(&self) -> BoxedStage<Self::In, Self::Out>;
    /// The id of the sample from which a product was made.
    fn origin(&self, product: &StreamMessage) -> String {
        product.headers.get(header::ID).map(ToString::to_string).unwrap_or_default()
    }
    /// A message that the stage gives up, with the reason's code. By default, nobody can read this message.
    fn poison(&self) -> (Outgoing, &'static str) {
        let message = unreadable::<Self::In>(9_999);
        let reason = if Self::In::STREAM == Stream::Raw { "missing_header" } else { "malformed" };
        (message, reason)
    }
}

/// How the wrapper disturbs the stage.
struct Disturbance {
    failures_left: AtomicUsize,
    /// The id of the event on which the stage panics.
    victim: OnceLock<String>,
    holds_left: AtomicUsize,
    held: AtomicUsize,
    released: watch::Sender<bool>,
}

struct Disturbed<In, Out> {
    inner: BoxedStage<In, Out>,
    disturbance: Arc<Disturbance>,
}

#[async_trait]
impl<In: Payload, Out: Send + 'static> Stage for Disturbed<In, Out> {
    type In = In;
    type Out = Out;

    fn handover(&self) -> &'static str {
        self.inner.handover()
    }

    async fn process(&self, batch: Vec<In>) -> Vec<Verdict<Out>> {
        let take = |left: &AtomicUsize| {
            left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
        };
        if !batch.is_empty() && take(&self.disturbance.failures_left) {
            let fault = || Verdict::Fail(Fault::transient(anyhow::anyhow!("failing on command")));
            return batch.iter().map(|_| fault()).collect();
        }
        if let Some(victim) = self.disturbance.victim.get() {
            assert!(batch.iter().all(|event| event.id() != victim), "panicking on {victim}");
        }
        if !batch.is_empty() && take(&self.disturbance.holds_left) {
            let mut released = self.disturbance.released.subscribe();
            self.disturbance.held.fetch_add(1, Ordering::SeqCst);
            let _ = released.wait_for(|released| *released).await;
        }
        self.inner.process(batch).await
    }
}

struct Testbed<C> {
    nats: Nats,
    health: Health,
    case: C,
    disturbance: Arc<Disturbance>,
}

impl<C: Case> Testbed<C> {
    async fn start() -> Self {
        let nats = Nats::start().await;
        let disturbance = Disturbance {
            failures_left: AtomicUsize::new(0),
            victim: OnceLock::new(),
            holds_left: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            released: watch::Sender::new(false),
        };
        Self { case: C::start(&nats).await, nats, health: Health::new(), disturbance: Arc::new(disturbance) }
    }

    async fn run(&self) -> Workers {
        self.run_workers(2, self.nats.broker().await)
    }

    fn run_workers(&self, count: usize, broker: Broker) -> Workers {
        let subscription = Subscription {
            component: COMPONENT.to_owned(),
            stream: C::In::STREAM,
            filters: Vec::new(),
            ack_wait: ACK_WAIT,
            unsettled_max: 1_024,
            sink: None,
        };
        let stage = Disturbed { inner: self.case.stage(), disturbance: Arc::clone(&self.disturbance) };
        let settler = Settler::new(COMPONENT, &broker, POLICY, self.health.register(COMPONENT));
        let chain = Arc::new(ChainLoop { broker, subscription, pace: Pace::Prompt, stage: Box::new(stage), settler });
        Workers::run(count, move |stop| {
            let chain = Arc::clone(&chain);
            async move { chain.run_worker(stop).await }
        })
    }

    /// Runs one worker until it has a batch in the making. Then it suspends the server, lets the worker publish the
    /// batch to it, and kills the server.
    async fn lose_the_confirmations_of_a_batch(&self) -> Workers {
        self.disturbance.holds_left.store(1, Ordering::SeqCst);
        // Each missing confirmation takes this long.
        let broker = self.nats.broker_with(config::Nats { timeout_ms: 1_000, ..config::Nats::default() }).await;
        let workers = self.run_workers(1, broker);
        until("a batch is in the making", || self.disturbance.held.load(Ordering::SeqCst) == 1).await;
        let server = self.nats.server().pid().expect("the server of this test runs");
        freeze(server).await;
        self.disturbance.released.send_replace(true);
        let is_missed = || matches!(self.health.snapshot().get(COMPONENT), Some(State::Degraded(_)));
        until("a confirmation is missing", is_missed).await;
        signal(server, Signal::KILL);
        workers
    }

    async fn publish(&self, numbers: std::ops::Range<u16>) -> BTreeSet<String> {
        let samples: Vec<C::In> = numbers.map(C::In::sample).collect();
        self.nats.publish_all(samples.iter().map(Sample::message)).await;
        samples.iter().map(|sample| sample.id().to_owned()).collect()
    }

    async fn settled(&self) {
        self.nats.settled(C::In::STREAM, COMPONENT).await;
    }

    /// How many messages there are downstream for each event id.
    async fn downstream(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for message in self.nats.messages(C::TO).await {
            *counts.entry(self.case.origin(&message)).or_default() += 1;
        }
        counts
    }

    /// Checks that each published message made exactly one downstream, and that nothing is dead.
    async fn assert_once(&self, ids: &BTreeSet<String>) {
        let expected: BTreeMap<String, usize> = ids.iter().map(|id| (id.clone(), 1)).collect();
        assert_eq!(self.downstream().await, expected);
        let dead = self.nats.dead_letters().await;
        assert!(dead.is_empty(), "dead-lettered: {dead:#?}");
    }
}

/// Each message makes one message downstream.
pub async fn success<C: Case>() {
    let testbed = Testbed::<C>::start().await;
    let workers = testbed.run().await;
    let ids = testbed.publish(0..200).await;
    testbed.settled().await;
    testbed.assert_once(&ids).await;
    workers.stop().await;
}

/// A message that can never succeed is dead-lettered with its reason and payload. Its neighbours go on.
pub async fn poison<C: Case>() {
    let testbed = Testbed::<C>::start().await;
    let (message, reason) = testbed.case.poison();
    let payload = message.payload.clone();
    let mut ids = testbed.publish(0..5).await;
    testbed.nats.publish(message).await;
    ids.extend(testbed.publish(5..10).await);
    let workers = testbed.run().await;
    testbed.settled().await;
    let downstream: BTreeSet<String> = testbed.downstream().await.into_keys().collect();
    assert_eq!(downstream, ids);
    let dead = testbed.nats.dead_letters().await;
    assert_eq!(dead.len(), 1, "{dead:#?}");
    assert_eq!((dead[0].reason.as_str(), &dead[0].payload), (reason, &payload), "{dead:#?}");
    workers.stop().await;
}

/// An event on which the stage panics is dead-lettered, and the dead letter names the panic. Its neighbours go on, and
/// so does the worker.
pub async fn panics<C: Case>() {
    let testbed = Testbed::<C>::start().await;
    let victim = C::In::sample(5).id().to_owned();
    testbed.disturbance.victim.set(victim.clone()).expect("it is set once");
    let mut ids = testbed.publish(0..10).await;
    assert!(ids.remove(&victim));
    let workers = testbed.run().await;
    testbed.settled().await;
    let expected: BTreeMap<String, usize> = ids.iter().map(|id| (id.clone(), 1)).collect();
    assert_eq!(testbed.downstream().await, expected);
    let dead = testbed.nats.dead_letters().await;
    assert_eq!(dead.len(), 1, "{dead:#?}");
    assert_eq!((dead[0].reason.as_str(), dead[0].attempts.as_str()), ("panicked", "1"), "{dead:#?}");
    assert!(dead[0].detail.contains(&format!("the stage panicked: panicking on {victim}")), "{dead:#?}");
    workers.stop().await;
}

/// A message that fails for a while is retried, and then succeeds.
pub async fn transient<C: Case>() {
    let testbed = Testbed::<C>::start().await;
    testbed.disturbance.failures_left.store(POLICY.attempts_max as usize - 2, Ordering::SeqCst);
    let workers = testbed.run().await;
    let ids = testbed.publish(0..20).await;
    testbed.settled().await;
    testbed.assert_once(&ids).await;
    assert_eq!(testbed.disturbance.failures_left.load(Ordering::SeqCst), 0);
    workers.stop().await;
}

/// A message that always fails is given up after the policy's attempts.
pub async fn exhausted<C: Case>() {
    let testbed = Testbed::<C>::start().await;
    testbed.disturbance.failures_left.store(usize::MAX, Ordering::SeqCst);
    let workers = testbed.run().await;
    testbed.publish(0..3).await;
    testbed.settled().await;
    assert!(testbed.downstream().await.is_empty());
    let dead = testbed.nats.dead_letters().await;
    let attempts = POLICY.attempts_max.to_string();
    assert_eq!(dead.len(), 3, "{dead:#?}");
    assert!(
        dead.iter().all(|dead_letter| dead_letter.reason == "exhausted" && dead_letter.attempts == attempts),
        "{dead:#?}"
    );
    workers.stop().await;
}

/// The same delivery, published twice, makes one message downstream.
pub async fn duplicates<C: Case>() {
    let testbed = Testbed::<C>::start().await;
    let workers = testbed.run().await;
    let ids = testbed.publish(0..10).await;
    testbed.settled().await;
    testbed.nats.publish_all((0..10).map(|number| C::In::sample(number).repeated())).await;
    testbed.settled().await;
    testbed.assert_once(&ids).await;
    workers.stop().await;
}

/// A shutdown in the middle of a batch loses nothing and repeats nothing.
pub async fn shutdown<C: Case>() {
    let testbed = Testbed::<C>::start().await;
    testbed.disturbance.holds_left.store(1, Ordering::SeqCst);
    let workers = testbed.run().await;
    let ids = testbed.publish(0..300).await;
    until("a batch is in the making", || testbed.disturbance.held.load(Ordering::SeqCst) == 1).await;
    workers.ask_to_stop();
    testbed.disturbance.released.send_replace(true);
    workers.stop().await;

    let workers = testbed.run().await;
    testbed.settled().await;
    testbed.assert_once(&ids).await;
    workers.stop().await;
}

/// The process dies in the middle of a batch, and nothing is lost or done twice.
pub async fn crash<C: Case>() {
    let testbed = Testbed::<C>::start().await;
    testbed.disturbance.holds_left.store(1, Ordering::SeqCst);
    let workers = testbed.run().await;
    let ids = testbed.publish(0..100).await;
    until("a batch is in the making", || testbed.disturbance.held.load(Ordering::SeqCst) == 1).await;
    workers.kill().await;
    testbed.disturbance.released.send_replace(true);

    let workers = testbed.run().await;
    testbed.settled().await;
    testbed.assert_once(&ids).await;
    workers.stop().await;
}

/// The server is killed while the confirmations of a batch are on their way. However many they are, they may cost the
/// worker only one timeout. One after the other, they would cost more than this test's ceiling.
pub async fn lost_confirmations<C: Case>() {
    let testbed = Testbed::<C>::start().await;
    let ids = testbed.publish(0..100).await;
    let workers = testbed.lose_the_confirmations_of_a_batch().await;
    testbed.settled().await;
    testbed.assert_once(&ids).await;
    workers.stop().await;
}

/// Makes a test of each case: `stage_conformance!(ScoreCase: success, poison)`.
#[macro_export]
macro_rules! stage_conformance {
    ($case:ty: $($name:ident),+ $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $crate::conformance::stage::$name::<$case>().await;
        }
    )+};
}
