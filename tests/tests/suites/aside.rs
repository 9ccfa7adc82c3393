//! When a sink is set aside, and what is written down of it. On a real broker, one look of retention at a time.

use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::message::Message;
use async_nats::jetstream::stream::{Config, State};
use futures::StreamExt as _;
use headrace_local::poll;
use headrace_runtime::aside::record::{Cause, Range, Record};
use headrace_runtime::aside::{Asides, consumer_of, retention};
use headrace_runtime::broker::{Broker, Stream};
use headrace_runtime::component::subscription::{Owner, Start, Subscription, WhenBehind};
use headrace_runtime::config::{Limits, Streams};
use headrace_runtime::consume::Subscriber;
use headrace_runtime::consume::leftover::{self, Component};
use headrace_schemas::subject::catch_up;
use headrace_schemas::time::Timestamp;
use headrace_tests::harness::{CEILING, Nats, streams};

const SINK: &str = "splunk";
const STORE: &str = "clickhouse";
/// A message of these makes up a hundredth of the stream.
const MESSAGE_BYTES: usize = 10 << 10;
const STREAM_BYTES: u64 = 1 << 20;

struct Bed {
    nats: Nats,
    broker: Broker,
}

impl Bed {
    async fn start() -> Self {
        let events = Limits { max_bytes: STREAM_BYTES, ..streams().events };
        let nats = Nats::with(Streams { events, ..streams() }).await;
        let broker = nats.broker().await;
        Self { nats, broker }
    }

    /// Makes the consumer of a sink, as a process that runs it does.
    async fn consumer(&self, component: &str, when_behind: WhenBehind) {
        self.consumer_on(Stream::Events, component, component, when_behind).await;
    }

    async fn consumer_on(&self, stream: Stream, component: &str, sink: &str, when_behind: WhenBehind) {
        let (instance, kind) = (sink.to_owned(), sink.to_owned());
        let subscription = Subscription {
            component: component.to_owned(),
            stream,
            filters: Vec::new(),
            ack_wait: CEILING,
            unsettled_max: 10_000,
            sink: Some(Owner { instance, kind, start: Start::Stored, when_behind }),
        };
        Subscriber::open(&self.broker, &subscription).await.unwrap();
    }

    async fn stream(&self) -> async_nats::jetstream::stream::Stream {
        self.nats.jetstream().get_stream(Stream::Events.name()).await.unwrap()
    }

    async fn state(&self) -> State {
        self.stream().await.cached_info().state.clone()
    }

    async fn publish(&self, count: usize) {
        for _ in 0..count {
            let sent = self.nats.jetstream().publish("events.scored.acme.code.low", vec![b'x'; MESSAGE_BYTES].into());
            sent.await.unwrap().await.unwrap();
        }
    }

    /// Takes the next `count` messages of a consumer.
    async fn take(&self, component: &str, count: usize) -> Vec<Message> {
        let consumer = self.stream().await.get_consumer::<pull::Config>(component).await.unwrap();
        let messages = consumer.fetch().max_messages(count).messages().await.unwrap();
        let taken: Vec<Message> = messages.map(Result::unwrap).collect().await;
        assert_eq!(taken.len(), count, "{component}");
        taken
    }

    /// Settles the next `count` messages of a consumer.
    async fn settle(&self, component: &str, count: usize) {
        for message in self.take(component, count).await {
            message.double_ack().await.unwrap();
        }
    }

    /// The time at which the message `sequence` was stored.
    async fn stored_at(&self, sequence: u64) -> Timestamp {
        let message = self.stream().await.get_raw_message(sequence).await.unwrap();
        Timestamp::from_unix_nanos(message.time.unix_timestamp_nanos())
    }

    async fn record(&self) -> Record {
        Asides::open(&self.broker).await.unwrap().record(SINK).await.unwrap()
    }

    async fn make_room(&self) {
        retention::make_room(&self.broker).await.unwrap();
    }

