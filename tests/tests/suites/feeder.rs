//! When a sink is brought what it missed. On a real broker, with a store that answers as a test says.

mod lost;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::consumer::{Info, pull};
use async_nats::jetstream::stream;
use async_trait::async_trait;
use futures::StreamExt as _;
use headrace_local::poll;
use headrace_runtime::aside::feeder::{Fed, Feeder};
use headrace_runtime::aside::history::{History, Order, Page, Row, Slice};
use headrace_runtime::aside::pause::Gate;
use headrace_runtime::aside::record::{Cause, Range};
use headrace_runtime::aside::{Asides, consumer_of};
use headrace_runtime::broker::{Broker, Stream};
use headrace_runtime::component::batch::{Batch, BatchPolicy};
use headrace_runtime::component::sink::{BatchResult, Sink};
use headrace_runtime::component::subscription::{Owner, Start, Subscription, WhenBehind};
use headrace_runtime::consume::Subscriber;
use headrace_runtime::consume::sink::SinkLoop;
use headrace_runtime::fault::Fault;
use headrace_runtime::limit::{BreakerPolicy, Limiter, Limits};
use headrace_runtime::message::payload::Outgoing;
use headrace_runtime::observe::health::{ComponentHealth, Health, State};
use headrace_runtime::settle::settler::Settler;
use headrace_runtime::state::StateStore;
use headrace_schemas::event::Event;
use headrace_schemas::subject;
use headrace_schemas::time::Timestamp;
use headrace_tests::conformance::{POLICY, Workers};
use headrace_tests::harness::samples::Sample as _;
use headrace_tests::harness::{CEILING, Nats, until};

const SINK: &str = "splunk";
const STORE: &str = "clickhouse";
/// How many events the store has of what the sink missed.
const MISSED: u16 = 3;
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
/// What it says when the store has nothing of a range.
const LACKS: &str = "expected in the table `events` what this sink missed";

/// A store that notes how many messages wait for the sink when it is asked.
#[derive(Clone)]
struct Store {
    nats: Arc<Nats>,
    /// When EVENTS stored its rows, if it has any. They were received at that time, too.
    stored_at: Arc<Mutex<Option<Timestamp>>>,
    /// What becomes of them once they were read.
    then: Arc<Mutex<Then>>,
    waiting: Arc<Mutex<Vec<u64>>>,
}

/// What becomes of the rows of a store.
#[derive(Clone, Copy)]
enum Then {
    Stay,
    AreLost,
    /// Others take their place, which EVENTS stored at this time.
    AreReplaced(Timestamp),
}

#[async_trait]
impl History for Store {
    async fn events(&self, slice: &Slice<'_>) -> Result<Page, Fault> {
        let waiting = waiting(&self.nats).await;
        self.waiting.lock().unwrap().push(waiting);
        let stored_at = *self.stored_at.lock().unwrap();
        let Some(at) = stored_at.filter(|at| (slice.since..slice.until).contains(at)) else {
            return Ok(Page::default());
        };
        let row = |number: u16| {
            let event = stored(number);
            let (id, event_time) = (event.id.to_string(), event.event_time.unwrap());
            Row { at, order: Order { tenant: event.tenant.clone(), id, event_time }, event: Ok(event) }
        };
        *self.stored_at.lock().unwrap() = match *self.then.lock().unwrap() {
            Then::Stay => stored_at,
            Then::AreLost => None,
            Then::AreReplaced(later) => Some(later),
        };
        Ok(Page { rows: (1..=MISSED).map(row).collect(), is_cut: false })
    }

    async fn begins_at(&self) -> Result<Option<Timestamp>, Fault> {
        Ok(*self.stored_at.lock().unwrap())
    }

    async fn has_before(&self, at: Timestamp) -> Result<bool, Fault> {
        Ok(self.stored_at.lock().unwrap().is_some_and(|stored_at| stored_at < at))
    }
}

/// The event of row `number`. The last one has the id of the one before it, and another event time.
fn stored(number: u16) -> Event {
    let event_time = Some(Timestamp::from_seconds(number.into()));
    Event { event_time, ..Event::sample(number.min(MISSED - 1)) }
}

/// The messages of CATCHUP that the sink has not settled.
async fn waiting(nats: &Nats) -> u64 {
    let info = catch_up_of(nats).await;
    info.num_pending + info.num_ack_pending as u64
}

async fn catch_up_of(nats: &Nats) -> Info {
    let stream = nats.jetstream().get_stream(Stream::CatchUp.name()).await.unwrap();
    stream.consumer_info(consumer_of(SINK)).await.unwrap()
}

