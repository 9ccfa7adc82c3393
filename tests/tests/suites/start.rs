//! Where a sink begins: a new one as its setting says, one that has begun where nothing is lost.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, FromConsumer as _, pull};
use headrace_local::poll;
use headrace_runtime::broker::Stream;
use headrace_runtime::component::subscription::{Owner, Start, Subscription, WhenBehind};
use headrace_runtime::consume::Subscriber;
use headrace_runtime::consume::leftover::{self, Component};
use headrace_schemas::alert::Alert;
use headrace_schemas::time::Timestamp;
use headrace_tests::harness::samples::Sample as _;
use headrace_tests::harness::{CEILING, Nats};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// The sink of these tests, and its only component.
const TICKETS: &str = "tickets";
/// The mark with the time at which a process last said that it reads the consumer.
const READ_AT: &str = "headrace.read_at";
/// How often to look.
const PERIOD: Duration = Duration::from_millis(20);

fn subscription() -> Subscription {
    Subscription {
        component: TICKETS.to_owned(),
        stream: Stream::Alerts,
        filters: vec![headrace_schemas::subject::ALERTS.to_owned()],
        ack_wait: CEILING,
        unsettled_max: 16,
        sink: Some(Owner {
            instance: TICKETS.to_owned(),
            kind: "jira".to_owned(),
            start: Start::Now,
            when_behind: WhenBehind::Wait,
        }),
    }
}

fn component(name: &str) -> Component {
    Component { instance: name.to_owned(), kind: "jira".to_owned(), name: name.to_owned(), stream: Stream::Alerts }
}

async fn publish(nats: &Nats, numbers: std::ops::Range<u16>) {
    nats.publish_all(numbers.map(|number| Alert::sample(number).message())).await;
}

async fn open(nats: &Nats) -> Subscriber {
    Subscriber::open(&nats.broker().await, &subscription()).await.unwrap()
}

async fn delete(nats: &Nats) {
    nats.jetstream().get_stream(Stream::Alerts.name()).await.unwrap().delete_consumer(TICKETS).await.unwrap();
}

/// Waits until `expected` messages wait for the consumer. The broker counts a message a moment after its PubAck.
async fn waits(subscriber: &mut Subscriber, expected: u64) {
    let mut seen = None;
    let began = Instant::now();
    while seen != Some(expected) {
        assert!(began.elapsed() < CEILING, "expected {expected} messages, found {seen:?}");
        sleep(PERIOD).await;
        seen = Some(subscriber.backlog().await.unwrap().0);
    }
}

#[tokio::test]
async fn a_new_sink_gets_only_what_comes_later() {
    let nats = Nats::start().await;
    publish(&nats, 0..3).await;
    let mut subscriber = open(&nats).await;
    waits(&mut subscriber, 0).await;
    publish(&nats, 3..5).await;
    waits(&mut subscriber, 2).await;
    // Opened again, it is not a new one, and stays where it is.
    waits(&mut open(&nats).await, 2).await;
}

#[tokio::test]
async fn it_stays_so_when_nats_is_started_again() {
    let nats = Nats::start().await;
    publish(&nats, 0..3).await;
    drop(open(&nats).await);
    let nats = nats.damaged(|_| {}).await;
    publish(&nats, 3..5).await;
    let mut subscriber = open(&nats).await;
    waits(&mut subscriber, 2).await;
}

#[tokio::test]
async fn a_sink_whose_consumer_was_deleted_begins_at_the_oldest_message() {
    let nats = Nats::start().await;
    publish(&nats, 0..3).await;
    drop(open(&nats).await);
    delete(&nats).await;
    // Nobody would get this one if the sink began at the next message again.
    publish(&nats, 3..4).await;
    waits(&mut open(&nats).await, 4).await;
}

#[tokio::test]
async fn a_sink_of_an_earlier_release_is_not_a_new_one() {
    let nats = Nats::start().await;
    publish(&nats, 0..3).await;
    let stream = nats.jetstream().get_stream(Stream::Alerts.name()).await.unwrap();
    let config = pull::Config {
        durable_name: Some(TICKETS.to_owned()),
        ack_policy: AckPolicy::Explicit,
        ..pull::Config::default()
    };
    stream.create_consumer(config).await.unwrap();
    waits(&mut open(&nats).await, 3).await;
    delete(&nats).await;
    waits(&mut open(&nats).await, 3).await;
}

