//! Thousands of messages that fare alike make a few lines of the log, and the metrics count each of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, ThreadId};
use std::time::Duration;

use async_trait::async_trait;
use headrace_runtime::broker::Stream;
use headrace_runtime::component::stage::{Stage, Verdict};
use headrace_runtime::component::subscription::Subscription;
use headrace_runtime::consume::chain::{ChainLoop, Pace};
use headrace_runtime::fault::Fault;
use headrace_runtime::message::payload::RawDelivery;
use headrace_runtime::observe::health::Health;
use headrace_runtime::retry::RetryPolicy;
use headrace_runtime::settle::settler::Settler;
use headrace_schemas::event::Event;
use headrace_tests::conformance::{COMPONENT, Workers};
use headrace_tests::harness::samples::Sample as _;
use headrace_tests::harness::{CEILING, Nats};
use tracing::span::{Attributes, Id, Record};
use tracing::{Level, Metadata, Subscriber, subscriber};

/// How many messages fail.
const MESSAGES: u16 = 500;
/// Each fails so often. Then it is given up.
const ATTEMPTS: u32 = 2;

/// Counts the lines that a person would see of one thread. It serves the whole program: with a subscriber of this thread
/// alone, another thread's first line would turn the same line off here.
struct Lines {
    thread: ThreadId,
    count: Arc<AtomicU64>,
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        self.count.fetch_add(u64::from(thread::current().id() == self.thread), Ordering::SeqCst);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Fails on each event, with a fault in words of its own.
struct Fail;

#[async_trait]
impl Stage for Fail {
    type In = RawDelivery;
    type Out = Event;

    fn handover(&self) -> &'static str {
        "scored"
    }

    async fn process(&self, batch: Vec<RawDelivery>) -> Vec<Verdict<Event>> {
        let fault = |raw: RawDelivery| Fault::transient(anyhow::anyhow!("failing on {}", raw.sequence));
        batch.into_iter().map(|raw| Verdict::Fail(fault(raw))).collect()
    }
}

// On one thread, whose lines are counted.
#[tokio::test]
async fn messages_that_fail_alike_make_a_few_lines() {
    let lines = Arc::new(AtomicU64::new(0));
    let counter = Lines { thread: thread::current().id(), count: Arc::clone(&lines) };
    subscriber::set_global_default(counter).expect("no other test of this program counts lines");
    let nats = Nats::start().await;
    let broker = nats.broker().await;
    nats.publish_all((0..MESSAGES).map(|number| RawDelivery::sample(number).message())).await;
    let subscription = Subscription {
        component: COMPONENT.to_owned(),
        stream: Stream::Raw,
        filters: Vec::new(),
        ack_wait: CEILING,
        unsettled_max: 1_000,
        sink: None,
    };
    let backoff = Duration::from_millis(10);
    let policy =
        RetryPolicy { attempts_max: ATTEMPTS, backoff_min: backoff, backoff_max: backoff, ..RetryPolicy::default() };
    let settler = Settler::new(COMPONENT, &broker, policy, Health::new().register(COMPONENT));
    let chain = Arc::new(ChainLoop { broker, subscription, pace: Pace::Prompt, stage: Box::new(Fail), settler });
    let workers = Workers::run(1, move |stop| {
        let chain = Arc::clone(&chain);
        async move { chain.run_worker(stop).await }
    });
    nats.settled(Stream::Raw, COMPONENT).await;
    workers.stop().await;
    assert_eq!(nats.dead_letters().await.len(), usize::from(MESSAGES));
    // A first line and one for each window, of retries and of dead letters.
    let lines = lines.load(Ordering::SeqCst);
    assert!((4..=20).contains(&lines), "{lines} lines for {MESSAGES} messages");
}
