//! A sink that answers as a test says, in the real loop.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use headrace_runtime::aside::pause::Gate;
use headrace_runtime::broker::{Broker, Stream};
use headrace_runtime::component::batch::{Batch, BatchPolicy, Key};
use headrace_runtime::component::sink::{BatchResult, Sink};
use headrace_runtime::component::subscription::Subscription;
use headrace_runtime::consume::sink::SinkLoop;
use headrace_runtime::fault::Fault;
use headrace_runtime::limit::{BreakerPolicy, Limiter, Limits};
use headrace_runtime::message::payload::Payload as _;
use headrace_runtime::observe::health::{Health, State};
use headrace_runtime::retry::RetryPolicy;
use headrace_runtime::settle::settler::Settler;
use headrace_schemas::event::Event;
use headrace_schemas::id::EventId;
use headrace_tests::conformance::{COMPONENT, Workers};
use headrace_tests::harness::Nats;
use headrace_tests::harness::samples::{Sample as _, guid};

/// How many events a test may publish.
const IDS: u16 = 300;

type Answer = dyn Fn(&Batch<Event>) -> BatchResult + Send + Sync;
type Keys = dyn Fn(&Event) -> Key + Send + Sync;
type Check = dyn Fn() -> Result<(), Fault> + Send + Sync;

/// What a sink answers, and what was asked of it.
pub(crate) struct Script {
    answer: Mutex<Arc<Answer>>,
    check: Mutex<Arc<Check>>,
    keys: Mutex<Arc<Keys>>,
    /// How long a few suspects wait for others.
    pub(crate) suspects_linger: Mutex<Duration>,
    /// How often it was called.
    pub(crate) calls: AtomicUsize,
    /// The ids that were accepted, in order.
    pub(crate) received: Mutex<Vec<String>>,
}

struct Scripted(Arc<Script>);

#[async_trait]
impl Sink for Scripted {
    type Item = Event;

    async fn check(&self) -> Result<(), Fault> {
        let check = Arc::clone(&self.0.check.lock().unwrap());
        check()
    }

    fn key(&self, event: &Event) -> Key {
        let keys = Arc::clone(&self.0.keys.lock().unwrap());
        keys(event)
    }

    fn suspects_linger(&self) -> Duration {
        *self.0.suspects_linger.lock().unwrap()
    }

    async fn deliver(&self, batch: &Batch<Event>) -> BatchResult {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        let answer = Arc::clone(&self.0.answer.lock().unwrap());
        let result = answer(batch);
        if matches!(&result, BatchResult::Each(results) if results.iter().all(Result::is_ok)) {
            let ids = batch.items().iter().map(|item| item.value.id().to_owned());
            self.0.received.lock().unwrap().extend(ids);
        }
        result
    }
}

/// Which call of a batch this is, from 0. A batch is known by its items, so that it does not matter how they were gathered.
#[derive(Default)]
pub(crate) struct Calls(Mutex<HashMap<Vec<String>, usize>>);

impl Calls {
    pub(crate) fn next(&self, batch: &Batch<Event>) -> usize {
        let ids = batch.items().iter().map(|item| item.value.id().to_owned()).collect();
        let mut calls = self.0.lock().unwrap();
        let calls = calls.entry(ids).or_default();
        *calls += 1;
        *calls - 1
    }
}

/// A nats-server, and what a sink on it does.
pub(crate) struct Bed {
    pub(crate) nats: Nats,
    pub(crate) script: Arc<Script>,
    pub(crate) health: Health,
    /// How its calls are limited. The breaker opens for a moment only.
    pub(crate) limits: Limits,
    /// How long the broker waits for an acknowledgement.
    pub(crate) ack_wait: Duration,
    /// How long a batch may grow.
    pub(crate) linger: Duration,
    /// How long a call may last.
    pub(crate) call_timeout: Duration,
    /// Fresh ids, so that nothing is a suspect at first.
    ids: Vec<EventId>,
}

impl Bed {
    /// Its receiver accepts everything.
    pub(crate) async fn start() -> Self {
        let script = Script {
            answer: Mutex::new(Arc::new(|batch| BatchResult::all(batch.items().len()))),
            check: Mutex::new(Arc::new(|| Ok(()))),
            keys: Mutex::new(Arc::new(|_| Key::default())),
            suspects_linger: Mutex::default(),
            calls: AtomicUsize::new(0),
            received: Mutex::default(),
        };
        let ids = (0..IDS).map(|number| EventId::github(&guid(number))).collect();
        let open = Duration::from_millis(100);
        let limits = Limits { breaker: BreakerPolicy { open, ..BreakerPolicy::default() }, ..Limits::default() };
        Self {
            nats: Nats::start().await,
            script: Arc::new(script),
            health: Health::new(),
            limits,
            ack_wait: Duration::from_secs(2),
            linger: Duration::from_millis(50),
            call_timeout: Duration::from_millis(300),
            ids,
        }
    }

