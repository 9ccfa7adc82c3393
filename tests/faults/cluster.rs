//! Where a cluster of NATS servers behaves differently from a single server.

use std::collections::BTreeSet;
use std::time::Duration;

use headrace_runtime::broker::Stream;
use headrace_runtime::component::subscription::Subscription;
use headrace_runtime::consume::Subscriber;
use headrace_schemas::event::Event;
use headrace_tests::faults::{Fault, Scenario};
use headrace_tests::harness::Nats;
use headrace_tests::harness::samples::Sample as _;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::survives;

/// A cluster may say that a request is filled before it sends the last messages for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filled_request_brings_all_its_messages() {
    const BATCH: usize = 50;
    let nats = Nats::cluster().await;
    nats.publish_all((0..500).map(|number| Event::sample(number).message())).await;
    let subscription = Subscription {
        component: "filled".to_owned(),
        stream: Stream::Events,
        filters: Vec::new(),
        // Longer than all requests together, unless a leader is lost.
        ack_wait: Duration::from_secs(20),
        unsettled_max: 10_000,
        sink: None,
    };
    let mut subscriber = Subscriber::open(&nats.broker().await, &subscription).await.unwrap();
    let stop = CancellationToken::new();
    let mut sequences = BTreeSet::new();
    let deadline = Instant::now() + Duration::from_secs(60);
    while sequences.len() < 500 && Instant::now() < deadline {
        match subscriber.gather(BATCH, 8 << 20, Duration::from_secs(2), &stop).await {
            Ok((taken, _)) => sequences.extend(taken.iter().map(|message| message.sequence)),
            // The leader of a young cluster may change. What the old one had delivered is delivered again.
            Err(error) => {
                eprintln!("asking again: {error:#}");
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
    assert_eq!(sequences, (1..=500).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_stored_twice_when_leaders_change() {
    const FAULTS: &[Fault] = &[Fault::KillLeader, Fault::RollingNats, Fault::KillNats, Fault::KillSink];
    survives(5, 10, 3, Scenario { faults: FAULTS, ..Scenario::CLUSTER }).await;
}
