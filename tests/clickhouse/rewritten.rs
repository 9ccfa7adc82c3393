//! Rows that a replay replaces.

use std::time::Duration;

use headrace_runtime::component::sink::Sink as _;
use headrace_runtime::consume::stream_reader::Window;
use headrace_runtime::fault::{Fault, FaultClass};
use headrace_schemas::event::Event;
use headrace_schemas::time::Timestamp;
use headrace_sinks::clickhouse::Rewrite;
use headrace_tests::standin::server::{Failure, When, Which};

use super::{ClickHouseCase, MINUTE, assert_all, batch, ready};

/// A rewriting of everything that was received within a minute of `since`.
fn rewriting(case: &ClickHouseCase, since: Timestamp, writer: &str) -> Rewrite<Event> {
    let to = Timestamp::from_micros(since.as_micros() + 60_000_000);
    case.with_long_timeout().events_rewritten(&Window { from: since.minus(MINUTE), to, tenant: None }, since, writer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewritten_row_takes_the_place_of_the_older() {
    let (case, sink) = ready().await;
    let first = batch(0..50, false, MINUTE);
    assert_all(&sink.deliver(&first).await, 50);
    let since = case.with_long_timeout().now().await.unwrap();
    for writer in ["one", "another"] {
        // The second writer gets the same messages, as after an interruption.
        let written = rewriting(&case, since, writer).write(first.items()).await.unwrap();
        assert_eq!((written.fresh, written.kept), (50, 0), "{writer}");
        assert_eq!(written.inserted, if writer == "one" { 50 } else { 0 });
        assert_eq!((case.rows(), case.query("SELECT uniqExact(id) FROM headrace.events").trim()), (50, "50"));
    }
    let older = format!(
        "SELECT count() FROM headrace.events WHERE toUnixTimestamp64Micro(inserted_at) < {}",
        since.as_micros()
    );
    assert_eq!(case.query(&older).trim(), "0");
    // A later rewriting of the same messages in the same order, by a writer with the same name.
    let since = case.with_long_timeout().now().await.unwrap();
    let written = rewriting(&case, since, "one").write(first.items()).await;
    assert!(matches!(written, Err(Fault { class: FaultClass::Broken, .. })), "the token is known: {written:?}");
    assert_eq!(case.rows(), 50, "no row is deleted before its replacement is seen");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewriting_whose_answer_was_lost_is_repeated_without_a_second_row() {
    let (case, sink) = ready().await;
    let items = batch(0..50, false, MINUTE);
    assert_all(&sink.deliver(&items).await, 50);
    let since = case.with_long_timeout().now().await.unwrap();
    let events = rewriting(&case, since, "one");
    for (failure, when) in [(Failure::Reset, When::Before), (Failure::Reset, When::After), (Failure::Torn, When::After)]
    {
        case.proxy.fail_next(1, failure, when, Which::Deliveries);
        if let Err(fault) = events.write(items.items()).await {
            let FaultClass::Transient { retry_after: Some(wait) } = fault.class else { panic!("{fault}") };
            assert!(wait > Duration::from_secs(1), "the server's limit must have passed");
        }
    }
    assert_eq!(events.write(items.items()).await.unwrap().fresh, 50);
    assert_eq!((case.rows(), case.query("SELECT uniqExact(id) FROM headrace.events").trim()), (50, "50"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_rewritten_while_a_view_fails_is_there_once() {
    let (case, sink) = ready().await;
    let all = batch(0..3, false, MINUTE);
    assert_all(&sink.deliver(&all).await, 3);
    for refusing in ["toUInt8(concat('no ', id))", "throwIf(id != '', 'x', toInt16(252))"] {
        case.fail_a_view(refusing);
        let since = case.with_long_timeout().now().await.unwrap();
        // A batch of one can be cut no further.
        for items in [&all.items()[..1], &all.items()[1..]] {
            let written = rewriting(&case, since, refusing).write(items).await.unwrap();
            assert_eq!(written.fresh, items.len() as u64, "{refusing}: {written:?}");
        }
        assert_eq!(
            (case.rows(), case.query("SELECT uniqExact(id) FROM headrace.events").trim()),
            (3, "3"),
            "{refusing}"
        );
        case.query("DROP VIEW headrace.view SYNC");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_writers_of_an_absent_row_one_remains() {
    let (case, sink) = ready().await;
    let items = batch(0..50, false, MINUTE);
    let since = case.with_long_timeout().now().await.unwrap();
    let events = rewriting(&case, since, "one");
    let written = events.write(items.items()).await.unwrap();
    assert!(!written.unproven.is_empty());
    // A sink looked these up before they were there, and inserts other rows.
    assert_all(&sink.deliver(&batch(0..20, false, MINUTE)).await, 20);
    assert_eq!(case.rows(), 70);
    for _ in 0..2 {
        events.prove(&written.unproven).await.unwrap();
        assert_eq!((case.rows(), case.query("SELECT uniqExact(id) FROM headrace.events").trim()), (50, "50"));
    }
    // Rows that were there before cannot have a second writer.
    let since = case.with_long_timeout().now().await.unwrap();
    let written = rewriting(&case, since, "another").write(items.items()).await.unwrap();
    assert!(written.unproven.is_empty() && written.inserted == 50, "{written:?}");
}