    pub(crate) fn answers(&self, answer: impl Fn(&Batch<Event>) -> BatchResult + Send + Sync + 'static) {
        *self.script.answer.lock().unwrap() = Arc::new(answer);
    }

    pub(crate) fn checks(&self, check: impl Fn() -> Result<(), Fault> + Send + Sync + 'static) {
        *self.script.check.lock().unwrap() = Arc::new(check);
    }

    pub(crate) fn keyed(&self, keys: impl Fn(&Event) -> Key + Send + Sync + 'static) {
        *self.script.keys.lock().unwrap() = Arc::new(keys);
    }

    /// Runs one worker of the sink.
    pub(crate) async fn run(&self, policy: RetryPolicy) -> Workers {
        self.run_on(self.nats.broker().await, policy)
    }

    /// The same, over this connection.
    pub(crate) fn run_on(&self, broker: Broker, policy: RetryPolicy) -> Workers {
        self.run_workers(broker, policy, 1, 1_000)
    }

    /// Runs several workers of the sink, with so many events in a batch.
    pub(crate) fn run_workers(&self, broker: Broker, policy: RetryPolicy, count: usize, events_max: usize) -> Workers {
        let settler = Settler::new(COMPONENT, &broker, policy, self.health.register(COMPONENT));
        let sink = Arc::new(SinkLoop {
            broker,
            subscription: Subscription {
                component: COMPONENT.to_owned(),
                stream: Stream::Events,
                filters: Vec::new(),
                ack_wait: self.ack_wait,
                unsettled_max: 2_000,
                sink: None,
            },
            sink: Scripted(Arc::clone(&self.script)),
            batching: BatchPolicy { events_max, bytes_max: 8 << 20, linger: self.linger },
            call_timeout: self.call_timeout,
            limiter: Limiter::new(COMPONENT, &self.limits),
            settler,
            gate: Gate::default(),
        });
        Workers::run(count, move |stop| {
            let sink = Arc::clone(&sink);
            async move { sink.run_worker(stop).await }
        })
    }

    pub(crate) fn id(&self, number: u16) -> String {
        self.ids[usize::from(number)].to_string()
    }

    /// Ids, sorted.
    pub(crate) fn ids(&self, numbers: Range<u16>) -> Vec<String> {
        let mut ids: Vec<String> = numbers.map(|number| self.id(number)).collect();
        ids.sort();
        ids
    }

    pub(crate) async fn publish(&self, numbers: Range<u16>) {
        let event = |number| Event { id: self.ids[usize::from(number)].clone(), ..Event::sample(number) };
        self.nats.publish_all(numbers.map(|number| event(number).message())).await;
    }

    /// Runs one worker, and waits until an event is delivered. What is published now is of this incarnation, so it is no
    /// suspect at first. The event is the last of the ids.
    pub(crate) async fn at_work(&self, policy: RetryPolicy) -> Workers {
        let workers = self.run(policy).await;
        self.publish(IDS - 1..IDS).await;
        self.settled().await;
        workers
    }

    pub(crate) async fn settled(&self) {
        self.nats.settled(Stream::Events, COMPONENT).await;
    }

    pub(crate) fn state(&self) -> Option<State> {
        self.health.snapshot().remove(COMPONENT)
    }

    /// Whether it is broken, for a reason with these words.
    pub(crate) fn is_broken(&self, words: &str) -> bool {
        matches!(self.state(), Some(State::Broken(why)) if why.contains(words))
    }

    /// The accepted ids, sorted, with all repetitions.
    pub(crate) fn received(&self) -> Vec<String> {
        let mut received = self.script.received.lock().unwrap().clone();
        received.sort();
        received
    }

    /// The ids in DEAD, sorted. All must have this reason.
    pub(crate) async fn dead(&self, reason: &str) -> Vec<String> {
        let dead_letters = self.nats.dead_letters().await;
        assert!(dead_letters.iter().all(|letter| letter.reason == reason), "{dead_letters:#?}");
        let mut ids: Vec<String> = dead_letters.into_iter().map(|letter| letter.id).collect();
        ids.sort();
        ids
    }
}
