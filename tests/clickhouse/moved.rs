//! Rows that an earlier release has written are moved into the present table: each is there once, whoever is killed when,
//! and a suspect of each is recognized throughout.

use std::path::Path;

use headrace_runtime::component::batch::{Batch, Item};
use headrace_runtime::component::sink::Sink as _;
use headrace_runtime::message::payload::RawDelivery;
use headrace_runtime::state::installation;
use headrace_schemas::event::{Event, RawReference};
use headrace_schemas::id::EventId;
use headrace_schemas::time::Timestamp;
use headrace_sinks::kind::{AnySink, Identity, Kind as _};
use headrace_tests::conformance::receiver::Case as _;
use headrace_tests::harness::samples::{Sample as _, guid};
use headrace_tests::harness::{Nats, until};
use headrace_tests::product::process::{Running, gone};
use tempfile::TempDir;

use super::exactly_once::sinks_with;
use super::{ClickHouseCase, MINUTE, assert_all};

/// The migrations that made the tables of the earlier release.
const EARLIER: [&str; 8] = [
    include_str!("../../sinks/src/clickhouse/write/migrations/0001_events.sql"),
    include_str!("../../sinks/src/clickhouse/write/migrations/0002_raw.sql"),
    include_str!("../../sinks/src/clickhouse/write/migrations/0003_gaps.sql"),
    include_str!("../../sinks/src/clickhouse/write/migrations/0004_raw_sha256.sql"),
    include_str!("../../sinks/src/clickhouse/write/migrations/0005_conflicting_deliveries.sql"),
    include_str!("../../sinks/src/clickhouse/write/migrations/0006_events_comments.sql"),
    include_str!("../../sinks/src/clickhouse/write/migrations/0007_raw_comments.sql"),
    include_str!("../../sinks/src/clickhouse/write/migrations/0008_conflicting_deliveries_comments.sql"),
];
/// What is stored of `count` events: the events themselves, and their bodies, in both tables.
const EACH: &str = "SELECT count(), uniqExact(id) FROM";

/// Events of three months, received now and long ago; half of them by a source that gives their time in the record.
struct Earlier {
    case: ClickHouseCase,
    events: Vec<Event>,
}

impl Earlier {
    async fn start() -> Self {
        let case = ClickHouseCase::start().await;
        case.query("CREATE DATABASE headrace ENGINE = Atomic");
        for sql in EARLIER {
            case.query_in("headrace", sql);
        }
        let event = |number: u16| {
            let received_at = Timestamp::now().minus(MINUTE * 60 * 24 * 31 * u32::from(number % 3));
            let event_time = received_at.minus(MINUTE);
            let raw = RawReference { sha256: RawDelivery::sample(number).sha256, ..Event::sample(number).raw };
            let event = Event { received_at, raw, ..Event::sample(number) };
            if number.is_multiple_of(2) {
                return Event { id: EventId::github(&guid(number)), ..event };
            }
            let (id, source) = (EventId::of_source("ndjson", &number.to_string()), "ndjson".to_owned());
            Event { id, source, occurred_at: event_time, event_time: Some(event_time), ..event }
        };
        let earlier = Self { case, events: (0..30).map(event).collect() };
        for event in &earlier.events {
            earlier.insert(event);
        }
        earlier
    }

    /// Writes the rows of an event and its body, as an earlier release did.
    fn insert(&self, event: &Event) {
        let Event { id, source, kind, raw: RawReference { sha256, .. }, .. } = event;
        let at = |at: Timestamp| format!("fromUnixTimestamp64Micro({}, 'UTC')", at.as_micros());
        let (occurred_at, received_at) = (at(event.occurred_at), at(event.received_at));
        self.case.query_in(
            "headrace",
            &format!(
                "INSERT INTO events (id, tenant, source, kind, category, outcome, severity, occurred_at, received_at, \
                 raw_sha256, inserted_at) SELECT '{id}', 'acme', '{source}', '{kind}', 'repository', 'success', 'none', \
                 {occurred_at}, {received_at}, '{sha256}', {received_at}"
            ),
        );
        self.case.query_in(
            "headrace",
            &format!(
                "INSERT INTO raw (id, tenant, source, event, received_at, sha256) \
                 SELECT '{id}', 'acme', '{source}', '{kind}', {received_at}, '{sha256}'"
            ),
        );
    }

    async fn sinks(&self, nats: &Nats, dir: &Path, crash_at: &str) -> Running {
        sinks_with(nats, &self.case.server.url(), dir, crash_at, "replay.lease_s = 1").await
    }

    fn has(&self, table: &str) -> bool {
        !self
            .case
            .query(&format!("SELECT 1 FROM system.tables WHERE database = 'headrace' AND name = '{table}'"))
            .is_empty()
    }

