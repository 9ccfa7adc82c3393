//! Who is to blame for a refusal: the item or the receiver. Nothing is given up for what the receiver does to every item.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::anyhow;
use async_nats::jetstream::stream;
use headrace_runtime::broker::Stream;
use headrace_runtime::component::batch::Batch;
use headrace_runtime::component::sink::{BatchResult, Taken};
use headrace_runtime::fault::{DeadReason, Effect, Fault};
use headrace_runtime::message::payload::Payload as _;
use headrace_runtime::observe::health::State;
use headrace_runtime::retry::RetryPolicy;
use headrace_schemas::event::Event;
use headrace_tests::conformance::POLICY;
use headrace_tests::harness::until;

use super::scripted::{Bed, Calls};

const EVERY: &str = "the receiver refuses every item";

fn poison() -> Fault {
    Fault::poison(DeadReason::Rejected, anyhow!("this item is refused"))
}

/// Accepts a batch without any of these items, as a receiver that takes all or nothing.
fn refusing(ids: Vec<String>) -> impl Fn(&Batch<Event>) -> BatchResult {
    let refused: BTreeSet<String> = ids.into_iter().collect();
    move |batch| {
        if batch.items().iter().any(|item| refused.contains(item.value.id())) {
            return BatchResult::Whole(poison());
        }
        BatchResult::all(batch.items().len())
    }
}

#[tokio::test]
async fn a_receiver_that_refuses_every_item_is_broken_and_no_item_is_given_up() {
    let bed = Bed::start().await;
    bed.answers(refusing(bed.ids(0..300)));
    bed.publish(0..300).await;
    // Long pauses, so that the calls below are those of one attempt.
    let pause = Duration::from_secs(2);
    let workers = bed.run(RetryPolicy { backoff_min: pause, backoff_max: pause, ..POLICY }).await;
    until("the receiver is to blame", || bed.is_broken(EVERY)).await;
    let calls = bed.script.calls.load(Ordering::SeqCst);
    assert!((17..80).contains(&calls), "{calls} calls for 300 items");
    assert!(bed.is_broken("It says: this item is refused"), "{:?}", bed.state());
    assert!(bed.dead("").await.is_empty());
    bed.answers(refusing(Vec::new()));
    bed.settled().await;
    assert_eq!(bed.received(), bed.ids(0..300), "each once");
    assert!(bed.dead("").await.is_empty());
    until("health turns green", || bed.state() == Some(State::Healthy)).await;
    workers.stop().await;
}

#[tokio::test]
async fn items_that_are_refused_beside_accepted_ones_are_given_up_however_many_are_first() {
    let bed = Bed::start().await;
    bed.answers(refusing(bed.ids(0..40)));
    bed.publish(0..300).await;
    let workers = bed.run(POLICY).await;
    bed.settled().await;
    assert_eq!(bed.received(), bed.ids(40..300), "each once");
    assert_eq!(bed.dead("rejected").await, bed.ids(0..40));
    until("health turns green", || bed.state() == Some(State::Healthy)).await;
    workers.stop().await;
}

#[tokio::test]
async fn a_single_refused_item_is_given_up_on_the_receivers_word_and_a_second_is_not() {
    let bed = Bed::start().await;
    bed.answers(refusing(bed.ids(0..10)));
    let workers = bed.run(POLICY).await;
    bed.publish(1..2).await;
    bed.settled().await;
    assert_eq!(bed.dead("rejected").await, bed.ids(1..2));
    until("health turns green", || bed.state() == Some(State::Healthy)).await;

    for number in 2..5 {
        bed.publish(number..number + 1).await;
        until("the receiver is to blame", || bed.is_broken(EVERY)).await;
    }
    assert_eq!(bed.dead("rejected").await, bed.ids(1..2), "the receiver has accepted nothing since");
    // It accepts something, so it works, and what it goes on to refuse is to blame.
    bed.publish(10..11).await;
    bed.settled().await;
    assert_eq!(bed.received(), bed.ids(10..11));
    assert_eq!(bed.dead("rejected").await, bed.ids(1..5));
    until("health turns green", || bed.state() == Some(State::Healthy)).await;
    workers.stop().await;
}