#[tokio::test]
async fn two_processes_that_start_at_once_begin_at_one_place() {
    let nats = Nats::start().await;
    publish(&nats, 0..3).await;
    // While they start, messages come: the two may see different ends of the stream.
    let (mut one, mut other, ()) = tokio::join!(open(&nats), open(&nats), publish(&nats, 3..40));
    let (waiting, _) = one.backlog().await.unwrap();
    assert!(waiting <= 37, "it got messages that were there before: {waiting}");
    publish(&nats, 40..43).await;
    let info = nats.jetstream().get_stream(Stream::Alerts.name()).await.unwrap().consumer_info(TICKETS).await.unwrap();
    let begins_after = info.ack_floor.stream_sequence;
    assert!(begins_after >= 3, "{info:?}");
    waits(&mut one, 43 - begins_after).await;
    waits(&mut other, 43 - begins_after).await;
}

#[tokio::test]
async fn only_consumers_of_sinks_are_listed_and_a_removed_sink_is_a_new_one() {
    let nats = Nats::start().await;
    publish(&nats, 0..3).await;
    let broker = nats.broker().await;
    let stream = nats.jetstream().get_stream(Stream::Alerts.name()).await.unwrap();
    for name in ["subscriber", "jira"] {
        let config = pull::Config { durable_name: Some(name.to_owned()), ..pull::Config::default() };
        stream.create_consumer(config).await.unwrap();
    }
    drop(open(&nats).await);
    let mut found = leftover::consumers(&broker, &[component("jira")]).await.unwrap();
    found.sort_by(|one, other| one.component.name.cmp(&other.component.name));
    let listed: Vec<(&Component, u64, bool)> =
        found.iter().map(|found| (&found.component, found.pending, found.is_read())).collect();
    // An earlier release made the first, which has no marks.
    // A process has just begun to read the second.
    assert_eq!(listed, [(&component("jira"), 3, false), (&component(TICKETS), 0, true)]);

    assert!(leftover::remove(&broker, &component(TICKETS)).await.unwrap());
    assert!(!leftover::remove(&broker, &component(TICKETS)).await.unwrap(), "it is gone");
    waits(&mut open(&nats).await, 0).await;
}

#[tokio::test]
async fn a_sink_is_known_to_be_read_as_soon_as_it_begins() {
    let nats = Nats::start().await;
    let broker = nats.broker().await;
    let stream = nats.jetstream().get_stream(Stream::Alerts.name()).await.unwrap();
    let is_read = async || {
        let [found] = leftover::consumers(&broker, &[]).await.unwrap().try_into().unwrap();
        found.is_read()
    };
    drop(open(&nats).await);
    assert!(is_read().await, "a new one");
    // Its process ended long ago. An earlier release left no sign at all.
    for read_at in [Some("7"), None] {
        let info = stream.consumer_info(TICKETS).await.unwrap();
        let mut old = pull::Config::try_from_consumer_config(info.config).unwrap();
        old.metadata.remove(READ_AT).expect("it is signed");
        old.metadata.extend(read_at.map(|at| (READ_AT.to_owned(), at.to_owned())));
        stream.update_consumer(old).await.unwrap();
        assert!(!is_read().await, "{read_at:?}");
        drop(open(&nats).await);
        assert!(is_read().await, "it has begun again: {read_at:?}");
    }
}

#[tokio::test]
async fn a_purge_is_no_sign_of_a_reader() {
    let nats = Nats::start().await;
    let mut subscriber = open(&nats).await;
    publish(&nats, 0..5).await;
    let (taken, _) = subscriber.gather(5, 1 << 20, CEILING, &CancellationToken::new()).await.unwrap();
    assert_eq!(taken.len(), 5);
    drop(subscriber);
    let stream = nats.jetstream().get_stream(Stream::Alerts.name()).await.unwrap();
    stream.purge().await.unwrap();
    let settled = async || {
        let info = stream.consumer_info(TICKETS).await.unwrap();
        (info.num_ack_pending == 0).then_some(info)
    };
    let info = poll::until("the purge settles what was taken", CEILING, settled).await.unwrap();
    // Retention purges a busy stream every few seconds.
    assert!(info.ack_floor.last_active > info.delivered.last_active, "{info:?}");
    let delivered = info.delivered.last_active.unwrap().unix_timestamp_nanos();
    let [found] = leftover::consumers(&nats.broker().await, &[]).await.unwrap().try_into().unwrap();
    assert_eq!(found.active_at, Some(Timestamp::from_unix_nanos(delivered)));
}
