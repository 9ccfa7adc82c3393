//! What sinks catch up from: slices of the table `events`, by the times of its rows.

use std::ops::Range;

use headrace_runtime::aside::history::{Order, Page, Slice, Wanted};
use headrace_runtime::component::batch::{Batch, Item};
use headrace_runtime::component::sink::Sink as _;
use headrace_schemas::event::Event;
use headrace_schemas::id::EventId;
use headrace_schemas::time::Timestamp;
use headrace_sinks::clickhouse::EventTable;
use headrace_tests::harness::samples::full_event;

use super::{ClickHouseCase, MINUTE, assert_all, ready};

/// When the first events were stored, in seconds.
const STORED: i64 = 1_764_000_000;
/// When the deliveries were received whose rows a replay added.
const RECEIVED: i64 = STORED + 3_600;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

fn event(number: u16, received_at: Timestamp) -> Event {
    Event { id: EventId::of_source("ndjson", &format!("{number:03}")), received_at, ..full_event(number) }
}

/// Everything in `slice`, read in pages of `events_max`: the numbers of the events, or what is wrong with a row.
async fn all(table: &EventTable, seconds: Range<i64>, wanted: Wanted, events_max: usize) -> Vec<String> {
    let (mut found, mut since, mut after): (Vec<String>, Timestamp, Option<Order>) =
        (Vec::new(), at(seconds.start), None);
    loop {
        let slice = Slice {
            since,
            until: at(seconds.end),
            after: after.as_ref(),
            filters: &["events.scored.>".to_owned()],
            wanted,
            events_max,
            bytes_max: usize::MAX,
        };
        let Page { rows, is_cut } = table.stored(&slice).await.unwrap();
        assert!(rows.len() <= events_max && rows.is_sorted_by_key(|row| row.at));
        (since, after) = rows.last().map_or((since, None), |last| (last.at, Some(last.order.clone())));
        found.extend(rows.into_iter().map(|row| match row.event {
            Ok(event) => event.id.as_str().trim_start_matches("ndjson:").to_owned(),
            Err(error) => error.to_string(),
        }));
        if !is_cut {
            return found;
        }
    }
}

/// Stores the events 0 to 5, two in each second, and adds the rows 10 to 15 as a replay does, all received at once.
async fn filled() -> (ClickHouseCase, EventTable) {
    let (case, sink) = ready().await;
    let item = |value, stored_at| Item { value, suspect: false, redelivered: false, sequence: 1, stored_at };
    let streamed = (0..6).map(|number| item(event(number, at(STORED)), at(STORED + i64::from(number) / 2)));
    let replayed = (10..16).map(|number| item(event(number, at(RECEIVED)), Timestamp::default()));
    assert_all(&sink.deliver(&Batch::new(streamed.chain(replayed).collect(), MINUTE)).await, 12);
    let table = case.with_long_timeout().event_table();
    (case, table)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_of_a_slice_comes_once_however_large_its_pages_are() {
    let (_case, table) = filled().await;
    let numbers = |numbers: Range<u16>| numbers.map(|number| format!("{number:03}")).collect::<Vec<_>>();
    for events_max in [1, 2, 3, 5, 100] {
        let whole = STORED..RECEIVED + 1;
        assert_eq!(all(&table, whole.clone(), Wanted::Streamed, events_max).await, numbers(0..6), "{events_max}");
        let both = [numbers(0..6), numbers(10..16)].concat();
        assert_eq!(all(&table, whole, Wanted::All, events_max).await, both, "{events_max}");
    }
    assert_eq!(all(&table, STORED + 1..STORED + 2, Wanted::All, 100).await, numbers(2..4));
    assert_eq!(all(&table, RECEIVED..RECEIVED + 1, Wanted::Streamed, 100).await, numbers(0..0));
    assert_eq!(all(&table, 0..RECEIVED, Wanted::All, 100).await, numbers(0..6), "nothing is at 1970");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_makes_no_event_hides_no_other() {
    let (case, table) = filled().await;
    let strange = "ALTER TABLE headrace.events UPDATE category = 'weather' WHERE id = 'ndjson:002' SETTINGS \
                   mutations_sync = 2";
    case.query(strange);
    let told = "expected a word of this release in the column `category`, found `weather`";
    for events_max in [1, 100] {
        let found = all(&table, STORED..STORED + 9, Wanted::Streamed, events_max).await;
        assert_eq!(found, ["000", "001", told, "003", "004", "005"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_a_replay_added_do_not_show_that_the_table_has_what_a_sink_missed() {
    let (case, table) = filled().await;
    let just_after = |seconds| at(seconds).plus(std::time::Duration::from_micros(1));
    assert!(!table.has_before(at(STORED)).await.unwrap() && table.has_before(just_after(STORED)).await.unwrap());
    case.query(
        "ALTER TABLE headrace.events DELETE WHERE toUnixTimestamp64Micro(stored_at) > 0 SETTINGS mutations_sync = 2",
    );
    assert!(!table.has_before(at(RECEIVED + 60)).await.unwrap());
    assert_eq!(table.begins_at().await.unwrap(), Some(at(RECEIVED)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_table_begins_never_and_a_filled_one_with_its_first_reception() {
    let (case, _) = ready().await;
    assert_eq!(case.with_long_timeout().event_table().begins_at().await.unwrap(), None);
    let (case, table) = filled().await;
    assert_eq!(table.begins_at().await.unwrap(), Some(at(STORED)));
    // Parts tell it without being read.
    let plan = case.query("EXPLAIN SELECT count(), min(received_at) FROM headrace.events");
    assert!(plan.contains("_minmax_count_projection"), "{plan}");
    // What a replay added is found by this index.
    let indices =
        case.query("SELECT expr FROM system.data_skipping_indices WHERE database = 'headrace' AND table = 'events'");
    assert!(indices.lines().any(|expression| expression == "received_at"), "{indices}");
    // A table that was dropped gets it, too.
    case.query("DROP TABLE headrace.events SYNC");
    case.with_long_timeout().restore().await.unwrap();
    let again =
        case.query("SELECT expr FROM system.data_skipping_indices WHERE database = 'headrace' AND table = 'events'");
    assert_eq!(again, indices);
    assert_eq!(table.begins_at().await.unwrap(), None);
}
