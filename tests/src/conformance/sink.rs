//! The suite for sinks. Each case is one test in a sink's `tests/<name>.rs`;
//! [`sink_conformance!`](crate::sink_conformance) makes them. `receiver` holds what they run on.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::{Consumer, pull};
use futures::TryStreamExt as _;
use headrace_local::poll;
use headrace_runtime::config;
use headrace_runtime::consume::Subscriber;
use headrace_runtime::message::payload::Payload as _;
use headrace_runtime::observe::health::State;
use tokio::time::sleep;

pub use super::calls::{breaker, busy};
use super::receiver::{Case, HeldCase, ItemOf, ServerCase, Testbed, dead_ids};
use super::{COMPONENT, POLICY};
use crate::harness::samples::{Sample, unreadable};
use crate::harness::{CEILING, Nats, streams, until};
use crate::standin::server::{Failure, When, Which};

/// Everything arrives once, is acknowledged, and the component is healthy.
pub async fn success<C: Case>() {
    let testbed = Testbed::<C>::start().await;
    let workers = testbed.run();
    let ids = testbed.publish(0..120).await;
    testbed.settled().await;
    testbed.assert_received(&ids);
    testbed.assert_no_repeats();
    testbed.assert_nothing_dead().await;
    testbed.turns_green().await;
    workers.stop().await;
}

/// Messages that nobody can read are dead-lettered; the others arrive.
pub async fn unreadable_messages<C: Case>() {
    let testbed = Testbed::<C>::start().await;
    testbed.nats.publish(unreadable::<ItemOf<C>>(100)).await;
    let ids = testbed.publish(0..5).await;
    testbed.nats.publish(unreadable::<ItemOf<C>>(101)).await;
    let workers = testbed.run();
    testbed.settled().await;
    testbed.assert_received(&ids);
    let dead = testbed.nats.dead_letters().await;
    assert_eq!(dead_ids(&dead, "malformed").len(), 2, "{dead:#?}");
    workers.stop().await;
}

/// The receiver refuses several items of a batch. Only those are dead-lettered, with the receiver's reason.
pub async fn partial_failure<C: ServerCase>() {
    let testbed = Testbed::<C>::start().await;
    let mut ids = testbed.publish(0..30).await;
    // There are more refused items than attempts, and the items behind them must not pay for it.
    let refused: BTreeSet<String> = ids.iter().skip(1).step_by(3).cloned().collect();
    refused.iter().for_each(|id| testbed.case.refuse(id));
    let workers = testbed.run();
    testbed.settled().await;
    ids.retain(|id| !refused.contains(id));
    testbed.assert_received(&ids);
    let dead = testbed.nats.dead_letters().await;
    assert_eq!(dead.len(), refused.len(), "{dead:#?}");
    assert_eq!(dead_ids(&dead, "rejected"), refused);
    assert!(dead.iter().all(|dead_letter| dead_letter.detail.len() > 20), "a reason in words: {dead:#?}");
    testbed.turns_green().await;
    workers.stop().await;
}

/// The receiver refuses an item that is alone. It is given up after a while, because the receiver is in order.
pub async fn poison<C: ServerCase>() {
    let testbed = Testbed::<C>::start().await;
    let (workers, ids) = testbed.at_work().await;
    testbed.case.refuse(ItemOf::<C>::sample(1).id());
    let poison = testbed.publish(1..2).await;
    testbed.settled().await;
    testbed.assert_received(&ids);
    let dead = testbed.nats.dead_letters().await;
    assert_eq!(dead_ids(&dead, "rejected"), poison.into_iter().collect());
    // It was the last item, so no later delivery shows that the receiver works.
    testbed.turns_green().await;
    workers.stop().await;
}

