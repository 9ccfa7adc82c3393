//! What the store has lost, or never had, of what a sink missed.

use super::*;

/// Checks that nothing of `range` is struck out while the store has the rows of another time only, or none; and that it is
/// brought when somebody takes its rows into the store.
async fn is_kept_until_it_is_brought(bed: &Bed, range: Range, others_at: Option<Timestamp>) {
    bed.misses(&range).await;
    let store = bed.store(others_at);
    let workers = bed.feed(&store, &no_limits());
    let is_told = || bed.is_told(&consumer_of(SINK), LACKS);
    let ranges = async || bed.asides.record(SINK).await.unwrap().ranges;
    let is_decided = async || (is_told() || ranges().await != [range.clone()]).then_some(());
    poll::until("it says what is wrong, or goes on", CEILING, is_decided).await.unwrap();
    assert_eq!(ranges().await, std::slice::from_ref(&range), "something was struck out that the store has no rows of");
    assert!(is_told() && waiting(&bed.nats).await == 0);

    *store.stored_at.lock().unwrap() = Some(range.since);
    // What follows in EVENTS is settled by now.
    bed.events().await.purge().await.unwrap();
    bed.caught_up().await;
    assert_eq!(waiting(&bed.nats).await, u64::from(MISSED));
    workers.stop().await;
}

#[tokio::test]
async fn what_an_empty_store_lacks_is_not_struck_out_as_brought() {
    let bed = Bed::start().await;
    is_kept_until_it_is_brought(&bed, range(Timestamp::now().minus(MINUTE), HOUR), None).await;
}

#[tokio::test]
async fn what_is_older_than_the_store_is_not_struck_out_as_brought() {
    // Such as a database that was put in the place of another one today.
    let bed = Bed::start().await;
    let now = Timestamp::now();
    is_kept_until_it_is_brought(&bed, range(now.minus(HOUR), HOUR), Some(now.minus(MINUTE))).await;
}

/// Waits until `lost` is all that is missed, to a second, and checks that it is told. The sink takes what it is brought.
async fn only_lost(bed: &Bed, lost: [Timestamp; 2]) {
    let is_end = |until: Timestamp| until <= lost[1] && lost[1].since(until) < Duration::from_secs(1);
    let is_lost = |left: &Range| left.from == lost[0] && is_end(left.until);
    let ranges = async || bed.asides.record(SINK).await.unwrap().ranges;
    let only = async || {
        bed.stream(Stream::CatchUp).await.purge().await.unwrap();
        matches!(&ranges().await[..], [left] if is_lost(left)).then_some(())
    };
    poll::until("all that the store has was brought", CEILING, only).await.unwrap();
    until("it says what is wrong", || bed.is_told(&consumer_of(SINK), LACKS)).await;
    let left = ranges().await;
    assert!(matches!(&left[..], [left] if is_lost(left)), "{left:?}");
}

#[tokio::test]
async fn what_a_store_lacks_that_begins_within_it_stays_and_the_rest_is_brought() {
    // Such as a database that was made anew while the sink was down.
    let bed = Bed::start().await;
    let now = Timestamp::now();
    let (missed, begins) = (range(now.minus(MINUTE), HOUR), now.minus(HOUR / 2));
    bed.misses(&missed).await;
    let store = bed.store(Some(begins));
    let workers = bed.feed(&store, &no_limits());
    only_lost(&bed, [missed.since, begins]).await;
    assert_eq!(bed.asides.record(SINK).await.unwrap().brought, u64::from(MISSED));
    // Nothing of what comes is lost when a person gives that up.
    let given_up = bed.asides.change(SINK, |record| record.skip(begins.minus(MINUTE))).await.unwrap();
    assert_eq!(given_up.len(), 1);
    only_lost(&bed, [begins.minus(MINUTE), begins]).await;
    *store.stored_at.lock().unwrap() = Some(begins.minus(MINUTE));
    bed.events().await.purge().await.unwrap();
    bed.caught_up().await;
    assert_eq!(waiting(&bed.nats).await, u64::from(MISSED));
    workers.stop().await;
}

#[tokio::test]
async fn rows_of_the_end_of_a_slice_do_not_show_that_the_store_has_its_beginning() {
    let bed = Bed::start().await;
    let missed = range(Timestamp::now().minus(MINUTE), HOUR);
    bed.misses(&missed).await;
    let store = bed.store(Some(missed.since));
    // While the sink catches up, the table is emptied, and what comes then is within the next slice.
    let later = missed.since.plus(Duration::from_secs(15));
    *store.then.lock().unwrap() = Then::AreReplaced(later);
    let workers = bed.feed(&store, &no_limits());
    only_lost(&bed, [missed.since, later]).await;
    workers.stop().await;
}

#[tokio::test]
async fn what_a_store_loses_meanwhile_is_not_struck_out_as_brought() {
    let bed = Bed::start().await;
    let missed = range(Timestamp::now().minus(MINUTE), HOUR);
    bed.misses(&missed).await;
    let store = bed.store(Some(missed.since));
    *store.then.lock().unwrap() = Then::AreLost;
    let workers = bed.feed(&store, &no_limits());
    let ranges = async || bed.asides.record(SINK).await.unwrap().ranges;
    let is_decided = async || (bed.is_told(&consumer_of(SINK), LACKS) || ranges().await.is_empty()).then_some(());
    poll::until("it says what is wrong, or goes on", CEILING, is_decided).await.unwrap();
    let left = ranges().await;
    assert_eq!(left, [missed]);
    assert_eq!(waiting(&bed.nats).await, u64::from(MISSED), "what it had before");
    workers.stop().await;
}

#[tokio::test]
async fn what_the_store_lacks_holds_up_nothing_else() {
    let bed = Bed::start().await;
    let (lost, kept) = (range(Timestamp::now().minus(HOUR), HOUR), range(Timestamp::now().minus(MINUTE), MINUTE));
    bed.misses(&lost).await;
    bed.misses(&kept).await;
    let workers = bed.feed(&bed.store(Some(kept.since)), &no_limits());
    let only_lost = async || (bed.asides.record(SINK).await.unwrap().ranges == [lost.clone()]).then_some(());
    poll::until("the other range was brought", CEILING, only_lost).await.unwrap();
    until("it says what is wrong", || bed.is_told(&consumer_of(SINK), LACKS)).await;
    assert_eq!(waiting(&bed.nats).await, u64::from(MISSED));
    workers.stop().await;
}

#[tokio::test]
async fn what_live_events_follow_closely_is_not_struck_out_as_brought() {
    let bed = Bed::start().await;
    bed.nats.publish(Event::sample(0).message()).await;
    // Nobody has settled this one. So the last moment before it cannot be brought, because clocks differ.
    let next = bed.nats.messages(Stream::Events).await.remove(0);
    let until = Timestamp::from_unix_nanos(next.time.unix_timestamp_nanos());
    is_kept_until_it_is_brought(&bed, range(until, HOUR), None).await;
}
