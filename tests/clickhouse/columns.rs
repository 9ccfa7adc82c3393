//! Somebody changes the columns of `events` while a sink writes to it, or has a view that fails. No event is given up for
//! that, and everything goes on by itself when the table is put right.

use headrace_runtime::component::sink::{BatchResult, Sink as _};
use headrace_runtime::fault::{Effect, FaultClass};
use headrace_runtime::message::payload::Payload as _;
use headrace_schemas::event::Event;
use headrace_schemas::id::EventId;
use headrace_sinks::clickhouse::Config;
use headrace_sinks::kind::Kind as _;
use headrace_tests::conformance::receiver::Case as _;
use headrace_tests::harness::samples::{Sample as _, guid};
use headrace_tests::harness::{Nats, until};
use headrace_tests::product::process::Running;
use headrace_tests::standin::clickhouse::start_before;
use tempfile::TempDir;

use super::exactly_once::sinks;
use super::{ClickHouseCase, MINUTE, assert_all, batch, ready};

/// A process with only the sinks, at work.
struct AtWork {
    case: ClickHouseCase,
    nats: Nats,
    process: Running,
    _dir: TempDir,
}

impl AtWork {
    async fn start() -> Self {
        let (case, nats, dir) = (ClickHouseCase::start().await, Nats::start().await, TempDir::new().unwrap());
        let process = sinks(&nats, &case.server.url(), dir.path(), "").await;
        let at_work = Self { case, nats, process, _dir: dir };
        at_work.publish(0..3).await;
        at_work.assert_stored(3).await;
        at_work
    }

    /// Publishes events with fresh ids, so that they are first deliveries.
    async fn publish(&self, numbers: std::ops::Range<u16>) {
        let event = |number| Event { id: EventId::github(&guid(number)), ..Event::sample(number) };
        self.nats.publish_all(numbers.map(|number| event(number).message())).await;
    }

    fn alter(&self, change: &str) {
        self.case.query(&format!("ALTER TABLE headrace.events {change}"));
    }

    async fn until_told(&self, words: &str) {
        until(words, || self.process.log().contains(words)).await;
    }

