//! Messages are ours for as long as the broker says, and not for as long as our own configuration says: another
//! configuration may have shortened the consumer's `ack_wait`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::consumer::{Consumer, FromConsumer as _, Info, pull};
use async_nats::jetstream::{self, stream};
use async_trait::async_trait;
use futures::StreamExt as _;
use headrace_local::poll;
use headrace_runtime::aside::pause::Gate;
use headrace_runtime::broker::Stream;
use headrace_runtime::component::batch::{Batch, BatchPolicy};
use headrace_runtime::component::sink::{BatchResult, Sink};
use headrace_runtime::component::subscription::Subscription;
use headrace_runtime::consume::Subscriber;
use headrace_runtime::consume::sink::SinkLoop;
use headrace_runtime::fault::Fault;
use headrace_runtime::limit::{Limiter, Limits};
use headrace_runtime::observe::health::Health;
use headrace_runtime::settle::settler::Settler;
use headrace_schemas::event::Event;
use headrace_tests::conformance::{COMPONENT, POLICY, Workers};
use headrace_tests::harness::samples::Sample as _;
use headrace_tests::harness::{CEILING, Nats};
use serde_json::Value;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// What our configuration says.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// What the other configuration says.
const SHORTENED: Duration = Duration::from_secs(1);
/// More bytes than any message here has.
const BYTES_MAX: usize = 1 << 20;

fn subscription(component: &str, ack_wait: Duration) -> Subscription {
    Subscription {
        component: component.to_owned(),
        stream: Stream::Events,
        filters: Vec::new(),
        ack_wait,
        unsettled_max: 16,
        sink: None,
    }
}

async fn events(jetstream: &jetstream::Context) -> stream::Stream {
    jetstream.get_stream(Stream::Events.name()).await.unwrap()
}

async fn state(jetstream: &jetstream::Context) -> Option<Info> {
    events(jetstream).await.consumer_info(COMPONENT).await.ok()
}

/// Gives the consumer another `ack_wait`, as a process with another configuration does.
async fn shorten(jetstream: &jetstream::Context) {
    let stream = events(jetstream).await;
    let consumer: Consumer<pull::Config> = stream.get_consumer(COMPONENT).await.unwrap();
    let config = pull::Config::try_from_consumer_config(consumer.cached_info().config.clone()).unwrap();
    stream.update_consumer(pull::Config { ack_wait: SHORTENED, ..config }).await.unwrap();
}

/// Notes the consumer's `ack_wait` at the broker at each delivery.
struct Witness {
    jetstream: jetstream::Context,
    seen: Arc<Mutex<Vec<Duration>>>,
}

#[async_trait]
impl Sink for Witness {
    type Item = Event;

    async fn check(&self) -> Result<(), Fault> {
        Ok(())
    }

    async fn deliver(&self, batch: &Batch<Event>) -> BatchResult {
        let consumer = state(&self.jetstream).await.unwrap();
        self.seen.lock().unwrap().push(consumer.config.ack_wait);
        BatchResult::all(batch.items().len())
    }
}

#[tokio::test]
async fn a_sink_leaves_the_messages_that_are_no_longer_its_own() {
    let nats = Nats::start().await;
    let (broker, seen) = (nats.broker().await, Arc::new(Mutex::new(Vec::new())));
    let settler = Settler::new(COMPONENT, &broker, POLICY, Health::new().register(COMPONENT));
    let sink = Arc::new(SinkLoop {
        broker,
        subscription: subscription(COMPONENT, ACK_WAIT),
        sink: Witness { jetstream: nats.jetstream().clone(), seen: Arc::clone(&seen) },
        batching: BatchPolicy { events_max: 1, bytes_max: BYTES_MAX, linger: ACK_WAIT },
        call_timeout: Duration::from_secs(1),
        limiter: Limiter::new(COMPONENT, &Limits::default()),
        settler,
        gate: Gate::default(),
    });
    let workers = Workers::run(1, move |stop| {
        let sink = Arc::clone(&sink);
        async move { sink.run_worker(stop).await }
    });
    // The worker looks at the consumer's configuration before a request. So the change falls into an open one.
    let asks = async || state(nats.jetstream()).await.filter(|consumer| consumer.num_waiting == 1);
    poll::until("the worker asks for messages", CEILING, asks).await.unwrap();
    shorten(nats.jetstream()).await;
    nats.publish(Event::sample(1).message()).await;
    let is_decided = async || {
        let is_given_again = state(nats.jetstream()).await.is_some_and(|consumer| consumer.num_redelivered > 0);
        (is_given_again || !seen.lock().unwrap().is_empty()).then_some(())
    };
    poll::until("the message is given again, or delivered", CEILING, is_decided).await.unwrap();
    // On a slow machine the worker has found the change by now, and has changed it back.
    let seen = seen.lock().unwrap().clone();
    assert!(seen.iter().all(|ack_wait| *ack_wait == ACK_WAIT), "delivered while another may have it: {seen:?}");
    workers.stop().await;
}

