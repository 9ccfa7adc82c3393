//! Rows make the very events again, and what the sink computes for the look-ups is what the tables compute.

use headrace_runtime::component::batch::{Batch, Item};
use headrace_runtime::component::sink::Sink as _;
use headrace_runtime::message::payload::RawDelivery;
use headrace_schemas::event::Event;
use headrace_schemas::id::EventId;
use headrace_schemas::time::Timestamp;
use headrace_tests::harness::samples::{Sample as _, WITHOUT, bare_event, full_event};

use super::{MINUTE, assert_all, ready};

/// Ids of all forms, and whether the source gives a time that the column can hold.
const IDS: [(&str, bool); 9] = [
    ("github:72d3162e-cc78-11e3-81ab-4c9367dc0958", true),
    ("github:72D3162E-CC78-11E3-81AB-4C9367DC0959", true),
    ("github:72d3162ecc7811e381ab4c9367dc0958", true),
    // In the years 3000 and 1582.
    ("github:6e6f4000-e111-1634-81ab-4c9367dc0958", false),
    ("github:00000000-0000-1000-81ab-4c9367dc0958", false),
    ("github:0f8fad5b-d9cb-469f-a165-70867728950e", false),
    ("github:72d3162e-cc78-11e3-81ab-4c9367dc09", false),
    ("ndjson:72d3162e-cc78-11e3-81ab-4c9367dc0958", false),
    ("ndjson:'ü\\", false),
];

fn batch<T>(values: Vec<T>) -> Batch<T> {
    let item = |(sequence, value)| Item {
        value,
        suspect: false,
        redelivered: false,
        sequence,
        stored_at: Timestamp::from_micros(1_764_000_000_000_000 + i64::try_from(sequence).unwrap()),
    };
    Batch::new((1..).zip(values).map(item).collect(), MINUTE)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_makes_the_very_event_again() {
    let (case, sink) = ready().await;
    let id = |number: usize| EventId::of_source("ndjson", &format!("{number:03}"));
    let mut events = vec![full_event(1), bare_event(2), Event::sample(3)];
    for without in WITHOUT {
        let mut event = full_event(4);
        without(&mut event);
        events.push(event);
    }
    let events: Vec<Event> = (0..).zip(events).map(|(number, event)| Event { id: id(number), ..event }).collect();
    assert_all(&sink.deliver(&batch(events.clone())).await, events.len());
    let at = |micros| Timestamp::from_micros(1_764_000_000_000_000 + micros);
    let table = case.with_long_timeout().event_table();
    let stored = table.stored_between(at(1), at(10_000)).await.unwrap();
    let times: Vec<i64> = stored.iter().map(|row| row.stored_at().as_micros()).collect();
    assert_eq!(times, (1..=events.len() as i64).map(|micros| at(micros).as_micros()).collect::<Vec<_>>());
    for (row, event) in stored.into_iter().zip(&events) {
        assert_eq!(&row.into_event().unwrap(), event);
    }
    assert_eq!(table.stored_between(at(2), at(4)).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sink_and_the_tables_compute_the_same() {
    let (case, sink) = ready().await;
    let event = |(id, _): (&str, bool)| Event { id: EventId::from_stored(id), ..bare_event(1) };
    let delivery = |(id, _): (&str, bool)| RawDelivery { id: EventId::from_stored(id), ..RawDelivery::sample(1) };
    assert_all(&sink.deliver(&batch(IDS.map(event).to_vec())).await, IDS.len());
    assert_all(&case.with_long_timeout().raw().deliver(&batch(IDS.map(delivery).to_vec())).await, IDS.len());
    for (table, given, computed) in [
        ("events", "kind, raw_sha256, received_at", "key, content, event_time"),
        ("raw", "event, body, received_at", "key, sha256, content_1, content_2, event_time"),
    ] {
        case.query(&format!("CREATE TABLE headrace.{table}_computed AS headrace.{table}"));
        case.query(&format!(
            "INSERT INTO headrace.{table}_computed (id, {given}) SELECT id, {given} FROM headrace.{table}"
        ));
        let values = |table: &str| case.query(&format!("SELECT id, {computed} FROM headrace.{table} ORDER BY id"));
        let of_sink = values(table);
        assert_eq!(of_sink, values(&format!("{table}_computed")), "{table}");
        assert_eq!(of_sink.lines().count(), IDS.len());
        let timed = case.query(&format!("SELECT id FROM headrace.{table} WHERE event_time > 0 ORDER BY id"));
        let mut expected: Vec<&str> = IDS.iter().filter(|(_, timed)| *timed).map(|(id, _)| *id).collect();
        expected.sort_unstable();
        assert_eq!(timed.lines().collect::<Vec<_>>(), expected, "{table}");
    }
}
