//! The role that asks sources, on a real nats-server, with a source that is asked over HTTP and fails on command.

mod bed;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use headrace_ingest::collect::kept;
use headrace_ingest::source::Record;
use headrace_ingest::source::pull::{CURSOR_BYTES_MAX, Cursor, Pace, Page, Pull};
use headrace_runtime::broker::{CURSORS, Stream};
use headrace_runtime::config;
use headrace_runtime::fault::Fault;
use headrace_runtime::observe::health::State as HealthState;
use headrace_runtime::state::StateStore;
use headrace_schemas::header;
use headrace_schemas::id::EventId;
use headrace_tests::harness::{CEILING, streams};
use headrace_tests::product::admin::sample;
use headrace_tests::product::process::{freeze, signal};
use headrace_tests::standin::server::{Failure, When, Which};
use rustix::process::Signal;
use serde_json::json;
use tokio::time::Instant;

use self::bed::{Bed, COMPONENT, NAME, PACE, PAGE};

const PAGE_OF_DOCS: &str = include_str!("../../../deploy/docs/adding-a-part.md");
const SOURCE: &str = include_str!("asked.rs");

#[test]
fn the_page_shows_the_source_that_is_tested() {
    let section = PAGE_OF_DOCS.split("## A source that is asked\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let shown = section.split("```rust\n").nth(1).unwrap().split("```").next().unwrap();
    // The page shows the file as it is in `ingest/src/`.
    let source = SOURCE.replace("headrace_ingest::", "crate::").replace("pub(crate) ", "pub ");
    assert_eq!(shown, source, "copy ingest/tests/gateway/asked.rs to the page, with `crate` and `pub`");
}

#[tokio::test]
async fn a_source_is_read_to_its_end_and_then_for_what_is_new() {
    let bed = Bed::start().await;
    bed.happen(25);
    let process = bed.read(PACE).await;
    bed.stored(25).await;
    bed.until("the cursor is kept", async || bed.cursor().await == Some(json!(25))).await;
    assert_eq!(bed.asked_by("only")[..3], [0, 10, 20], "page after page, without a pause");
    bed.stored(bed.happen(5)).await;
    let messages = bed.nats.messages(Stream::Raw).await;
    assert_eq!(messages[0].subject.as_str(), "raw.acme.auditlog.login");
    let found = |name: &str| messages[0].headers.get(name).map(ToString::to_string);
    assert_eq!(found(header::SOURCE).as_deref(), Some("auditlog"));
    assert!(found(header::EVENT_TIME).is_some());
    bed.until("it was read completely", async || {
        let metrics = bed.metrics.render();
        let of = |name: &str| sample(&metrics, &format!("{name}{{component=\"{COMPONENT}\"}}"));
        of("headrace_collect_read_timestamp_seconds") > Some(1e9) && of("headrace_collect_leader") == Some(1.0)
    })
    .await;
    assert_eq!((bed.pages("stored"), bed.pages("failed")), (4.0, 0.0));
    let records = "headrace_ingest_records_total{source=\"auditlog\",outcome=\"stored\"}";
    assert_eq!(sample(&bed.metrics.render(), records), Some(30.0));
    process.stop().await;
    let before = bed.asked_by("only").len();
    let process = bed.read(PACE).await;
    bed.stored(bed.happen(1)).await;
    assert!(bed.asked_by("only")[before..].iter().all(|after| *after >= 30), "another process goes on");
    process.stop().await;
}

#[tokio::test]
async fn one_process_asks_and_another_takes_over_when_it_dies() {
    let bed = Bed::start().await;
    bed.happen(15);
    let first = bed.read_as("first", PACE).await;
    bed.stored(15).await;
    let second = bed.read_as("second", PACE).await;
    bed.stored(bed.happen(15)).await;
    assert_eq!(bed.asked_by("second"), [0; 0]);
    assert!(first.is_healthy() && second.is_healthy());
    drop(first);
    bed.stored(bed.happen(15)).await;
    assert!(bed.asked_by("second").iter().all(|after| *after >= 30), "{:?}", bed.asked_by("second"));
    // One that is stopped gives the lease back, so the next need not wait until it expires.
    second.stop().await;
    let third = bed.read_as("third", PACE).await;
    bed.stored(bed.happen(1)).await;
    third.stop().await;
}

#[tokio::test]
async fn a_process_that_lost_its_lease_cannot_move_the_cursor() {
    let bed = Bed::start().await;
    bed.happen(10);
    let process = bed.read(PACE).await;
    bed.stored(10).await;
    bed.until("the cursor is kept", async || bed.cursor().await == Some(json!(10))).await;
    // While it waits for a page, another process reads on.
    bed.log.fail_next(1, Failure::Hold, When::Before, Which::Any);
    bed.until("the page is held", async || bed.log.held() == 1).await;
    let bucket = bed.bucket().await;
    bucket.put(format!("cursor.{NAME}"), "12".into()).await.unwrap();
    bed.happen(10);
    bed.log.release();
    bed.until("it goes on from the other's cursor", async || bed.asked_by("only").contains(&12)).await;
    bed.until("the cursor is at the end", async || bed.cursor().await == Some(json!(20))).await;
    bed.stored(20).await;

    // Somebody else has the lease.
    bucket.put(format!("lease.{NAME}"), "another 600000".into()).await.unwrap();
    let leader = format!("headrace_collect_leader{{component=\"{COMPONENT}\"}}");
    bed.until("it stands by", async || sample(&bed.metrics.render(), &leader) == Some(0.0)).await;
    let asked = bed.asked_by("only").len();
    bed.happen(5);
    bucket.put(format!("lease.{NAME}"), "".into()).await.unwrap();
    bed.stored(25).await;
    assert!(bed.asked_by("only").len() > asked);
    process.stop().await;
}

#[tokio::test]
async fn a_source_that_fails_is_asked_again_as_it_wishes() {
    let bed = Bed::start().await;
    bed.happen(5);
    bed.log.fail_next(1, Failure::StatusAfter(503, 1), When::Before, Which::Any);
    let (process, began) = (bed.read(PACE).await, Instant::now());
    bed.until("it is degraded", async || matches!(process.state(), HealthState::Degraded(_))).await;
    bed.stored(5).await;
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    bed.until("it is healthy", async || process.is_healthy()).await;
    assert_eq!(bed.pages("failed"), 1.0);

    bed.log.fail_next(3, Failure::Status(401), When::Before, Which::Any);
    bed.until("it is broken", async || matches!(process.state(), HealthState::Broken(_))).await;
    let HealthState::Broken(why) = process.state() else { panic!("it was broken a moment ago") };
    assert!(why.contains("renew the token"), "{why}");
    bed.until("a person has mended it", async || process.is_healthy()).await;
    for failure in [Failure::Reset, Failure::Garbage, Failure::Torn] {
        bed.log.fail_next(2, failure, When::Before, Which::Any);
        bed.stored(bed.happen(1)).await;
    }
    bed.log.down();
    bed.until("it is degraded", async || matches!(process.state(), HealthState::Degraded(_))).await;
    bed.log.up().await;
    bed.stored(bed.happen(1)).await;
    process.stop().await;
}

#[tokio::test]
async fn a_page_that_does_not_come_is_given_up_and_a_stop_does_not_wait_for_it() {
    let bed = Bed::start().await;
    bed.happen(1);
    bed.log.fail_next(1, Failure::Hang, When::Before, Which::Any);
    let process = bed.read(Pace { timeout: Duration::from_millis(100), ..PACE }).await;
    bed.stored(1).await;
    assert_eq!(bed.pages("failed"), 1.0);
    process.stop().await;
    bed.log.fail_next(1, Failure::Hold, When::Before, Which::Any);
    let process = bed.read(Pace { timeout: CEILING * 10, ..PACE }).await;
    bed.until("a page is under way", async || bed.log.held() == 1).await;
    process.stop().await;
}

#[tokio::test]
async fn no_hour_has_more_pages_than_its_budget_over_all_processes() {
    let bed = Bed::start().await;
    bed.happen(50);
    let pace = Pace { pages_per_hour: Some(3), ..PACE };
    let first = bed.read_as("first", pace).await;
    bed.until("the budget is used up", async || bed.pages("over_budget") >= 1.0).await;
    bed.stored(30).await;
    assert!(first.is_healthy(), "it is as configured");
    first.stop().await;
    let second = bed.read_as("second", pace).await;
    bed.until("so it is for the next process", async || bed.pages("over_budget") >= 2.0).await;
    assert_eq!((bed.asked_by("first").len(), bed.asked_by("second").len()), (3, 0));
    second.stop().await;
}

#[tokio::test]
async fn a_bucket_that_was_deleted_only_has_the_source_read_again() {
    let bed = Bed::start().await;
    bed.happen(25);
    let process = bed.read(PACE).await;
    bed.stored(25).await;
    bed.until("the cursor is kept", async || bed.cursor().await == Some(json!(25))).await;
    bed.nats.jetstream().delete_stream(format!("KV_{CURSORS}")).await.unwrap();
    bed.until("it is missed", async || matches!(process.state(), HealthState::Degraded(_))).await;
    let from = bed.asked_by("only").len();
    bed.broker().await.ensure_topology(&streams()).await.unwrap();
    bed.until("it is read again", async || bed.asked_by("only")[from..].contains(&20)).await;
    assert!(bed.asked_by("only")[from..].contains(&0));
    bed.until("it works again", async || process.is_healthy()).await;
    bed.stored(bed.happen(1)).await;
    process.stop().await;
}

#[tokio::test]
async fn a_cursor_that_is_removed_has_the_source_read_again() {
    let bed = Bed::start().await;
    bed.happen(5);
    let process = bed.read(PACE).await;
    bed.until("the cursor is kept", async || bed.cursor().await == Some(json!(5))).await;
    let from = bed.asked_by("only").len();
    let store = StateStore::open_cursors(&bed.broker().await).await.unwrap();
    assert!(kept::forget(&store, NAME).await.unwrap());
    bed.until("it is read again", async || bed.asked_by("only")[from..].contains(&0)).await;
    bed.until("the cursor is kept", async || bed.cursor().await == Some(json!(5))).await;
    bed.stored(5).await;
    assert!(!kept::forget(&store, "auditlog.unknown").await.unwrap());
    process.stop().await;
}

#[tokio::test]
async fn a_broker_that_is_away_is_waited_for() {
    let bed = Bed::start().await;
    bed.happen(5);
    let process = bed.read(PACE).await;
    bed.stored(5).await;
    let pid = bed.nats.server().pid().unwrap();
    freeze(pid).await;
    bed.happen(30);
    bed.until("the broker is missed", async || matches!(process.state(), HealthState::Degraded(_))).await;
    signal(pid, Signal::CONT);
    bed.stored(35).await;
    bed.until("it works again", async || process.is_healthy()).await;
    assert_eq!(bed.pages("failed"), 0.0, "the source did not fail");
    process.stop().await;
}

#[tokio::test]
async fn a_full_stream_does_not_have_the_source_asked_again() {
    let small = config::Limits { max_age_hours: 24, max_bytes: 4 << 10 };
    let bed = Bed::with(config::Streams { raw: small, ..streams() }).await;
    bed.happen(PAGE * 10);
    let process = bed.read(PACE).await;
    bed.until("RAW is full", async || bed.pages("unstored") >= 3.0).await;
    let HealthState::Degraded(why) = process.state() else { panic!("{:?}", process.state()) };
    assert!(why.contains("RAW is full"), "{why}");
    let asked = bed.asked_by("only");
    assert_eq!(asked.iter().collect::<BTreeSet<_>>().len(), asked.len(), "no page twice: {asked:?}");
    // Make room again and again, as retention does.
    let raw = bed.nats.jetstream().get_stream(Stream::Raw.name()).await.unwrap();
    bed.until("everything is stored", async || {
        raw.purge().await.unwrap();
        bed.cursor().await == Some(json!(PAGE * 10))
    })
    .await;
    assert_eq!(bed.pages("failed"), 0.0);
    process.stop().await;
}

/// A source with a defect.
struct Defective(fn() -> Page);

#[async_trait]
impl Pull for Defective {
    fn source(&self) -> &'static str {
        "auditlog"
    }

    fn name(&self) -> &str {
        "entries"
    }

    fn pace(&self) -> Pace {
        PACE
    }

    async fn check(&self) -> Result<(), Fault> {
        Ok(())
    }

    async fn page(&self, _cursor: Option<&Cursor>) -> Result<Page, Fault> {
        Ok((self.0)())
    }
}