/// The receiver refuses every item for a while. No item is to blame, so none is given up, and health says what to check.
/// When it accepts others, the refused ones are to blame.
pub async fn refuses_all<C: ServerCase>() {
    let testbed = Testbed::<C>::start().await;
    let (workers, mut ids) = testbed.at_work().await;
    let refused: Vec<String> = (1..9).map(|number| ItemOf::<C>::sample(number).id().to_owned()).collect();
    refused.iter().for_each(|id| testbed.case.refuse(id));
    testbed.publish(1..9).await;
    let told = "the receiver refuses every item";
    until("health turns red", || matches!(testbed.state(), Some(State::Broken(why)) if why.contains(told))).await;
    testbed.assert_nothing_dead().await;
    testbed.assert_received(&ids);
    // What was not tried before that one is accepted waits for the next.
    for number in 9.. {
        let accepted = testbed.publish(number..number + 1).await;
        until("another item is accepted", || testbed.case.received().contains(&accepted[0])).await;
        ids.extend(accepted);
        let is_settled = async || {
            let consumed = testbed.nats.consumer(ItemOf::<C>::STREAM, COMPONENT).await?;
            if consumed.waiting == 0 && consumed.unsettled == 0 {
                return Some(true);
            }
            matches!(testbed.state(), Some(State::Broken(_))).then_some(false)
        };
        if poll::until("the others are settled or refused", CEILING, is_settled).await.expect("the sink is at work") {
            break;
        }
    }
    testbed.assert_received(&ids);
    let dead = testbed.nats.dead_letters().await;
    assert_eq!((dead.len(), dead_ids(&dead, "rejected")), (8, refused.into_iter().collect()));
    testbed.turns_green().await;
    workers.stop().await;
}

/// The sink panics on one item of many. That one is dead-lettered, and the dead letter names the panic. The others
/// arrive.
pub async fn panics<C: Case>() {
    let testbed = Testbed::<C>::start().await;
    let mut ids = testbed.publish(0..30).await;
    let victim = ids.remove(17);
    let workers = testbed.run_panicking(victim.clone());
    testbed.settled().await;
    testbed.assert_received(&ids);
    let dead = testbed.nats.dead_letters().await;
    assert_eq!(dead.len(), 1, "{dead:#?}");
    assert_eq!(dead_ids(&dead, "panicked"), BTreeSet::from([victim]));
    assert!(dead[0].detail.contains("the sink panicked: panicking on"), "{dead:#?}");
    workers.stop().await;
}

/// The receiver fails in every way that passes by itself, for more calls than there are attempts. This must not cost
/// any event an attempt.
pub async fn transient<C: ServerCase>() {
    let testbed = Testbed::<C>::start().await;
    let (workers, mut ids) = testbed.at_work().await;
    let ways = [
        Failure::Status(503),
        Failure::Status(500),
        Failure::Status(502),
        Failure::StatusAfter(429, 0),
        Failure::Reset,
        Failure::Garbage,
        Failure::Torn,
    ];
    for (number, failure) in (1..).zip(ways) {
        // Publish one item, so that every failure hits it.
        testbed.case.peer().fail_next(POLICY.attempts_max as usize + 2, failure, When::Before, Which::Any);
        ids.extend(testbed.publish(number..number + 1).await);
        testbed.settled().await;
        testbed.assert_received(&ids);
        assert_eq!(testbed.case.peer().failures_left(), 0, "{failure:?}");
    }
    testbed.assert_nothing_dead().await;
    testbed.turns_green().await;
    workers.stop().await;
}

/// The receiver is gone for longer than the broker waits for a message to be settled. Later it is back.
pub async fn down<C: ServerCase>() {
    let testbed = Testbed::<C>::start().await;
    let (workers, mut ids) = testbed.at_work().await;
    testbed.case.peer().down();
    ids.extend(testbed.publish(1..6).await);
    until("health turns yellow", || matches!(testbed.state(), Some(State::Degraded(_)))).await;
    // This wait is the point of the case: however short each call and pause is, the sink must still own the events.
    sleep(testbed.case.options().ack_wait * 6 / 5).await;
    let consumed = testbed.nats.consumer(ItemOf::<C>::STREAM, COMPONENT).await.expect("it was opened");
    assert!(consumed.unsettled > 0 && consumed.redelivered == 0, "{consumed:?}");
    testbed.case.peer().up().await;
    testbed.settled().await;
    testbed.assert_received(&ids);
    testbed.assert_nothing_dead().await;
    workers.stop().await;

    testbed.case.peer().down();
    let workers = testbed.run();
    ids.extend(testbed.publish(6..9).await);
    until("health turns yellow from the start", || matches!(testbed.state(), Some(State::Degraded(_)))).await;
    testbed.case.peer().up().await;
    testbed.settled().await;
    testbed.assert_received(&ids);
    workers.stop().await;
}

