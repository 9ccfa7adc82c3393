//! A sink that misses something in a process without a store. On a real broker.

use std::sync::Arc;
use std::time::Duration;

use headrace_local::poll;
use headrace_runtime::aside::record::{Cause, Range};
use headrace_runtime::aside::{Asides, consumer_of};
use headrace_runtime::broker::{Broker, Stream};
use headrace_runtime::component::subscription::Subscription;
use headrace_runtime::consume::Subscriber;
use headrace_runtime::consume::stranded::Stranded;
use headrace_runtime::message::payload::Outgoing;
use headrace_runtime::observe::health::{Health, State};
use headrace_schemas::event::Event;
use headrace_schemas::subject::{catch_up, catch_up_of};
use headrace_schemas::time::Timestamp;
use headrace_tests::conformance::Workers;
use headrace_tests::harness::samples::Sample as _;
use headrace_tests::harness::{CEILING, Nats, until};
use tokio_util::sync::CancellationToken;

/// How often they look here.
const PERIOD: Duration = Duration::from_millis(50);

fn look(broker: &Broker, sink: &str, health: &Health) -> Workers {
    let stranded = Arc::new(Stranded::new(broker, sink, health).looking_each(PERIOD));
    Workers::run(1, move |stop| {
        let stranded = Arc::clone(&stranded);
        async move { stranded.run(stop).await }
    })
}

/// What health says of the catching up of `sink`.
fn told(health: &Health, sink: &str) -> Option<State> {
    health.snapshot().remove(&consumer_of(sink))
}

async fn until_told(health: &Health, sink: &str, part: &str) {
    let is_told = || matches!(told(health, sink), Some(State::Broken(why)) if why.contains(part));
    until(&format!("{sink} tells `{part}`"), is_told).await;
}

fn subscription(sink: &str) -> Subscription {
    Subscription {
        component: consumer_of(sink),
        stream: Stream::CatchUp,
        filters: vec![catch_up_of(sink)],
        ack_wait: CEILING,
        unsettled_max: 10,
        sink: None,
    }
}

#[tokio::test]
async fn a_sink_that_misses_what_nobody_brings_says_so_until_somebody_does() {
    let nats = Nats::start().await;
    let (broker, health) = (nats.broker().await, Health::new());
    let asides = Asides::open(&broker).await.unwrap();
    let [since, end] = [1_000, 2_000].map(Timestamp::from_seconds);
    let range = Range { since, until: end, from: since, sequences: None, made_at: end, cause: Cause::Full };
    asides.change("splunk", |record| record.add(range.clone())).await.unwrap();
    let looking = [look(&broker, "file", &health), look(&broker, "splunk", &health)];
    until_told(&health, "splunk", "it has missed events of 1970-01-01T00:16:40").await;

    // Another process begins that brings it, and waits for messages.
    let own = subscription("splunk");
    let mut subscriber = Subscriber::open(&broker, &own).await.unwrap();
    let stop = CancellationToken::new();
    let reads = async {
        loop {
            subscriber.gather(1, 1 << 20, CEILING, &stop).await.unwrap();
        }
    };
    let well =
        poll::until("it is well", CEILING, async || (told(&health, "splunk") == Some(State::Healthy)).then_some(()));
    tokio::select! {
        () = reads => unreachable!("it reads on"),
        well = well => well.unwrap(),
    }
    assert_eq!(told(&health, "file"), None, "it misses nothing");
    for own in looking {
        own.stop().await;
    }
}

#[tokio::test]
async fn what_waits_in_catchup_for_nobody_is_told() {
    let nats = Nats::start().await;
    let (broker, health) = (nats.broker().await, Health::new());
    Subscriber::open(&broker, &subscription("splunk")).await.unwrap();
    let looking = look(&broker, "splunk", &health);
    let message = Event::sample(0).message();
    nats.publish(Outgoing { subject: catch_up("splunk", &message.subject), ..message }).await;
    until_told(&health, "splunk", "1 wait for it in CATCHUP").await;
    looking.stop().await;
}