/// A page with an id of two lines. Nothing of it can be stored, also not what is good.
fn unfit() -> Page {
    let record = |own: &str| Record {
        id: EventId::of_source("auditlog", own),
        event_time: None,
        kind: "login".to_owned(),
        tenant: "acme".to_owned(),
        headers: Vec::new(),
        body: "{}".into(),
    };
    Page { records: vec![record("good"), record("one\nmore")], cursor: Some(json!(1)), has_more: false }
}

#[tokio::test]
async fn a_defect_of_a_source_is_told_with_its_name() {
    let bed = Bed::start().await;
    let too_large = || Page { records: Vec::new(), cursor: Some(json!("x".repeat(CURSOR_BYTES_MAX))), has_more: false };
    let endless = || Page { records: Vec::new(), cursor: None, has_more: true };
    for (defect, words) in [
        (too_large as fn() -> Page, "262144 bytes"),
        (endless, "expected another cursor"),
        (unfit, "expected an id of one line in each record, found a line break in `auditlog:one\\nmore`"),
    ] {
        let process = bed.run(Arc::new(Defective(defect))).await;
        bed.until("it is broken", async || matches!(process.state(), HealthState::Broken(_))).await;
        let HealthState::Broken(why) = process.state() else { panic!("{:?}", process.state()) };
        assert!(why.contains(words) && why.contains(NAME), "{why}");
        assert_eq!((bed.cursor().await, bed.in_raw().await), (None, Vec::new()));
        process.stop().await;
    }
}
