//! Inserts whose answer is lost, that are repeated, or that come too late. Each id is stored once.

use std::path::Path;
use std::time::Duration;

use headrace_runtime::component::batch::{Batch, Item};
use headrace_runtime::component::sink::{BatchResult, Sink as _};
use headrace_runtime::crash;
use headrace_runtime::fault::FaultClass;
use headrace_runtime::message::payload::Payload as _;
use headrace_schemas::event::Event;
use headrace_schemas::time::Timestamp;
use headrace_tests::conformance::receiver::Case as _;
use headrace_tests::harness::samples::Sample as _;
use headrace_tests::harness::{Nats, until};
use headrace_tests::product::process::{Launch, Running, freeze, signal};
use headrace_tests::standin::server::{Failure, When, Which};
use rustix::process::Signal;
use tempfile::TempDir;

use super::{ClickHouseCase, MINUTE, assert_all, batch, ready};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_batch_again_makes_no_second_rows() {
    let (case, sink) = ready().await;
    assert_all(&sink.deliver(&batch(0..100, false, MINUTE)).await, 100);
    assert_all(&sink.deliver(&batch(0..100, false, MINUTE)).await, 100);
    assert_eq!(case.rows(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_deliveries_whose_answer_was_lost_are_inserted_once() {
    let (case, sink) = ready().await;
    for (number, failure) in (0..).zip([Failure::Reset, Failure::Torn, Failure::Hang, Failure::Status(504)]) {
        let batch = batch(number * 10..number * 10 + 10, false, MINUTE);
        case.proxy.fail_next(1, failure, When::After, Which::Deliveries);
        let (BatchResult::Whole(fault) | BatchResult::TooMuch(fault)) = sink.deliver(&batch).await else {
            panic!("the answer was lost")
        };
        assert_eq!(fault.class, FaultClass::Transient { retry_after: None }, "{fault}");
        assert_all(&sink.deliver(&batch).await, 10);
        assert_eq!(case.rows(), u64::from(number + 1) * 10, "{failure:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_absent_suspects_are_inserted() {
    let (case, sink) = ready().await;
    assert_all(&sink.deliver(&batch(0..60, false, MINUTE)).await, 60);
    assert_all(&sink.deliver(&batch(30..90, true, MINUTE)).await, 60);
    assert_eq!(case.rows(), 90);
    assert_eq!(case.query("SELECT uniqExact(id) FROM headrace.events").trim(), "90");
    // More than fit into one look-up, which takes 4,000.
    assert_all(&sink.deliver(&batch(0..4_100, true, MINUTE)).await, 4_100);
    assert_all(&sink.deliver(&batch(0..4_101, true, MINUTE)).await, 4_101);
    assert_eq!(case.rows(), 4_101);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_was_received_later_than_its_suspect_is_found() {
    let (case, sink) = ready().await;
    let received_at = Timestamp::now().minus(MINUTE);
    let value = Event { received_at, ..Event::sample(0) };
    let earlier = Item { value, suspect: true, redelivered: true, sequence: 1, stored_at: Timestamp::default() };
    assert_all(&sink.deliver(&batch(0..10, false, MINUTE)).await, 10);
    assert_all(&sink.deliver(&Batch::new(vec![earlier], MINUTE)).await, 1);
    assert_eq!(case.rows(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_refuses_rows_that_come_too_late() {
    let (case, sink) = ready().await;
    // Of the time that the rows are ours, two seconds are reserved for different clocks.
    let BatchResult::Whole(fault) = sink.deliver(&batch(0..10, false, Duration::from_millis(500))).await else {
        panic!("expected the server to refuse the late rows")
    };
    assert_eq!(fault.class, FaultClass::Transient { retry_after: None }, "{fault}");
    assert!(fault.to_string().contains("held too long"), "{fault}");
    assert_eq!(case.rows(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unclear_insert_of_suspects_is_repeated_only_after_the_servers_limit() {
    let (case, sink) = ready().await;
    case.proxy.fail_next(1, Failure::Reset, When::After, Which::Deliveries);
    let BatchResult::Whole(fault) = sink.deliver(&batch(0..10, true, MINUTE)).await else {
        panic!("the answer was lost")
    };
    assert_eq!(fault.class, FaultClass::Transient { retry_after: Some(Duration::from_secs(8)) }, "{fault}");
    assert_all(&sink.deliver(&batch(0..10, true, MINUTE)).await, 10);
    assert_eq!(case.rows(), 10);
}

/// Starts a process with only the sinks, for the ClickHouse at `url`. It dies at a named point as by `kill -9`.
pub(crate) async fn sinks(nats: &Nats, url: &str, dir: &Path, crash_at: &str) -> Running {
    sinks_with(nats, url, dir, crash_at, "").await
}

/// The same, with more settings.
pub(crate) async fn sinks_with(nats: &Nats, url: &str, dir: &Path, crash_at: &str, settings: &str) -> Running {
    let limits = "{ max_age_hours = 24, max_bytes = 67108864 }";
    let text = format!(
        "{settings}\nnats = {{ url = '{}', clock_skew_ms = 100 }}\nadmin.listen = '127.0.0.1:0'\n\
         sinks.clickhouse = {{ url = '{url}', linger_ms = 50, insert_timeout_s = 1, clock_skew_ms = 200 }}\n\
         streams = {{ raw = {limits}, events = {limits}, alerts = {limits}, dead = {limits} }}\n",
        nats.server().url()
    );
    std::fs::create_dir_all(dir).unwrap();
    let config = dir.join("headrace.toml");
    std::fs::write(&config, text).unwrap();
    let launch = Launch::run(env!("CARGO_BIN_EXE_headrace"), "sinks", &config, dir);
    launch.set(crash::VARIABLE, crash_at).start().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_was_suspended_in_an_insert_leaves_its_batch_to_the_new_owner() {
    let (case, nats, dir) = (ClickHouseCase::start().await, Nats::start().await, TempDir::new().unwrap());
    let publish =
        async |numbers: std::ops::Range<u16>| nats.publish_all(numbers.map(|n| Event::sample(n).message())).await;
    let first = sinks(&nats, &case.proxy.url(), &dir.path().join("first"), "").await;
    case.proxy.fail_next(1, Failure::Hold, When::Before, Which::Deliveries);
    publish(0..3).await;
    until("an insert is on its way", || case.proxy.held() == 1).await;
    freeze(first.pid()).await;
    // With these two, the other process makes a different batch, whose token ClickHouse does not know.
    publish(3..5).await;
    let second = sinks(&nats, &case.server.url(), &dir.path().join("second"), "").await;
    until("another process inserts them", || case.rows() == 5).await;
    signal(first.pid(), Signal::CONT);
    until("the first drops them", || first.log().contains("held longer than its ack_wait")).await;
    nats.settled(Event::STREAM, "clickhouse").await;
    assert_eq!((case.rows(), case.query("SELECT uniqExact(id) FROM headrace.events").trim()), (5, "5"));
    for running in [first, second] {
        running.stop().await;
    }
}