/// What a component takes, where a process that runs it makes the consumer.
fn subscription(component: &str, stream: Stream, filters: Vec<String>, when_behind: WhenBehind) -> Subscription {
    let (instance, kind) = (component.to_owned(), component.to_owned());
    Subscription {
        component: component.to_owned(),
        stream,
        filters,
        ack_wait: CEILING,
        unsettled_max: 1_000,
        sink: Some(Owner { instance, kind, start: Start::Stored, when_behind }),
    }
}

/// What the sink takes of EVENTS.
fn live() -> Subscription {
    subscription(SINK, Stream::Events, Vec::new(), WhenBehind::SetAside)
}

/// What it takes to catch up.
fn catching_up() -> Subscription {
    let filters = vec![subject::catch_up_of(SINK)];
    subscription(&consumer_of(SINK), Stream::CatchUp, filters, WhenBehind::Wait)
}

/// A message that another process has brought to the sink.
fn brought(event: &Event) -> Outgoing {
    let message = event.message();
    Outgoing { subject: subject::catch_up(SINK, &message.subject), ..message }
}

/// The range that ends at `until` and is so long.
fn range(until: Timestamp, length: Duration) -> Range {
    let since = until.minus(length);
    Range { since, until, from: since, sequences: None, made_at: since, cause: Cause::Full }
}

/// A broker with the consumers of the store and of the sink.
struct Bed {
    nats: Arc<Nats>,
    broker: Broker,
    asides: Asides,
    health: Health,
}

impl Bed {
    async fn start() -> Self {
        let nats = Arc::new(Nats::start().await);
        let broker = nats.broker().await;
        let store = subscription(STORE, Stream::Events, Vec::new(), WhenBehind::Store { place: 1 });
        for subscription in [store, live(), catching_up()] {
            Subscriber::open(&broker, &subscription).await.unwrap();
        }
        let asides = Asides::open(&broker).await.unwrap();
        Self { nats, broker, asides, health: Health::new() }
    }

    /// Has the sink miss `range`.
    async fn misses(&self, range: &Range) {
        self.asides.change(SINK, |record| record.add(range.clone())).await.unwrap();
    }

    /// A store with rows of this time, if any.
    fn store(&self, stored_at: Option<Timestamp>) -> Store {
        Store {
            nats: Arc::clone(&self.nats),
            stored_at: Arc::new(Mutex::new(stored_at)),
            then: Arc::new(Mutex::new(Then::Stay)),
            waiting: Arc::default(),
        }
    }

    /// Brings the sink what it missed, out of `store`.
    fn feed(&self, store: &Store, limiter: &Limiter) -> Workers {
        let fed = Fed {
            component: SINK.to_owned(),
            filters: Vec::new(),
            call_timeout: Duration::from_secs(1),
            gate: Gate::default(),
            limiter: limiter.clone(),
            health: self.health.register(&consumer_of(SINK)),
        };
        let feeder = Arc::new(Feeder::new(&self.broker, Arc::new(store.clone()), STORE, fed));
        Workers::run(1, move |stop| {
            let feeder = Arc::clone(&feeder);
            async move { feeder.run(stop).await }
        })
    }

    /// Runs the sink's loop on what `subscription` takes.
    fn run(
        &self,
        subscription: Subscription,
        receiver: &Receiver,
        limiter: &Limiter,
        health: &ComponentHealth,
    ) -> Workers {
        let sink = Arc::new(SinkLoop {
            broker: self.broker.clone(),
            subscription,
            sink: receiver.clone(),
            batching: BatchPolicy { events_max: 1, bytes_max: 1 << 20, linger: CEILING },
            call_timeout: Duration::from_secs(1),
            limiter: limiter.clone(),
            settler: Settler::new(SINK, &self.broker, POLICY, health.clone()),
            gate: Gate::default(),
        });
        Workers::run(1, move |stop| {
            let sink = Arc::clone(&sink);
            async move { sink.run_worker(stop).await }
        })
    }

    /// Whether health says `told` of a component that is degraded.
    fn is_told(&self, component: &str, told: &str) -> bool {
        matches!(self.health.snapshot().get(component), Some(State::Degraded(why)) if why.contains(told))
    }

    async fn events(&self) -> stream::Stream {
        self.stream(Stream::Events).await
    }

    async fn stream(&self, stream: Stream) -> stream::Stream {
        self.nats.jetstream().get_stream(stream.name()).await.unwrap()
    }

