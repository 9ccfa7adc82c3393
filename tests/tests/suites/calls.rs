//! When a sink is called, and with what: keys, the rate, and a breaker that all workers share.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::anyhow;
use headrace_runtime::component::batch::Key;
use headrace_runtime::component::sink::BatchResult;
use headrace_runtime::fault::Fault;
use headrace_runtime::limit::{BreakerPolicy, Limits, Rate};
use headrace_runtime::observe::health::State;
use headrace_schemas::event::Event;
use headrace_tests::conformance::POLICY;
use headrace_tests::harness::{CEILING, until};
use tokio::time::Instant;

use super::scripted::Bed;

/// The key and the sequence of each item of a batch.
type Items = Vec<(String, u64)>;

/// Three keys, by number.
fn key_of(event: &Event) -> Key {
    let number = event.repository.as_ref().and_then(|repository| repository.id).unwrap();
    Key::new((number % 3).to_string())
}

fn down(bed: &Bed) {
    bed.answers(|_| BatchResult::Whole(Fault::transient(anyhow!("the receiver is away"))));
}

fn is_open(bed: &Bed) -> bool {
    matches!(bed.state(), Some(State::Degraded(why)) if why.contains("no call is made until"))
}

#[tokio::test]
async fn a_batch_has_items_of_one_key_in_their_order_and_within_its_bounds() {
    const EVENTS_MAX: usize = 30;
    let bed = Bed::start().await;
    bed.keyed(key_of);
    // What is published after the first is of this incarnation, so it is not put off, and keeps its order.
    let workers = bed.run_workers(bed.nats.broker().await, POLICY, 1, EVENTS_MAX);
    bed.publish(200..201).await;
    bed.settled().await;
    let batches = Arc::new(Mutex::new(Vec::<Items>::new()));
    let seen = Arc::clone(&batches);
    bed.answers(move |batch| {
        let items = batch.items().iter().map(|item| (key_of(&item.value).as_str().to_owned(), item.sequence));
        seen.lock().unwrap().push(items.collect());
        BatchResult::all(batch.items().len())
    });
    bed.publish(0..200).await;
    bed.settled().await;
    assert_eq!(bed.received(), bed.ids(0..201), "each once");
    let batches = batches.lock().unwrap().clone();
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    for batch in &batches {
        assert!(batch.len() <= EVENTS_MAX && batch.iter().all(|(key, _)| *key == batch[0].0), "{batch:?}");
        for (key, sequence) in batch {
            let before = last.insert(key.clone(), *sequence);
            assert!(before < Some(*sequence), "{sequence} after {before:?}");
        }
    }
    assert_eq!(last.len(), 3);
    assert!(batches.iter().any(|batch| batch.len() > 1), "what is of one key goes together");
    workers.stop().await;
}

#[tokio::test]
async fn workers_share_a_breaker_and_a_shutdown_gives_back_what_waits_for_it() {
    const WORKERS: usize = 4;
    let mut bed = Bed::start().await;
    bed.limits.breaker = BreakerPolicy { open: CEILING * 10, ..BreakerPolicy::default() };
    down(&bed);
    let workers = bed.run_workers(bed.nats.broker().await, POLICY, WORKERS, 10);
    until("the receiver accepts us", || bed.state() == Some(State::Healthy)).await;
    bed.publish(0..200).await;
    until("the breaker is open", || is_open(&bed)).await;
    // The receiver is back, and nobody notices yet.
    bed.answers(|batch| BatchResult::all(batch.items().len()));
    workers.stop().await;
    let (calls, failures) = (bed.script.calls.load(Ordering::SeqCst), 5);
    assert!((failures..failures + WORKERS).contains(&calls), "{calls} calls");

    bed.limits = Limits::default();
    let workers = bed.run_workers(bed.nats.broker().await, POLICY, WORKERS, 10);
    bed.settled().await;
    assert_eq!(bed.received(), bed.ids(0..200), "each once");
    assert!(bed.dead("").await.is_empty());
    workers.stop().await;
}

#[tokio::test]
async fn what_waits_for_an_open_breaker_is_given_to_nobody_else() {
    let mut bed = Bed::start().await;
    // The breaker is open for longer than the broker waits for an acknowledgement, and that is long for a busy machine.
    (bed.ack_wait, bed.limits.breaker.open) = (Duration::from_secs(6), Duration::from_secs(8));
    let workers = bed.at_work(POLICY).await;
    down(&bed);
    bed.publish(0..20).await;
    until("the breaker is open", || is_open(&bed)).await;
    let redelivered: Arc<Mutex<Vec<bool>>> = Arc::default();
    let seen = Arc::clone(&redelivered);
    bed.answers(move |batch| {
        seen.lock().unwrap().extend(batch.items().iter().map(|item| item.redelivered));
        BatchResult::all(batch.items().len())
    });
    bed.settled().await;
    assert_eq!(*redelivered.lock().unwrap(), [false; 20], "each once, and they stayed ours");
    until("health turns green", || bed.state() == Some(State::Healthy)).await;
    workers.stop().await;
}

#[tokio::test]
async fn a_rate_spaces_calls_out_over_all_workers() {
    const APART: Duration = Duration::from_millis(100);
    let mut bed = Bed::start().await;
    bed.limits.rate = Rate { per_call: APART, per_event: Duration::ZERO, burst: Duration::ZERO };
    bed.publish(0..100).await;
    let began = Instant::now();
    let workers = bed.run_workers(bed.nats.broker().await, POLICY, 3, 10);
    bed.settled().await;
    assert_eq!(bed.received(), bed.ids(0..100), "each once");
    let calls = u32::try_from(bed.script.calls.load(Ordering::SeqCst)).unwrap();
    assert!(calls >= 10 && began.elapsed() >= APART * (calls - 1), "{calls} calls in {:?}", began.elapsed());
    workers.stop().await;
}