/// The receiver never answers, with and without the request's effect.
pub async fn timeouts<C: HeldCase>() {
    let testbed = Testbed::<C>::start().await;
    let (workers, mut ids) = testbed.at_work().await;
    for (number, when) in [(1, When::Before), (2, When::After)] {
        testbed.case.hold_next(Failure::Hang, when);
        ids.extend(testbed.publish(number * 10..number * 10 + 3).await);
        testbed.settled().await;
        testbed.assert_received(&ids);
        assert_eq!(testbed.case.holds_left(), 0, "{when:?}");
    }
    testbed.assert_nothing_dead().await;
    workers.stop().await;
}

/// A request had its effect, but its answer is lost, in every way.
pub async fn lost_answers<C: ServerCase>() {
    let testbed = Testbed::<C>::start().await;
    let (workers, mut ids) = testbed.at_work().await;
    let ways = [Failure::Reset, Failure::Torn, Failure::Garbage, Failure::Status(502), Failure::Status(504)];
    for (number, failure) in (1..).zip(ways) {
        testbed.case.peer().fail_next(1, failure, When::After, Which::Deliveries);
        ids.extend(testbed.publish(number * 10..number * 10 + 3).await);
        testbed.settled().await;
        testbed.assert_received(&ids);
        assert_eq!(testbed.case.peer().failures_left(), 0, "{failure:?}");
    }
    testbed.assert_nothing_dead().await;
    workers.stop().await;
}

/// The receiver denies us access, first from the start, then in the middle. Health says so, and nothing is lost or
/// dead-lettered, however long it takes.
pub async fn broken<C: Case>() {
    let testbed = Testbed::<C>::start().await;
    testbed.case.break_access().await;
    let mut ids = testbed.publish(0..3).await;
    let workers = testbed.run();
    until("health turns red", || matches!(testbed.state(), Some(State::Broken(_)))).await;
    testbed.case.mend().await;
    testbed.settled().await;
    testbed.assert_received(&ids);
    testbed.turns_green().await;

    testbed.case.break_access().await;
    ids.extend(testbed.publish(3..6).await);
    until("health turns red again", || matches!(testbed.state(), Some(State::Broken(_)))).await;
    testbed.case.mend().await;
    testbed.settled().await;
    testbed.assert_received(&ids);
    testbed.assert_nothing_dead().await;
    workers.stop().await;
}

/// The same items come again, first to the same process and then to the next one.
pub async fn duplicates<C: Case>() {
    let testbed = Testbed::<C>::start().await;
    let workers = testbed.run();
    let ids = testbed.publish(0..10).await;
    testbed.settled().await;
    let samples: Vec<ItemOf<C>> = (0..10).map(ItemOf::<C>::sample).collect();
    testbed.nats.publish_all(samples.iter().map(Sample::repeated)).await;
    testbed.settled().await;
    testbed.assert_received(&ids);
    workers.stop().await;

    let third = samples.iter().map(|sample| {
        let mut message = sample.repeated();
        message.message_id.push_str("/and again");
        message
    });
    testbed.nats.publish_all(third).await;
    testbed.case.settle_down().await;
    let workers = testbed.run();
    testbed.settled().await;
    testbed.assert_received(&ids);
    testbed.assert_nothing_dead().await;
    workers.stop().await;
}