#[tokio::test]
async fn a_single_refused_item_stays_while_the_receiver_is_not_in_order() {
    let bed = Bed::start().await;
    bed.answers(refusing(bed.ids(0..10)));
    let workers = bed.run(POLICY).await;
    until("the receiver accepts us", || bed.state() == Some(State::Healthy)).await;
    bed.checks(|| Err(Fault::broken(anyhow!("the receiver is out of order"))));
    bed.publish(1..2).await;
    until("the receiver's own trouble is told", || bed.is_broken("the receiver is out of order")).await;
    assert!(bed.dead("").await.is_empty());
    bed.answers(refusing(Vec::new()));
    bed.settled().await;
    assert_eq!(bed.received(), bed.ids(1..2));
    assert!(bed.dead("").await.is_empty());
    workers.stop().await;
}

#[tokio::test]
async fn a_full_dead_is_a_persons_matter() {
    let bed = Bed::start().await;
    bed.answers(refusing(bed.ids(0..10)));
    let stream = bed.nats.jetstream().get_stream(Stream::Dead.name()).await.unwrap();
    let config = stream.cached_info().config.clone();
    let full = stream::Config { max_bytes: 16, ..config.clone() };
    bed.nats.jetstream().update_stream(full).await.unwrap();
    let workers = bed.run(POLICY).await;
    bed.publish(1..2).await;
    until("a person is told what to do", || bed.is_broken("make room with `headrace dead redrive`")).await;
    bed.nats.jetstream().update_stream(config).await.unwrap();
    bed.settled().await;
    assert_eq!(bed.dead("rejected").await, bed.ids(1..2));
    until("health turns green", || bed.state() == Some(State::Healthy)).await;
    workers.stop().await;
}

#[tokio::test]
async fn effects_that_were_there_before_do_not_show_that_the_receiver_works() {
    // Of each batch, what is known is answered for. The rest is refused.
    let bed = Bed::start().await;
    let known: BTreeSet<String> = bed.ids(0..20).into_iter().collect();
    bed.answers(move |batch| {
        let all_known = batch.items().iter().all(|item| known.contains(item.value.id()));
        if all_known { BatchResult::AlreadyThere } else { BatchResult::Whole(poison()) }
    });
    bed.publish(0..40).await;
    let workers = bed.run(POLICY).await;
    until("the receiver is to blame", || bed.is_broken(EVERY)).await;
    assert!(bed.dead("").await.is_empty());
    bed.answers(refusing(Vec::new()));
    bed.settled().await;
    assert_eq!(bed.received(), bed.ids(20..40));
    assert!(bed.dead("").await.is_empty());
    workers.stop().await;
}

#[tokio::test]
async fn single_effects_that_were_there_before_do_not_show_that_the_receiver_works() {
    let bed = Bed::start().await;
    let known: BTreeSet<String> = bed.ids(0..20).into_iter().collect();
    bed.answers(move |batch| {
        let is_known = |id: &str| known.contains(id);
        let items = batch.items().iter();
        let told = items.map(|item| if is_known(item.value.id()) { Ok(Taken::Before) } else { Err(poison()) });
        BatchResult::Told(told.collect())
    });
    bed.publish(0..40).await;
    let workers = bed.run(POLICY).await;
    until("the receiver is to blame", || bed.is_broken(EVERY)).await;
    assert!(bed.dead("").await.is_empty());
    bed.answers(refusing(Vec::new()));
    bed.settled().await;
    assert_eq!(bed.received(), bed.ids(20..40));
    assert!(bed.dead("").await.is_empty());
    workers.stop().await;
}

#[tokio::test]
async fn what_an_unclear_call_may_have_stored_is_looked_up_before_it_is_given_up_or_split() {
    for count in [1, 8] {
        let bed = Bed::start().await;
        let workers = bed.at_work(POLICY).await;
        let calls = Calls::default();
        bed.answers(move |batch| match (calls.next(batch), batch.is_suspect()) {
            (0, false) => BatchResult::Whole(Fault::transient(anyhow!("no answer")).with_effect(Effect::Possible)),
            // Unchanged, and refused by now.
            (1, false) => BatchResult::Whole(poison()),
            (2, true) => BatchResult::AlreadyThere,
            (call, is_suspect) => panic!("call {call} of {} items, suspects: {is_suspect}", batch.items().len()),
        });
        bed.publish(0..count).await;
        bed.settled().await;
        assert!(bed.dead("").await.is_empty());
        assert_eq!((bed.script.calls.load(Ordering::SeqCst) - 1) % 3, 0, "each batch is looked up");
        workers.stop().await;
    }
}
