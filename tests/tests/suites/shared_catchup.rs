//! Several sinks catch up at once, through one stream. On a real broker, out of a store that a test fills.

use std::sync::Arc;

use async_nats::jetstream::consumer::pull;
use async_trait::async_trait;
use futures::StreamExt as _;
use headrace_local::poll;
use headrace_runtime::aside::feeder::{Fed, Feeder};
use headrace_runtime::aside::history::{History, Order, Page, Row, Slice};
use headrace_runtime::aside::pause::Gate;
use headrace_runtime::aside::record::{Cause, Range};
use headrace_runtime::aside::{Asides, consumer_of};
use headrace_runtime::broker::{Broker, Stream};
use headrace_runtime::component::subscription::Subscription;
use headrace_runtime::consume::Subscriber;
use headrace_runtime::fault::Fault;
use headrace_runtime::limit::{Limiter, Limits};
use headrace_runtime::observe::health::{Health, State};
use headrace_schemas::event::Event;
use headrace_schemas::id::EventId;
use headrace_schemas::subject::catch_up_of;
use headrace_schemas::time::Timestamp;
use headrace_tests::conformance::Workers;
use headrace_tests::harness::samples::Sample as _;
use headrace_tests::harness::{CEILING, Nats, until};

const STORE: &str = "clickhouse";
/// The events of the store. Together they are much larger than CATCHUP.
const EVENTS: i64 = 1_500;
/// The size of an event.
const BYTES: usize = 20 << 10;
/// When the first of them was stored, in seconds. One follows each second.
const STORED: i64 = 1_764_000_000;
/// The event of which its row tells nothing.
const UNREADABLE: i64 = 700;

/// A store with one event a second.
struct Filled;

#[async_trait]
impl History for Filled {
    async fn events(&self, slice: &Slice<'_>) -> Result<Page, Fault> {
        let mut page = Page::default();
        let mut bytes = 0;
        for number in 0..EVENTS {
            let at = Timestamp::from_seconds(STORED + number);
            let order = order(number);
            let is_passed = at == slice.since && slice.after.is_some_and(|after| after.id >= order.id);
            if at < slice.since || at >= slice.until || is_passed {
                continue;
            }
            if page.rows.len() == slice.events_max || bytes >= slice.bytes_max {
                page.is_cut = true;
                break;
            }
            bytes += BYTES * 4;
            let event = if number == UNREADABLE { Err(anyhow::anyhow!("no such word")) } else { Ok(event(number)) };
            page.rows.push(Row { at, order, event });
        }
        Ok(page)
    }

    async fn begins_at(&self) -> Result<Option<Timestamp>, Fault> {
        Ok(Some(Timestamp::from_seconds(STORED)))
    }

    async fn has_before(&self, at: Timestamp) -> Result<bool, Fault> {
        Ok(Timestamp::from_seconds(STORED) < at)
    }
}

fn order(number: i64) -> Order {
    Order { tenant: "acme".to_owned(), id: format!("ndjson:{number:05}"), event_time: Timestamp::default() }
}

fn event(number: i64) -> Event {
    let id = EventId::of_source("ndjson", &format!("{number:05}"));
    Event { id, kind: "x".repeat(BYTES), ..Event::sample(1) }
}

/// Makes the consumers of `sink`, and has it miss everything.
async fn set_aside(broker: &Broker, sink: &str) {
    for (component, stream, filters) in
        [(sink.to_owned(), Stream::Events, vec![]), (consumer_of(sink), Stream::CatchUp, vec![catch_up_of(sink)])]
    {
        let subscription =
            Subscription { component, stream, filters, ack_wait: CEILING, unsettled_max: 10_000, sink: None };
        Subscriber::open(broker, &subscription).await.unwrap();
    }
    let (since, until) = (Timestamp::from_seconds(STORED), Timestamp::from_seconds(STORED + EVENTS));
    let range = Range { since, until, from: since, sequences: None, made_at: until, cause: Cause::Full };
    Asides::open(broker).await.unwrap().change(sink, |record| record.add(range.clone())).await.unwrap();
}

/// Brings `sink` what it has missed.
fn feed(broker: &Broker, sink: &str, health: &Health) -> Workers {
    let fed = Fed {
        component: sink.to_owned(),
        filters: Vec::new(),
        call_timeout: std::time::Duration::ZERO,
        gate: Gate::default(),
        limiter: Limiter::new(sink, &Limits::default()),
        health: health.register(sink),
    };
    let feeder = Arc::new(Feeder::new(broker, Arc::new(Filled), STORE, fed));
    Workers::run(1, move |stop| {
        let feeder = Arc::clone(&feeder);
        async move { feeder.run(stop).await }
    })
}

#[tokio::test]
async fn a_sink_that_takes_nothing_leaves_the_others_their_room() {
    let nats = Nats::start().await;
    let (broker, health) = (nats.broker().await, Health::new());
    let store = Subscription {
        component: STORE.to_owned(),
        stream: Stream::Events,
        filters: Vec::new(),
        ack_wait: CEILING,
        unsettled_max: 10_000,
        sink: None,
    };
    Subscriber::open(&broker, &store).await.unwrap();
    let mut workers = Vec::new();
    for sink in ["slow", "splunk"] {
        set_aside(&broker, sink).await;
        workers.push(feed(&broker, sink, &health));
    }
    let stream = nats.jetstream().get_stream(Stream::CatchUp.name()).await.unwrap();
    let consumer = stream.get_consumer::<pull::Config>(&consumer_of("splunk")).await.unwrap();
    let mut messages = consumer.messages().await.unwrap();
    let take_all = async {
        for _ in 1..EVENTS {
            messages.next().await.unwrap().unwrap().double_ack().await.unwrap();
        }
    };
    tokio::time::timeout(CEILING, take_all).await.expect("the other has all of its events");
    let asides = Asides::open(&broker).await.unwrap();
    let has_caught_up = async || (!asides.record("splunk").await.unwrap().is_behind()).then_some(());
    poll::until("it has caught up", CEILING, has_caught_up).await.unwrap();
    assert_eq!(asides.record("splunk").await.unwrap().brought, EVENTS as u64 - 1);
    assert!(asides.record("slow").await.unwrap().is_behind());
    let state = nats.jetstream().get_stream(Stream::CatchUp.name()).await.unwrap().cached_info().state.clone();
    assert!((1..=8 << 20).contains(&state.bytes), "the slow one has its share and no more: {state:?}");

    // The row that makes no event is named in DEAD, and nothing else is wrong.
    until("all is well", || health.snapshot().values().all(|state| *state == State::Healthy)).await;
    let dead_letters = nats.dead_letters().await;
    let of = |sink: &str| dead_letters.iter().filter(|dead| dead.subject == format!("dead.{sink}.acme")).count();
    assert_eq!((of("splunk"), dead_letters.len() - of("slow")), (1, 1), "{dead_letters:?}");
    assert_eq!((dead_letters[0].reason.as_str(), dead_letters[0].id.as_str()), ("malformed", "ndjson:00700"));
    assert!(dead_letters[0].detail.starts_with("no such word; mend the row"), "{}", dead_letters[0].detail);
    for worker in workers {
        worker.stop().await;
    }
}