#[tokio::test]
async fn a_consumer_that_is_shortened_again_is_read_no_further() {
    let nats = Nats::start().await;
    let broker = nats.broker().await;
    let mut first = Subscriber::open(&broker, &subscription(COMPONENT, ACK_WAIT)).await.unwrap();
    let mut second = Subscriber::open(&broker, &subscription(COMPONENT, ACK_WAIT)).await.unwrap();
    shorten(nats.jetstream()).await;
    // The first that sees it changes it back for both.
    for subscriber in [&mut first, &mut second] {
        let refused = refusal(subscriber).await;
        assert!(refused.contains("with the configuration that we gave it, found another"), "{refused}");
    }
    // A process changes a consumer back once in a while only. Another change is left, but not this one.
    let mut third = Subscriber::open(&broker, &subscription(COMPONENT, ACK_WAIT)).await.unwrap();
    shorten(nats.jetstream()).await;
    let refused = refusal(&mut third).await;
    assert!(refused.contains("with an ack_wait of 30s or more, found 1s"), "{refused}");
}

/// Reads until that is refused. Returns why.
async fn refusal(subscriber: &mut Subscriber) -> String {
    let stop = CancellationToken::new();
    let refused = async {
        loop {
            if let Err(error) = subscriber.gather(1, BYTES_MAX, Duration::from_millis(50), &stop).await {
                return format!("{error:#}");
            }
        }
    };
    timeout(CEILING, refused).await.expect("the consumer has another configuration")
}

#[tokio::test]
async fn a_request_stays_open_for_half_of_the_ack_wait_at_most() {
    let nats = Nats::start().await;
    let (broker, stop) = (nats.broker().await, CancellationToken::new());
    let spy = nats.jetstream().client();
    let mut requests = spy.subscribe("$JS.API.CONSUMER.MSG.NEXT.>").await.unwrap();
    // The server answers after it has taken what was sent before on this connection.
    events(nats.jetstream()).await;
    let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
    for (number, (ack_wait, linger, expected)) in
        [(second, minute, second / 2), (minute, minute, minute / 2), (minute, second, second)].into_iter().enumerate()
    {
        let subscription = subscription(&format!("gathers-{number}"), ack_wait);
        let mut subscriber = Subscriber::open(&broker, &subscription).await.unwrap();
        let asked = open_for(&mut requests, subscriber.gather(1, BYTES_MAX, linger, &stop)).await;
        assert_eq!(asked, expected, "ack_wait {ack_wait:?}, linger {linger:?}");
    }
    for (number, (ack_wait, expected)) in
        [(second, second / 2), (minute, Duration::from_secs(5))].into_iter().enumerate()
    {
        let subscription = subscription(&format!("takes-{number}"), ack_wait);
        let mut subscriber = Subscriber::open(&broker, &subscription).await.unwrap();
        let asked = open_for(&mut requests, subscriber.ready(1, BYTES_MAX, &stop)).await;
        assert_eq!(asked, expected, "ack_wait {ack_wait:?}");
    }
}

/// For how long the request that `asking` sends is to stay open.
async fn open_for<T>(requests: &mut async_nats::Subscriber, asking: impl Future<Output = T>) -> Duration {
    let request = tokio::select! {
        request = requests.next() => request,
        _ = asking => requests.next().await,
    };
    let request: Value = serde_json::from_slice(&request.expect("connected").payload).unwrap();
    Duration::from_nanos(request["expires"].as_u64().expect("every request tells when it ends"))
}