    /// All of `count` events have their row, each one, and none is dead.
    async fn assert_stored(&self, count: u64) {
        self.nats.settled(Event::STREAM, "clickhouse").await;
        let dead = self.nats.dead_letters().await;
        assert!(dead.is_empty(), "{dead:#?}");
        let ids = self.case.query("SELECT uniqExact(id) FROM headrace.events");
        assert_eq!((self.case.rows(), ids.trim().parse()), (count, Ok(count)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_of_another_type_pauses_the_sink_until_it_is_put_right() {
    let at_work = AtWork::start().await;
    at_work.alter("MODIFY COLUMN risk String");
    at_work.publish(3..43).await;
    at_work
        .until_told(
            "expected the column `risk` of `headrace.events` as UInt8, found String: \
             ALTER TABLE headrace.events MODIFY COLUMN `risk` UInt8",
        )
        .await;
    // A trickle of single events fares no worse.
    for number in 43..46 {
        at_work.publish(number..number + 1).await;
    }
    assert!(at_work.nats.dead_letters().await.is_empty());
    at_work.alter("MODIFY COLUMN risk UInt8");
    at_work.assert_stored(46).await;
    at_work.process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renamed_column_pauses_the_sink_and_one_that_is_stored_otherwise_does_not() {
    let at_work = AtWork::start().await;
    at_work.alter("RENAME COLUMN risk TO points");
    at_work.publish(3..13).await;
    at_work.until_told("expected the column `risk` of `headrace.events` as UInt8, found none").await;
    at_work.alter("RENAME COLUMN points TO risk");
    at_work.assert_stored(13).await;
    // The client sends the types that it has read before, which the server refuses now.
    at_work.alter("MODIFY COLUMN actor_kind String");
    at_work.publish(13..14).await;
    at_work.assert_stored(14).await;
    at_work.publish(14..24).await;
    at_work.assert_stored(24).await;
    at_work.process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_and_a_refusal_name_the_wrong_column() {
    let (case, sink) = ready().await;
    assert_all(&sink.deliver(&batch(0..5, false, MINUTE)).await, 5);
    case.query("ALTER TABLE headrace.events MODIFY COLUMN risk String");
    for _ in 0..2 {
        let BatchResult::Whole(fault) = sink.deliver(&batch(5..10, false, MINUTE)).await else {
            panic!("expected the insert to be refused")
        };
        assert_eq!((fault.class, fault.effect), (FaultClass::Broken, Effect::None));
        assert!(format!("{:#}", fault.source).contains("`risk` of `headrace.events` as UInt8, found String"));
    }
    let fault = sink.check().await.unwrap_err();
    assert_eq!(fault.class, FaultClass::Broken, "{fault}");
    case.query("ALTER TABLE headrace.events MODIFY COLUMN risk UInt8");
    sink.check().await.unwrap();
    assert_all(&sink.deliver(&batch(5..10, false, MINUTE)).await, 5);
    assert_eq!(case.rows(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_was_dropped_pauses_the_sink_until_a_person_has_it_made_anew() {
    let (case, sink) = ready().await;
    let config = case.with_long_timeout();
    case.query("ALTER TABLE headrace.raw MODIFY SETTING merge_selector_base = 7");
    case.query("DROP TABLE headrace.events SYNC");
    let remedy = "`headrace check --migrate` makes it anew";
    // Suspects are looked up first.
    for suspect in [false, true] {
        let BatchResult::Whole(fault) = sink.deliver(&batch(0..5, suspect, MINUTE)).await else {
            panic!("there is no table")
        };
        assert_eq!((fault.class.clone(), fault.effect), (FaultClass::Broken, Effect::None), "{fault}");
        assert!(fault.to_string().contains(remedy), "{fault}");
    }
    let fault = sink.check().await.unwrap_err();
    assert!(fault.class == FaultClass::Broken && fault.to_string().contains(remedy), "{fault}");
    config.prepare(None).await.unwrap().unwrap();
    sink.check().await.unwrap();
    assert_all(&sink.deliver(&batch(0..5, false, MINUTE)).await, 5);
    assert_eq!(case.rows(), 5);
    // What is there stays as a person has changed it.
    let made = |table| case.query(&format!("SHOW CREATE TABLE headrace.{table}"));
    assert!(made("raw").contains("merge_selector_base = 7") && made("events").contains("merge_selector_base = 60"));
}

/// What a view can compute of no row: a number of a text, an address of a text, something that nobody foresaw, and what fails
/// as a missing table does, as one without room, with too many parts, or without memory.
const REFUSING: [&str; 7] = [
    "concat('no ', id)",
    "toUInt32(toIPv4(id))",
    "throwIf(id != '', 'no such thing')",
    "throwIf(id != '', 'x', toInt16(60))",
    "throwIf(id != '', 'x', toInt16(243))",
    "throwIf(id != '', 'x', toInt16(252))",
    "throwIf(id != '', 'x', toInt16(241))",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_a_materialized_view_refuses_are_not_inserted_again() {
    let (case, sink) = ready().await;
    assert_all(&sink.deliver(&batch(0..5, false, MINUTE)).await, 5);
    for (refusing, before) in REFUSING.into_iter().zip((5..).step_by(5)) {
        case.fail_a_view(refusing);
        // The table takes the rows before the view refuses them. A refusal would have them sent again in other batches. In the
        // same batch they would be accepted without reaching the view, and nobody would tell.
        let result = sink.deliver(&batch(before..before + 5, false, MINUTE)).await;
        assert!(matches!(result, BatchResult::AlreadyThere), "{refusing}: {result:?}");
        assert_eq!(case.rows(), u64::from(before) + 5, "{refusing}");
        case.query("DROP VIEW headrace.view SYNC");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_not_believed_while_nobody_can_look_up_whether_the_table_has_the_row() {
    let (case, sink) = ready().await;
    case.fail_a_view(REFUSING[0]);
    // Behind it inserts work, and look-ups fail.
    let proxy = start_before(&case.server.url(), "PREWHERE").await;
    let blind = Config { url: proxy.url(), ..case.with_long_timeout() }.events();
    let result = blind.deliver(&batch(0..1, false, MINUTE)).await;
    let BatchResult::Whole(fault) = result else { panic!("expected the look-up to fail: {result:?}") };
    assert_eq!((fault.class.clone(), fault.effect), (FaultClass::Broken, Effect::Possible), "{fault}");
    let told = ["cannot look up whether `events` has rows that it refused", "CANNOT_PARSE_TEXT"];
    assert!(told.iter().all(|words| fault.to_string().contains(words)), "{fault}");
    // It goes again as it is.
    assert_all(&sink.deliver(&batch(0..1, false, MINUTE)).await, 1);
    assert_eq!(case.rows(), 1);
}
