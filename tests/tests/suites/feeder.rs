//! When a sink is brought what it missed. On a real broker, with a store that answers as a test says.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::consumer::{Info, pull};
use async_trait::async_trait;
use futures::StreamExt as _;
use headrace_local::poll;
use headrace_runtime::aside::feeder::{Fed, Feeder};
use headrace_runtime::aside::history::{History, Order, Page, Row, Slice};
use headrace_runtime::aside::pause::Gate;
use headrace_runtime::aside::record::{Cause, Range};
use headrace_runtime::aside::{Asides, consumer_of};
use headrace_runtime::broker::{Broker, Stream};
use headrace_runtime::component::subscription::{Owner, Start, Subscription, WhenBehind};
use headrace_runtime::consume::Subscriber;
use headrace_runtime::fault::Fault;
use headrace_runtime::limit::{Limiter, Limits};
use headrace_runtime::message::payload::Outgoing;
use headrace_runtime::observe::health::Health;
use headrace_runtime::state::StateStore;
use headrace_schemas::event::Event;
use headrace_schemas::subject;
use headrace_schemas::time::Timestamp;
use headrace_tests::conformance::Workers;
use headrace_tests::harness::samples::Sample as _;
use headrace_tests::harness::{CEILING, Nats};

const SINK: &str = "splunk";
const STORE: &str = "clickhouse";
/// How many events the store has of what the sink missed.
const MISSED: u16 = 3;

/// A store that notes how many messages wait for the sink when it is asked.
struct Store {
    nats: Arc<Nats>,
    stored_at: Timestamp,
    waiting: Arc<Mutex<Vec<u64>>>,
}

#[async_trait]
impl History for Store {
    async fn events(&self, slice: &Slice<'_>) -> Result<Page, Fault> {
        let waiting = waiting(&self.nats).await;
        self.waiting.lock().unwrap().push(waiting);
        let is_asked_for = slice.since <= self.stored_at && self.stored_at < slice.until;
        let count = if is_asked_for { MISSED } else { 0 };
        let row = |number: u16| {
            let (at, id) = (self.stored_at, number.to_string());
            let order = Order { tenant: "acme".to_owned(), id, event_time: Timestamp::default() };
            Row { at, order, event: Ok(Event::sample(number)) }
        };
        Ok(Page { rows: (1..=count).map(row).collect(), is_cut: false })
    }

    async fn begins_at(&self) -> Result<Option<Timestamp>, Fault> {
        Ok(Some(self.stored_at))
    }
}

/// The messages of CATCHUP that the sink has not settled.
async fn waiting(nats: &Nats) -> u64 {
    let stream = nats.jetstream().get_stream(Stream::CatchUp.name()).await.unwrap();
    let info: Info = stream.consumer_info(consumer_of(SINK)).await.unwrap();
    info.num_pending + info.num_ack_pending as u64
}

/// Makes a consumer, as a process that runs the component does.
async fn consumer(broker: &Broker, component: &str, stream: Stream, filters: Vec<String>, when_behind: WhenBehind) {
    let (instance, kind) = (component.to_owned(), component.to_owned());
    let subscription = Subscription {
        component: component.to_owned(),
        stream,
        filters,
        ack_wait: CEILING,
        unsettled_max: 1_000,
        sink: Some(Owner { instance, kind, start: Start::Stored, when_behind }),
    };
    Subscriber::open(broker, &subscription).await.unwrap();
}

/// A message that another process has brought to the sink.
fn brought(event: &Event) -> Outgoing {
    let message = event.message();
    Outgoing { subject: subject::catch_up(SINK, &message.subject), ..message }
}

#[tokio::test]
async fn a_process_that_takes_over_waits_for_what_another_has_brought() {
    let nats = Arc::new(Nats::start().await);
    let broker = nats.broker().await;
    consumer(&broker, STORE, Stream::Events, Vec::new(), WhenBehind::Store { place: 1 }).await;
    consumer(&broker, SINK, Stream::Events, Vec::new(), WhenBehind::SetAside).await;
    let filters = vec![subject::catch_up_of(SINK)];
    consumer(&broker, &consumer_of(SINK), Stream::CatchUp, filters, WhenBehind::Wait).await;
    nats.publish(brought(&Event::sample(0))).await;
    let missed_at = Timestamp::now().minus(Duration::from_secs(600));
    let (since, until) = (missed_at.minus(Duration::from_secs(60)), missed_at.plus(Duration::from_secs(60)));
    let range = Range { since, until, from: since, sequences: None, made_at: since, cause: Cause::Full };
    let asides = Asides::open(&broker).await.unwrap();
    asides.change(SINK, |record| record.add(range.clone())).await.unwrap();

    let seen = Arc::<Mutex<Vec<u64>>>::default();
    let store = Store { nats: Arc::clone(&nats), stored_at: missed_at, waiting: Arc::clone(&seen) };
    let limiter = Limiter::new(SINK, &Limits::default());
    let call_timeout = Duration::from_secs(1);
    let (component, health) = (SINK.to_owned(), Health::new().register(SINK));
    let fed = Fed { component, filters: Vec::new(), call_timeout, gate: Gate::default(), limiter, health };
    let feeder = Arc::new(Feeder::new(&broker, Arc::new(store), STORE, fed));
    let workers = Workers::run(1, move |stop| {
        let feeder = Arc::clone(&feeder);
        async move { feeder.run(stop).await }
    });
    // It has time to look until it renews its lease.
    let leases = StateStore::open_asides(&broker).await.unwrap();
    let lease = async || leases.load(&format!("lease.{SINK}")).await.unwrap().map(|entry| entry.revision);
    let taken = poll::until("it has the lease", CEILING, lease).await.unwrap();
    let renewed = async || lease().await.filter(|revision| *revision > taken);
    poll::until("it has renewed the lease", CEILING, renewed).await.unwrap();

    let stream = nats.jetstream().get_stream(Stream::CatchUp.name()).await.unwrap();
    let own = stream.get_consumer::<pull::Config>(&consumer_of(SINK)).await.unwrap();
    let mut messages = own.messages().await.unwrap();
    messages.next().await.unwrap().unwrap().double_ack().await.unwrap();
    let has_all = async || (!asides.record(SINK).await.unwrap().is_behind()).then_some(());
    poll::until("everything was brought", CEILING, has_all).await.unwrap();
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen[0], 0, "it asked the store while something waited: {seen:?}");
    assert_eq!(waiting(&nats).await, u64::from(MISSED), "what follows on its own is not waited for: {seen:?}");
    workers.stop().await;
}
