//! What is stored once: an event by its tenant and id, a delivery also by its kind and body.

use std::sync::LazyLock;
use std::time::Duration;

use headrace_runtime::component::batch::{Batch, Item};
use headrace_runtime::component::sink::Sink as _;
use headrace_runtime::consume::stream_reader::Window;
use headrace_runtime::message::payload::{Outgoing, Payload as _, RawDelivery};
use headrace_schemas::event::{Event, RawReference};
use headrace_schemas::id::EventId;
use headrace_schemas::time::Timestamp;
use headrace_tests::conformance::receiver::Case as _;
use headrace_tests::harness::Nats;
use headrace_tests::harness::samples::Sample as _;
use headrace_tests::product::process::gone;
use tempfile::TempDir;

use super::exactly_once::sinks;
use super::{ClickHouseCase, MINUTE, assert_all, ready};

/// Queries for the rows of each table: tenant, id and hash, in this order.
const DELIVERIES: &str = "SELECT tenant, id, event, sha256 FROM headrace.raw ORDER BY tenant, event, sha256";
const EVENTS: &str = "SELECT tenant, id, raw_sha256 FROM headrace.events ORDER BY tenant, id";

/// When all of them were received. A delivery that comes again has the time of its first delivery.
static RECEIVED_AT: LazyLock<Timestamp> = LazyLock::new(Timestamp::now);