    /// Presents all events and bodies again, as a process of the installation of `nats`. None may become another row.
    async fn are_recognized(&self, nats: &Nats) {
        let item = |event: &Event| Item {
            value: event.clone(),
            suspect: true,
            redelivered: false,
            sequence: 1,
            stored_at: Timestamp::now(),
        };
        let installation = installation::id(&nats.broker().await).await.unwrap();
        let own = Identity { instance: "clickhouse".to_owned(), installation };
        let parts = self.case.with_long_timeout().parts(&own).unwrap();
        let mut sinks = parts.into_iter().map(|part| part.sink);
        let (Some(AnySink::Events(sink)), Some(AnySink::Raw(sink_of_bodies))) = (sinks.next(), sinks.next()) else {
            panic!("expected the components that the kind declares")
        };
        let events = Batch::new(self.events.iter().map(item).collect(), MINUTE);
        assert_all(&sink.deliver(&events).await, 30);
        let bodies = events.items().iter().zip(0..).map(|(Item { value, .. }, number)| Item {
            value: RawDelivery {
                id: value.id.clone(),
                source: value.source.clone(),
                received_at: value.received_at,
                event_time: value.event_time,
                ..RawDelivery::sample(number)
            },
            suspect: true,
            redelivered: false,
            sequence: 1,
            stored_at: Timestamp::now(),
        });
        assert_all(&sink_of_bodies.deliver(&Batch::new(bodies.collect(), MINUTE)).await, 30);
        assert_eq!(self.case.query(&format!("{EACH} headrace.raw")), "0\t0\n");
        assert_eq!(self.case.query(&format!("{EACH} headrace.raw_1")), "30\t30\n");
    }

    /// How many rows the present table has, and how many ids both tables have.
    fn moved(&self) -> (String, String) {
        let both = "(SELECT id FROM headrace.events UNION ALL SELECT id FROM headrace.events_1)";
        let ids = self.case.query(&format!("SELECT uniqExact(id) FROM {both}"));
        (self.case.query("SELECT count() FROM headrace.events"), ids)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn earlier_rows_are_moved_once_though_their_mover_is_killed() {
    let (earlier, nats, dir) = (Earlier::start().await, Nats::start().await, TempDir::new().unwrap());
    // The first is killed before anything is in place, the second when a month is in both tables.
    for (point, moved) in [("before_move:1", "0\n"), ("after_move:1", "10\n")] {
        let killed = earlier.sinks(&nats, &dir.path().join(point), point).await;
        gone(killed.pid()).await;
        assert_eq!(earlier.moved(), (moved.to_owned(), "30\n".to_owned()), "{point}");
        earlier.are_recognized(&nats).await;
        assert_eq!(earlier.moved(), (moved.to_owned(), "30\n".to_owned()), "{point}");
    }
    // A sink that has looked rows up while there were earlier ones must notice that they are gone.
    let process = earlier.sinks(&nats, &dir.path().join("last"), "").await;
    until("the earlier table is gone", || !earlier.has("events_1")).await;
    earlier.are_recognized(&nats).await;
    assert_eq!(earlier.case.query(&format!("{EACH} headrace.events")), "30\t30\n");
    let times = "SELECT countIf(event_time = occurred_at), countIf(event_time > 0), sum(moved) FROM headrace.events";
    assert_eq!(earlier.case.query(times), "15\t30\t30\n", "of both sources");
    assert!(process.log().contains("events of a month moved"), "{}", process.log());
    let copies = "SELECT count() FROM system.tables WHERE database = 'headrace' AND startsWith(name, 'events_moved')";
    assert_eq!(earlier.case.query(copies), "0\n");

    // What is new becomes a row beside them.
    nats.publish_all([Event { id: EventId::github(&guid(99)), ..Event::sample(99) }.message()]).await;
    until("the new event is stored", || earlier.case.rows() == 31).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clickhouse_that_is_away_keeps_no_other_from_moving() {
    let (earlier, nats, dir) = (Earlier::start().await, Nats::start().await, TempDir::new().unwrap());
    let away = "replay.lease_s = 1
sinks.away = { kind = 'clickhouse', url = 'http://127.0.0.1:1' }";
    let process = sinks_with(&nats, &earlier.case.server.url(), dir.path(), "", away).await;
    until("the earlier table is gone", || !earlier.has("events_1")).await;
    assert_eq!(earlier.case.query(&format!("{EACH} headrace.events")), "30\t30\n");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_an_earlier_release_are_dropped_with_their_last_row() {
    let earlier = Earlier::start().await;
    let config = earlier.case.with_long_timeout();
    config.migrate().await.unwrap();
    let mover = config.mover("one").unwrap();
    mover.drop_empty().await.unwrap();
    assert!(earlier.has("raw_1") && earlier.has("events_1"));
    let refused = config.ensure_moved().await.unwrap_err().to_string();
    assert!(refused.contains("found 3 months in `events_1`"), "{refused}");
    earlier.case.query("TRUNCATE TABLE headrace.raw_1");
    mover.drop_empty().await.unwrap();
    assert!(!earlier.has("raw_1") && earlier.has("events_1"));
    assert_eq!(earlier.case.query("SELECT count() FROM headrace.conflicting_deliveries"), "0\n");
    assert!(mover.is_needed().await.unwrap());
    for month in mover.partitions().await.unwrap() {
        assert_eq!(mover.move_partition(month).await.unwrap(), 10, "{month}");
    }
    mover.drop_empty().await.unwrap();
    assert!(!mover.is_needed().await.unwrap() && earlier.case.rows() == 30);
    config.ensure_moved().await.unwrap();
}