/// An event comes again while another process still owns its first message. The duplicate arrives together with an older
/// message that is redelivered, and must wait for the first.
pub async fn late_duplicates<C: Case>() {
    const WINDOW_S: u64 = 2;
    let testbed =
        Testbed::<C>::on(Nats::with(config::Streams { duplicate_window_s: WINDOW_S, ..streams() }).await).await;
    let subscription = testbed.case.options().subscription(COMPONENT, ItemOf::<C>::STREAM);
    drop(Subscriber::open(&testbed.broker, &subscription).await.expect("the broker of this test runs"));
    let ids = testbed.publish(0..2).await;
    let stream = testbed.nats.jetstream().get_stream(ItemOf::<C>::STREAM.name()).await.expect("it was made");
    let other: Consumer<pull::Config> = stream.get_consumer(COMPONENT).await.expect("it was opened");
    let held = other.fetch().max_messages(2).messages().await.expect("the broker of this test runs");
    let held: Vec<_> = held.try_collect().await.expect("two messages wait");
    let [older, first] = &held[..] else { panic!("expected two messages, found {}", held.len()) };

    // Before its window has passed, the broker drops the duplicate, and this case is about later ones. Wait a second
    // longer, because the broker forgets an id only a moment after its time.
    for _ in 0..=WINDOW_S {
        sleep(Duration::from_secs(1)).await;
        for message in &held {
            message.ack_with(AckKind::Progress).await.expect("connected");
        }
    }
    testbed.nats.publish(ItemOf::<C>::sample(1).repeated()).await;
    older.ack_with(AckKind::Nak(None)).await.expect("connected");
    let workers = testbed.run();
    let older_is_delivered = async || {
        first.ack_with(AckKind::Progress).await.expect("connected");
        testbed.case.received().contains(&ids[0]).then_some(())
    };
    poll::until("the older message is delivered", CEILING, older_is_delivered).await.expect("it is nobody's");
    // From now on the broker delivers nothing but the duplicate. When it has done so twice, the sink has put it off once.
    let deliveries = async || {
        let consumer = stream.consumer_info(COMPONENT).await.expect("it was opened");
        consumer.delivered.consumer_sequence
    };
    let before = deliveries().await;
    let is_put_off = async || {
        first.ack_with(AckKind::Progress).await.expect("connected");
        (deliveries().await >= before + 2).then_some(())
    };
    poll::until("the duplicate is put off", CEILING, is_put_off).await.expect("it is not this process's turn");
    assert_eq!(testbed.case.received(), [ids[0].clone()], "the duplicate waits");
    first.ack_with(AckKind::Nak(None)).await.expect("connected");
    testbed.settled().await;
    testbed.assert_received(&ids);
    testbed.assert_nothing_dead().await;
    workers.stop().await;
}

/// A shutdown in the middle of a batch finishes what is on its way and leaves the rest to the next process. Nothing is
/// lost and nothing is done twice.
pub async fn shutdown<C: HeldCase>() {
    let testbed = Testbed::<C>::start().await;
    let (workers, mut ids) = testbed.at_work().await;
    testbed.case.hold_next(Failure::Hold, When::Before);
    ids.extend(testbed.publish(1..40).await);
    until("a delivery is on its way", || testbed.case.held() == 1).await;
    workers.ask_to_stop();
    testbed.case.release();
    workers.stop().await;

    let workers = testbed.run();
    testbed.settled().await;
    testbed.assert_received(&ids);
    testbed.assert_no_repeats();
    testbed.assert_nothing_dead().await;
    workers.stop().await;
}

/// The process dies after the effect but before its acknowledgement.
pub async fn crash<C: HeldCase>() {
    let testbed = Testbed::<C>::start().await;
    let (workers, mut ids) = testbed.at_work().await;
    testbed.case.hold_next(Failure::Hold, When::After);
    ids.extend(testbed.publish(1..4).await);
    until("a delivery has its effect", || testbed.case.held() == 1).await;
    workers.kill().await;
    testbed.case.release();

    let workers = testbed.run();
    testbed.settled().await;
    testbed.assert_received(&ids);
    testbed.assert_nothing_dead().await;
    workers.stop().await;
}

/// Makes a test of each case: `sink_conformance!(SplunkCase: success, broken)`.
#[macro_export]
macro_rules! sink_conformance {
    ($case:ty: $($name:ident),+ $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $crate::conformance::sink::$name::<$case>().await;
        }
    )+};
}