    async fn set_max_age(&self, max_age: Duration) {
        let config = self.stream().await.cached_info().config.clone();
        let config = Config { max_age, duplicate_window: max_age, ..config };
        self.nats.jetstream().update_stream(config).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_sink_misses_is_written_down_before_it_is_purged() {
    let bed = Bed::start().await;
    bed.consumer(STORE, WhenBehind::Store { place: 1 }).await;
    bed.consumer(SINK, WhenBehind::SetAside).await;
    bed.publish(60).await;
    bed.settle(STORE, 60).await;
    bed.settle(SINK, 4).await;
    bed.make_room().await;
    assert_eq!((bed.state().await.first_sequence, bed.record().await.ranges.len()), (1, 0), "there is room");

    bed.publish(25).await;
    bed.settle(STORE, 25).await;
    let skew = bed.broker.clock_skew();
    let oldest = bed.stored_at(5).await.minus(skew);
    let times: Vec<Timestamp> = futures::future::join_all((1..=85).map(|sequence| bed.stored_at(sequence))).await;
    bed.make_room().await;
    let first = bed.state().await.first_sequence;
    assert!(first > 5, "it made room beyond what the sink has settled");
    let record = bed.record().await;
    assert_eq!(record.ranges.len(), 1, "{record:?}");
    let range = &record.ranges[0];
    assert_eq!((range.sequences, range.cause), (Some((5, first - 1)), Cause::Full));
    assert_eq!((range.since, range.from), (oldest, oldest));
    let last = times[usize::try_from(first).unwrap() - 2];
    let next = times[usize::try_from(first).unwrap() - 1];
    assert!(last.plus(skew) < range.until && range.until <= next.plus(skew), "{range:?}");
    // The sink goes on with what is left.
    let info = bed.stream().await.consumer_info(SINK).await.unwrap();
    assert_eq!((info.ack_floor.stream_sequence, info.num_pending), (first - 1, 86 - first));

    // Nothing more is missed while there is room, and what follows makes no second range.
    bed.make_room().await;
    assert_eq!(bed.record().await.ranges, record.ranges);
    bed.publish(30).await;
    bed.settle(STORE, 30).await;
    bed.make_room().await;
    let later = bed.record().await;
    let first = bed.state().await.first_sequence;
    assert_eq!(later.ranges.len(), 1, "{later:?}");
    assert_eq!((later.ranges[0].since, later.ranges[0].sequences), (oldest, Some((5, first - 1))));

    // A sink that is removed has missed nothing.
    let component =
        Component { instance: SINK.to_owned(), kind: SINK.to_owned(), name: SINK.to_owned(), stream: Stream::Events };
    assert!(leftover::remove(&bed.broker, &component).await.unwrap());
    assert_eq!(bed.record().await, Record::default());
}

#[tokio::test]
async fn only_sinks_that_can_catch_up_are_passed_over() {
    let bed = Bed::start().await;
    bed.consumer(SINK, WhenBehind::SetAside).await;
    bed.publish(80).await;
    bed.make_room().await;
    assert_eq!(bed.state().await.first_sequence, 1, "nothing keeps what it would miss");

    // The store itself has settled only a part.
    bed.consumer(STORE, WhenBehind::Store { place: 1 }).await;
    bed.settle(STORE, 5).await;
    bed.make_room().await;
    assert_eq!(bed.state().await.first_sequence, 6);
    assert_eq!(bed.record().await.ranges[0].sequences, Some((1, 5)));

    // A program that reads the stream has no record, so it is waited for.
    let own = pull::Config { durable_name: Some("subscriber".to_owned()), ..pull::Config::default() };
    bed.stream().await.create_consumer(own).await.unwrap();
    bed.settle(STORE, 75).await;
    bed.publish(4).await;
    bed.make_room().await;
    assert_eq!(bed.state().await.first_sequence, 6);
    bed.settle("subscriber", 10).await;
    bed.make_room().await;
    assert_eq!(bed.state().await.first_sequence, 16);
    assert_eq!(bed.record().await.ranges[0].sequences, Some((1, 15)));
}

#[tokio::test]
async fn a_store_at_another_place_gives_nothing_back_of_what_the_former_was_given() {
    let bed = Bed::start().await;
    bed.consumer(STORE, WhenBehind::Store { place: 1 }).await;
    bed.consumer(SINK, WhenBehind::SetAside).await;
    bed.publish(40).await;
    bed.settle(STORE, 40).await;
    // A process of the same configuration changes nothing, one of another begins anew.
    for place in [1, 2] {
        bed.consumer(STORE, WhenBehind::Store { place }).await;
    }
    bed.publish(40).await;
    bed.settle(STORE, 40).await;
    bed.make_room().await;
    assert!(bed.state().await.first_sequence == 1 && !bed.record().await.is_behind(), "it would be lost");
    bed.settle(SINK, 40).await;
    bed.make_room().await;
    let first = bed.state().await.first_sequence;
    assert!((2..=41).contains(&first), "what all have settled makes room: {first}");
    bed.publish(40).await;
    bed.settle(STORE, 40).await;
    bed.make_room().await;
    assert!(bed.record().await.is_behind(), "the present store gives it back");
}

#[tokio::test]
async fn what_is_left_of_a_sink_on_catchup_alone_is_told_and_removed() {
    let bed = Bed::start().await;
    let own = consumer_of(SINK);
    bed.consumer(SINK, WhenBehind::SetAside).await;
    bed.consumer_on(Stream::CatchUp, &own, SINK, WhenBehind::Wait).await;
    let subject = catch_up(SINK, "events.scored.acme.code.low");
    bed.nats.jetstream().publish(subject, "x".into()).await.unwrap().await.unwrap();
    let asides = Asides::open(&bed.broker).await.unwrap();
    asides.change(SINK, |record| record.brought = 7).await.unwrap();
    let told = async || -> Vec<Component> {
        let found = leftover::consumers(&bed.broker, &[]).await.unwrap();
        found.into_iter().map(|found| found.component).collect()
    };
    let component = |name: &str, stream| Component {
        instance: SINK.to_owned(),
        kind: SINK.to_owned(),
        name: name.to_owned(),
        stream,
    };
    let whole = component(SINK, Stream::Events);
    assert_eq!(told().await, std::slice::from_ref(&whole), "it belongs to the other");
    bed.stream().await.delete_consumer(SINK).await.unwrap();
    let orphan = component(&own, Stream::CatchUp);
    assert_eq!(told().await, std::slice::from_ref(&orphan));
    assert!(whole.covers(&orphan), "a sink that is configured has left nothing behind");

    assert!(leftover::remove(&bed.broker, &orphan).await.unwrap());
    assert_eq!((told().await, bed.record().await), (vec![], Record::default()));
    let catch_up = bed.nats.jetstream().get_stream(Stream::CatchUp.name()).await.unwrap();
    assert_eq!(catch_up.cached_info().state.messages, 0);
}

#[tokio::test]
async fn what_becomes_too_old_is_written_down() {
    const AGE: Duration = Duration::from_secs(5);
    let bed = Bed::start().await;
    bed.set_max_age(AGE).await;
    bed.consumer(STORE, WhenBehind::Store { place: 1 }).await;
    bed.consumer(SINK, WhenBehind::SetAside).await;
    bed.make_room().await;
    bed.publish(3).await;
    bed.settle(STORE, 3).await;
    let (first, last) = (bed.stored_at(1).await, bed.stored_at(3).await);
    bed.make_room().await;
    assert!(!bed.record().await.is_behind(), "they are not old yet");
    let noted = async || {
        bed.make_room().await;
        Some(bed.record().await).filter(Record::is_behind)
    };
    let record = poll::until("what ends soon is noted", CEILING, noted).await.unwrap();
    assert_eq!(record.ranges[0].cause, Cause::Age);
    assert!(record.ranges[0].since <= first && record.ranges[0].until > last, "{record:?}");

    // Nobody looks until they are gone.
    bed.publish(4).await;
    bed.settle(STORE, 4).await;
    let (first, last) = (bed.stored_at(4).await, bed.stored_at(7).await);
    let gone = async || (bed.state().await.messages == 0).then_some(());
    poll::until("they are gone", CEILING, gone).await.unwrap();
    bed.make_room().await;
    let record = bed.record().await;
    let is_noted = record.ranges.iter().any(|range| range.from <= first && range.until > last);
    assert!(is_noted, "{record:?}");
}

#[tokio::test]
async fn the_note_of_an_empty_stream_does_not_outlast_its_first_message() {
    let bed = Bed::start().await;
    bed.consumer(STORE, WhenBehind::Store { place: 1 }).await;
    bed.consumer(SINK, WhenBehind::SetAside).await;
    bed.make_room().await;
    assert_eq!(bed.record().await.seen.unwrap().sequence, 0);
    bed.publish(1).await;
    bed.make_room().await;
    let seen = bed.record().await.seen.unwrap();
    assert_eq!((seen.sequence, seen.stored_at), (0, bed.stored_at(1).await), "what it misses begins with the message");
    bed.make_room().await;
    assert_eq!(bed.record().await.seen, Some(seen), "it is not written at each look");
    bed.settle(STORE, 1).await;
    bed.settle(SINK, 1).await;
    bed.make_room().await;
    assert_eq!(bed.record().await.seen.unwrap().sequence, 1);
}

#[tokio::test]
async fn what_expires_while_it_is_delivered_is_written_down() {
    let bed = Bed::start().await;
    bed.consumer(STORE, WhenBehind::Store { place: 1 }).await;
    bed.consumer(SINK, WhenBehind::SetAside).await;
    bed.make_room().await;
    let seen = bed.record().await.seen.unwrap();

    // Then nobody looks until they are gone.
    bed.set_max_age(Duration::ZERO).await;
    bed.publish(3).await;
    bed.settle(STORE, 3).await;
    let _held = bed.take(SINK, 3).await;
    bed.set_max_age(Duration::from_secs(1)).await;
    let counts_as_settled = async || {
        let info = bed.stream().await.consumer_info(SINK).await.unwrap();
        (bed.state().await.messages == 0 && info.ack_floor.stream_sequence == 3).then_some(())
    };
    poll::until("they are gone, and the broker counts them as settled", CEILING, counts_as_settled).await.unwrap();
    let looked_at = Timestamp::now();
    bed.make_room().await;
    let record = bed.record().await;
    assert_eq!(record.ranges.len(), 1, "{record:?}");
    let range = &record.ranges[0];
    assert_eq!((range.sequences, range.cause), (Some((1, 3)), Cause::Age));
    // A later message may have an earlier time.
    let skew = bed.broker.clock_skew();
    assert_eq!((range.since, range.from), (seen.stored_at.minus(skew), seen.stored_at.minus(skew)));
    assert!(range.until >= looked_at.plus(skew), "{range:?}");
}

#[tokio::test]
async fn what_an_earlier_release_put_into_the_store_is_waited_for() {
    let bed = Bed::start().await;
    let earlier = pull::Config { durable_name: Some(STORE.to_owned()), ..pull::Config::default() };
    bed.stream().await.create_consumer(earlier).await.unwrap();
    bed.consumer(SINK, WhenBehind::SetAside).await;
    bed.publish(85).await;
    bed.settle(STORE, 40).await;
    bed.settle(SINK, 10).await;
    bed.make_room().await;
    let found = async || (bed.state().await.first_sequence, bed.record().await.ranges.len());
    assert_eq!(found().await, (11, 0), "the store has no mark yet");

    bed.consumer(STORE, WhenBehind::Store { place: 1 }).await;
    bed.settle(STORE, 45).await;
    bed.publish(10).await;
    bed.make_room().await;
    assert_eq!(found().await, (11, 0), "the sink would miss for good what the store has from the earlier release");
    // A second process, or the next start.
    bed.consumer(STORE, WhenBehind::Store { place: 1 }).await;
    bed.settle(SINK, 30).await;
    bed.make_room().await;
    assert_eq!(found().await, (41, 0), "all have settled so much");

    bed.publish(35).await;
    bed.settle(STORE, 45).await;
    bed.make_room().await;
    let (first, ranges) = found().await;
    assert!(first > 41 && ranges == 1, "the store can give back what it got since: {first}, {ranges} ranges");
    assert_eq!(bed.record().await.ranges[0].sequences, Some((41, first - 1)));
}

#[tokio::test]
async fn the_time_of_a_purge_is_noted_although_its_range_was_known() {
    let bed = Bed::start().await;
    bed.consumer(STORE, WhenBehind::Store { place: 1 }).await;
    bed.consumer(SINK, WhenBehind::SetAside).await;
    bed.publish(85).await;
    bed.settle(STORE, 85).await;
    // As a process leaves it that dies before the purge.
    let hour = Duration::from_secs(3_600);
    let (since, until) = (Timestamp::now().minus(hour), Timestamp::now().plus(hour));
    let range = Range { since, until, from: since, sequences: Some((1, 85)), made_at: since, cause: Cause::Full };
    let asides = Asides::open(&bed.broker).await.unwrap();
    let write = |record: &mut Record| (record.ranges, record.taken_at) = (vec![range.clone()], Some(since));
    asides.change(SINK, write).await.unwrap();
    let began_at = Timestamp::now();
    bed.make_room().await;
    assert!(bed.state().await.first_sequence > 1, "it was purged");
    let record = bed.record().await;
    assert_eq!(record.ranges, [range]);
    assert!(record.taken_at.is_some_and(|taken_at| taken_at >= began_at), "{record:?}");
}