/// Sample `number` with another body.
fn delivery(number: u16, body: &str) -> RawDelivery {
    let body = format!(r#"{{"action":"publicized","body":"{body}"}}"#);
    let sha256 = RawDelivery::sha256_of(body.as_bytes());
    RawDelivery { received_at: *RECEIVED_AT, body: body.into(), sha256, ..RawDelivery::sample(number) }
}

/// The event of such a delivery.
fn event(number: u16, body: &str) -> Event {
    let delivery = delivery(number, body);
    let raw = RawReference { sha256: delivery.sha256, ..Event::sample(number).raw };
    Event { received_at: *RECEIVED_AT, raw, ..Event::sample(number) }
}

fn batch<T>(values: Vec<T>, suspect: bool) -> Batch<T> {
    let item =
        |(sequence, value)| Item { value, suspect, redelivered: suspect, sequence, stored_at: Timestamp::default() };
    Batch::new((1..).zip(values).map(item).collect(), MINUTE)
}

fn rows(lines: &[[&str; 3]]) -> String {
    lines.iter().map(|line| format!("{}\n", line.join("\t"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_body_under_an_id_is_stored_once() {
    let (case, _) = ready().await;
    let sink = case.with_long_timeout().raw();
    let all = || {
        vec![
            delivery(1, "one"),
            delivery(1, "other"),
            RawDelivery { event: "star".to_owned(), ..delivery(1, "one") },
            RawDelivery { tenant: "octo".to_owned(), ..delivery(1, "one") },
        ]
    };
    assert_all(&sink.deliver(&batch(all(), false)).await, 4);
    let first = case.query(DELIVERIES);
    assert_eq!(first.lines().count(), 4, "{first}");
    // They come again: each alone, all together in another order, and one together with a new one.
    for alone in all() {
        assert_all(&sink.deliver(&batch(vec![alone], true)).await, 1);
    }
    let mut again = all();
    again.reverse();
    assert_all(&sink.deliver(&batch([again, all()].concat(), true)).await, 8);
    assert_eq!(case.query(DELIVERIES), first);
    assert_all(&sink.deliver(&batch(vec![delivery(1, "one"), delivery(1, "third")], true)).await, 2);
    assert_eq!(case.query(DELIVERIES).lines().count(), 5);

    let conflicts = case.query(
        "SELECT tenant, id, deliveries, length(hashes), arrayUniq(hashes), arrayUniq(kinds) \
         FROM headrace.conflicting_deliveries",
    );
    let id = delivery(1, "").id;
    assert_eq!(conflicts, format!("acme\t{id}\t4\t4\t3\t2\n"), "octo has one delivery, so no conflict");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_tenants_event_is_that_of_its_first_body() {
    let (case, sink) = ready().await;
    let of_octo = |body| Event { tenant: "octo".to_owned(), ..event(1, body) };
    let id = event(1, "").id;
    let [one, other] = ["one", "other"].map(|body| delivery(1, body).sha256);
    assert_all(&sink.deliver(&batch(vec![event(1, "one")], false)).await, 1);
    let acme = rows(&[["acme", id.as_str(), &one]]);
    assert_eq!(case.query(EVENTS), acme);
    // As after the broker has forgotten the first delivery.
    assert_all(&sink.deliver(&batch(vec![event(1, "other"), event(1, "one")], true)).await, 2);
    assert_eq!(case.query(EVENTS), acme);
    // Another tenant's event under the same id is another event, with a first body of its own.
    assert_all(&sink.deliver(&batch(vec![of_octo("other"), of_octo("one"), event(1, "one")], true)).await, 3);
    assert_all(&sink.deliver(&batch(vec![of_octo("one")], true)).await, 1);
    assert_eq!(case.query(EVENTS), rows(&[["acme", id.as_str(), &one], ["octo", id.as_str(), &other]]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_time_under_a_known_id_is_another_event_and_shown() {
    let (case, sink) = ready().await;
    let raw = case.with_long_timeout().raw();
    let id = || EventId::of_source("ndjson", "1");
    let at = |hours: u64| Some(RECEIVED_AT.minus(Duration::from_secs(hours * 3_600)));
    let of_hour = |hours| Event { id: id(), event_time: at(hours), ..event(1, "one") };
    let body_of_hour = |hours| RawDelivery { id: id(), event_time: at(hours), ..delivery(1, "one") };
    for suspect in [false, true] {
        // Each comes again among the suspects, long after the broker has forgotten it.
        let events = vec![of_hour(1), of_hour(5_000), of_hour(1)];
        assert_all(&sink.deliver(&batch(events, suspect)).await, 3);
        assert_all(&raw.deliver(&batch(vec![body_of_hour(1), body_of_hour(5_000)], suspect)).await, 2);
        assert_eq!(case.query("SELECT count(), uniqExact(event_time) FROM headrace.events"), "2\t2\n");
        assert_eq!(case.query("SELECT count(), uniqExact(event_time) FROM headrace.raw"), "2\t2\n");
    }
    let shown = case
        .query("SELECT id, deliveries, arrayUniq(hashes), arrayUniq(event_times) FROM headrace.conflicting_deliveries");
    assert_eq!(shown, format!("{}\t2\t1\t2\n", id()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_with_a_time_in_the_future_is_found() {
    let (case, sink) = ready().await;
    // The time of its UUID is in the year 3000.
    let id = EventId::github("6e6f4000-e111-1634-81ab-4c9367dc0958");
    assert!(id.created_at().is_some_and(|at| at > Timestamp::now()), "{:?}", id.created_at());
    let earlier = Timestamp::now().minus(Duration::from_secs(24 * 3_600));
    let first = Event { id: id.clone(), received_at: earlier, ..event(1, "one") };
    assert_all(&sink.deliver(&batch(vec![first], false)).await, 1);
    assert_all(&sink.deliver(&batch(vec![Event { id, ..event(1, "one") }], true)).await, 1);
    assert_eq!(case.rows(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_an_earlier_release_are_found() {
    let case = ClickHouseCase::start().await;
    case.query("CREATE DATABASE headrace ENGINE = Atomic");
    let made = include_str!("../../sinks/src/clickhouse/write/migrations/0002_raw.sql");
    case.query(&made.replace("NOT EXISTS raw", "NOT EXISTS headrace.raw"));
    let RawDelivery { id, tenant, event, received_at, body, .. } = delivery(1, "one");
    case.query(&format!(
        "INSERT INTO headrace.raw (id, tenant, event, received_at, body) VALUES ('{id}', '{tenant}', '{event}', \
         fromUnixTimestamp64Micro({}), '{}')",
        received_at.as_micros(),
        String::from_utf8_lossy(&body)
    ));
    let sink = case.with_long_timeout().raw();
    sink.check().await.unwrap();
    let both = || vec![delivery(1, "one"), delivery(1, "other")];
    for _ in 0..2 {
        assert_all(&sink.deliver(&batch(both(), true)).await, 2);
        let mut hashes: Vec<String> = both().into_iter().map(|delivery| delivery.sha256).collect();
        hashes.sort();
        let both = "SELECT sha256 FROM headrace.raw UNION ALL SELECT sha256 FROM headrace.raw_1";
        let stored = case.query(&format!("SELECT * FROM ({both}) ORDER BY sha256"));
        assert_eq!(stored.lines().collect::<Vec<_>>(), hashes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_under_one_id_are_stored_once_when_sinks_die() {
    let (case, nats, dir) = (ClickHouseCase::start().await, Nats::start().await, TempDir::new().unwrap());
    let deliveries = || (0..20).flat_map(|number| [delivery(number, "one"), delivery(number, "other")]);
    let start =
        async |name: &str, crash_at: &str| sinks(&nats, &case.server.url(), &dir.path().join(name), crash_at).await;
    // It dies after its rows are stored and before it acknowledges anything.
    let dies = start("dies", "after_insert:1").await;
    nats.publish_all(deliveries().map(|delivery| delivery.message())).await;
    nats.publish_all((0..20).map(|number| event(number, "one").message())).await;
    gone(dies.pid()).await;
    let running = start("first", "").await;
    let settled = async || {
        nats.settled(RawDelivery::STREAM, "clickhouse-raw").await;
        nats.settled(Event::STREAM, "clickhouse").await;
    };
    settled().await;
    // As after the broker's duplicate window.
    let again = async |suffix: &str| {
        let late = |mut message: Outgoing| {
            message.message_id.push_str(suffix);
            message
        };
        nats.publish_all(deliveries().map(|delivery| late(delivery.message()))).await;
        nats.publish_all((0..20).map(|number| late(event(number, "other").message()))).await;
    };
    again("/again").await;
    settled().await;
    running.kill().await;
    again("/and again").await;
    let running = start("second", "").await;
    settled().await;

    let counts = case.query("SELECT count(), uniqExact(id), uniqExact(id, sha256) FROM headrace.raw");
    assert_eq!(counts, "40\t20\t40\n");
    let of_first: Vec<String> = (0..20).map(|number| delivery(number, "one").sha256).collect();
    let stored = case.query("SELECT raw_sha256 FROM headrace.events ORDER BY id");
    assert_eq!(stored.lines().collect::<Vec<_>>(), of_first, "the first body is the event, once");
    assert_eq!(case.query("SELECT count() FROM headrace.conflicting_deliveries"), "20\n");
    running.stop().await;
}

/// The window of a rewriting: two hours around `since`.
fn window(since: Timestamp) -> Window {
    let to = Timestamp::from_micros(since.as_micros() + 3_600_000_000);
    Window { from: since.minus(Duration::from_secs(3_600)), to, tenant: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewritten_row_keeps_its_body_and_its_tenant() {
    let (case, sink) = ready().await;
    let of_octo = Event { tenant: "octo".to_owned(), ..event(1, "octo's") };
    // For event 1 the second body was stored first, for event 2 the first body.
    assert_all(&sink.deliver(&batch(vec![event(1, "other"), of_octo.clone(), event(2, "one")], false)).await, 3);
    let before = case.query(EVENTS);
    let all = vec![
        event(1, "one"),
        event(1, "other"),
        event(2, "one"),
        event(2, "other"),
        event(3, "one"),
        event(3, "other"),
    ];
    let since = case.with_long_timeout().now().await.unwrap();
    let rewriting = |writer: &str| case.with_long_timeout().events_rewritten(&window(since), since, writer);
    let written = rewriting("one").write(batch(all.clone(), true).items()).await.unwrap();
    assert_eq!((written.inserted, written.kept), (3, 0), "{written:?}");
    // Each alone, as in batches of one.
    for value in all {
        let written = rewriting("another").write(batch(vec![value], true).items()).await.unwrap();
        assert_eq!((written.inserted, written.kept), (0, 0), "{written:?}");
    }
    let (id, one) = (event(3, "").id, delivery(3, "one").sha256);
    let third = rows(&[["acme", id.as_str(), &one]]);
    let (acme, octo) = before.split_at(before.find("octo").unwrap());
    assert_eq!(case.query(EVENTS), format!("{acme}{third}{octo}"));
    let untouched =
        format!("SELECT tenant FROM headrace.events WHERE toUnixTimestamp64Micro(inserted_at) < {}", since.as_micros());
    assert_eq!(case.query(&untouched), "octo\n");

    // The body that became the event is gone from RAW. Another body must not take its place.
    let since = case.with_long_timeout().now().await.unwrap();
    let rewriting = case.with_long_timeout().events_rewritten(&window(since), since, "third");
    let written = rewriting.write(batch(vec![event(1, "one")], true).items()).await.unwrap();
    assert_eq!((written.fresh, written.inserted, written.kept), (0, 0, 1));
    assert_eq!(case.query(EVENTS), format!("{acme}{third}{octo}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_rows_with_one_body_one_remains() {
    let (case, _) = ready().await;
    let (config, since) = (case.with_long_timeout(), case.with_long_timeout().now().await.unwrap());
    let bodies = config.bodies_completed(since, "one");
    let of_octo = || RawDelivery { tenant: "octo".to_owned(), ..delivery(1, "one") };
    let all = || vec![delivery(1, "one"), delivery(1, "other"), of_octo()];
    let written = bodies.write(batch(all(), true).items()).await.unwrap();
    assert_eq!((written.inserted, written.kept), (3, 0), "{written:?}");
    let completed = case.query(DELIVERIES);
    // A sink looked the body up before these rows were there, and inserts another row.
    assert_all(&config.raw().deliver(&batch(vec![delivery(1, "other")], false)).await, 1);
    assert_eq!(case.query(DELIVERIES).lines().count(), 4);
    for _ in 0..2 {
        bodies.prove(&written.unproven).await.unwrap();
        assert_eq!(case.query(DELIVERIES), completed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_call_rewrites_as_many_rows_as_it_may_take() {
    let (case, sink) = ready().await;
    let event = |number| Event { tenant: format!("a-tenant-with-a-long-name-{number}"), ..event(number, "one") };
    let all = batch((0..8_000).map(event).collect(), true);
    assert_all(&sink.deliver(&all).await, 8_000);
    assert_all(&sink.deliver(&all).await, 8_000);
    let since = case.with_long_timeout().now().await.unwrap();
    let written =
        case.with_long_timeout().events_rewritten(&window(since), since, "one").write(all.items()).await.unwrap();
    assert_eq!((written.fresh, written.inserted), (8_000, 8_000));
    assert_eq!(case.query("SELECT count(), uniqExact(tenant, id) FROM headrace.events"), "8000\t8000\n");
}