    /// Waits until nothing is missed any more.
    async fn caught_up(&self) {
        let has_all = async || (!self.asides.record(SINK).await.unwrap().is_behind()).then_some(());
        poll::until("everything was brought", CEILING, has_all).await.unwrap();
    }
}

fn no_limits() -> Limiter {
    Limiter::new(SINK, &Limits::default())
}

#[tokio::test]
async fn a_process_that_takes_over_waits_for_what_another_has_brought() {
    let bed = Bed::start().await;
    bed.nats.publish(brought(&Event::sample(0))).await;
    let missed_at = Timestamp::now().minus(MINUTE * 10);
    bed.misses(&range(missed_at.plus(MINUTE), MINUTE)).await;

    let store = bed.store(Some(missed_at));
    let workers = bed.feed(&store, &no_limits());
    // It has time to look until it renews its lease.
    let leases = StateStore::open_asides(&bed.broker).await.unwrap();
    let lease = async || leases.load(&format!("lease.{SINK}")).await.unwrap().map(|entry| entry.revision);
    let taken = poll::until("it has the lease", CEILING, lease).await.unwrap();
    let renewed = async || lease().await.filter(|revision| *revision > taken);
    poll::until("it has renewed the lease", CEILING, renewed).await.unwrap();

    let stream = bed.nats.jetstream().get_stream(Stream::CatchUp.name()).await.unwrap();
    let own = stream.get_consumer::<pull::Config>(&consumer_of(SINK)).await.unwrap();
    let mut messages = own.messages().await.unwrap();
    messages.next().await.unwrap().unwrap().double_ack().await.unwrap();
    bed.caught_up().await;
    let seen = store.waiting.lock().unwrap().clone();
    assert_eq!(seen[0], 0, "it asked the store while something waited: {seen:?}");
    assert_eq!(waiting(&bed.nats).await, u64::from(MISSED), "what follows on its own is not waited for: {seen:?}");
    workers.stop().await;
}

/// A receiver that is away until it is back.
#[derive(Clone, Default)]
struct Receiver {
    is_back: Arc<AtomicBool>,
    received: Arc<Mutex<BTreeSet<String>>>,
}

#[async_trait]
impl Sink for Receiver {
    type Item = Event;

    async fn check(&self) -> Result<(), Fault> {
        Ok(())
    }

    async fn deliver(&self, batch: &Batch<Event>) -> BatchResult {
        if !self.is_back.load(Ordering::SeqCst) {
            return BatchResult::Whole(Fault::transient(anyhow::anyhow!("the receiver is away")));
        }
        self.received.lock().unwrap().extend(batch.items().iter().map(|item| item.value.id.to_string()));
        BatchResult::all(batch.items().len())
    }
}

#[tokio::test]
async fn a_sink_catches_up_although_no_other_call_closes_its_breaker() {
    let bed = Bed::start().await;
    let breaker = BreakerPolicy { failures_max: 2, open: Duration::from_millis(100) };
    let limiter = Limiter::new(SINK, &Limits { breaker, ..Limits::default() });
    let (receiver, health) = (Receiver::default(), bed.health.register(SINK));
    let catching_up = bed.run(catching_up(), &receiver, &limiter, &health);
    // Its check of the receiver is a call, too. It has made it when it asks for messages.
    let asks = async || (catch_up_of(&bed.nats).await.num_waiting > 0).then_some(());
    poll::until("the loop that catches up asks for messages", CEILING, asks).await.unwrap();
    let live = bed.run(live(), &receiver, &limiter, &health);
    bed.nats.publish(Event::sample(0).message()).await;
    until("the breaker is open", || bed.is_told(SINK, "no call is made until")).await;

    // The sink is set aside, and so EVENTS has nothing for it with which it would find out that the receiver is back.
    live.stop().await;
    bed.events().await.purge().await.unwrap();
    receiver.is_back.store(true, Ordering::SeqCst);
    let missed_at = Timestamp::now().minus(MINUTE * 10);
    bed.misses(&range(missed_at.plus(MINUTE), MINUTE)).await;
    let feeder = bed.feed(&bed.store(Some(missed_at)), &limiter);
    bed.caught_up().await;
    bed.nats.settled(Stream::CatchUp, &consumer_of(SINK)).await;
    let missed: BTreeSet<String> = (1..=MISSED).map(|number| stored(number).id.to_string()).collect();
    assert_eq!(*receiver.received.lock().unwrap(), missed);
    feeder.stop().await;
    catching_up.stop().await;
}
