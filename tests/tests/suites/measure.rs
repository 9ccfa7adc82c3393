//! What the gauges of streams and consumers show after an error and after a restart of their task.

use headrace_local::poll;
use headrace_runtime::broker::Stream;
use headrace_runtime::broker::measure::Measure;
use headrace_runtime::component::subscription::Subscription;
use headrace_runtime::consume::Subscriber;
use headrace_runtime::http::admin;
use headrace_runtime::message::payload::RawDelivery;
use headrace_runtime::observe::metrics;
use headrace_tests::harness::samples::Sample as _;
use headrace_tests::harness::{CEILING, Nats, streams};
use headrace_tests::product::admin::sample;
use tokio_util::sync::CancellationToken;

const COMPONENT: &str = "measured";
const AGE: &str = r#"headrace_consumer_oldest_unsettled_seconds{component="measured",stream="RAW"}"#;
const WAITING: &str = r#"headrace_consumer_lag{component="measured"}"#;
const DEAD: &str = r#"headrace_dead_letters_waiting{component="measured"}"#;

/// The only test of this program that reads the process's metrics: there is one recorder for all.
#[tokio::test]
async fn what_vanished_shows_nothing_though_the_task_began_anew() {
    let metrics = metrics::install().unwrap();
    let show = || metrics.render();
    let nats = Nats::start().await;
    let broker = nats.broker().await;
    let subscription = Subscription {
        component: COMPONENT.to_owned(),
        stream: Stream::Raw,
        filters: Vec::new(),
        ack_wait: CEILING,
        unsettled_max: 1,
        sink: None,
    };
    Subscriber::open(&broker, &subscription).await.unwrap();
    nats.publish(RawDelivery::sample(1).message()).await;
    let measure = Measure::new(&broker);

    // It comes as far as the stream that is gone, as often as it is started.
    nats.jetstream().delete_stream(Stream::Alerts.name()).await.unwrap();
    let fails = async || {
        let error = format!("{:#}", measure.run(CancellationToken::new()).await.unwrap_err());
        assert!(error.contains("cannot open the stream ALERTS"), "{error}");
        sample(&show(), AGE).filter(|age| *age > 0.0)
    };
    poll::until("the message's age is shown", CEILING, fails).await.unwrap();
    let raw = nats.jetstream().get_stream(Stream::Raw.name()).await.unwrap();
    raw.delete_consumer(COMPONENT).await.unwrap();
    broker.ensure_topology(&streams()).await.unwrap();
    until_shown(&measure, &show, AGE, 0.0).await;

    let buried = nats.jetstream().publish(format!("dead.{COMPONENT}.acme"), "given up".into()).await.unwrap();
    let sequence = buried.await.unwrap().sequence;
    until_shown(&measure, &show, DEAD, 1.0).await;
    let dead = nats.jetstream().get_stream(Stream::Dead.name()).await.unwrap();
    dead.delete_message(sequence).await.unwrap();
    until_shown(&measure, &show, DEAD, 0.0).await;

    nats.publish(RawDelivery::sample(2).message()).await;
    // The broker refuses a consumer whose filters overlap.
    let refused = Subscription {
        component: "refused".to_owned(),
        filters: ["raw.>", "raw.acme.>"].map(str::to_owned).to_vec(),
        ..subscription.clone()
    };
    assert!(Subscriber::open(&broker, &refused).await.is_err());
    let all = vec![(broker.clone(), refused), (broker.clone(), subscription)];
    let shown = async || sample(&show(), WAITING).filter(|waiting| *waiting > 0.0);
    tokio::select! {
        shown = poll::until("what waits for the other is shown", CEILING, shown) => { shown.unwrap(); }
        ended = admin::measure_lag(all, metrics.clone(), CancellationToken::new()) => panic!("it ended: {ended:?}"),
    }
}

/// Starts the task, waits until `series` shows `expected`, and cuts the task off.
async fn until_shown(measure: &Measure, show: &impl Fn() -> String, series: &str, expected: f64) {
    let is_shown = async || sample(&show(), series).filter(|shown| *shown == expected);
    tokio::select! {
        shown = poll::until(series, CEILING, is_shown) => { shown.unwrap(); }
        ended = measure.run(CancellationToken::new()) => panic!("it ended by itself: {ended:?}"),
    }
}
