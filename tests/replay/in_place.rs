//! A replay replaces rows by those of the present configuration. It publishes nothing.

use std::time::Duration;

use headrace_local::poll;
use headrace_runtime::broker::Stream;
use headrace_runtime::message::payload::RawDelivery;
use headrace_schemas::header;
use headrace_schemas::id::EventId;
use headrace_schemas::time::Timestamp;
use headrace_tests::harness::CEILING;
use headrace_tests::harness::samples::Sample as _;
use headrace_tests::product::hook::{guid, sha256};
use headrace_tests::product::process::{freeze, signal};
use rustix::process::Signal;
use serde_json::{Map, Value};

use super::{ASSETS, Testbed, publicized};

#[tokio::test]
async fn rows_are_replaced_by_those_of_the_present_configuration() {
    let testbed = Testbed::start().await;
    testbed.publicize("acme", 25).await;
    let ids = testbed.dump("id, received_at, stored_at", "events").await;
    assert_eq!(testbed.value("SELECT countIf(stored_at > received_at - 5) FROM events").await, 25);
    let (bodies, published) = (testbed.dump("*", "raw").await, testbed.published().await);
    let (risk, tickets) = (testbed.value("SELECT sum(risk) FROM events").await, testbed.published().await[2]);
    assert!(tickets > 0, "a rule matches");
    assert_eq!(testbed.value("SELECT countIf(asset_owner = 'payments') FROM events").await, 0);

    testbed.replay(ASSETS, "--since 1h").await.says("25 deliveries replayed into events, 0 bodies added to raw");
    assert_eq!(testbed.dump("id, received_at, stored_at", "events").await, ids);
    assert_eq!(testbed.value("SELECT countIf(asset_owner = 'payments') FROM events").await, 25);
    assert_eq!(testbed.value("SELECT sum(risk) FROM events").await, risk);

    // Back to the first configuration and once more to the second: each replay makes rows of the same messages.
    testbed.replay("", "--since 1h").await.says("25 deliveries replayed into events, 0 bodies added to raw");
    assert_eq!(testbed.value("SELECT countIf(asset_owner = 'payments') FROM events").await, 0);
    testbed.replay(ASSETS, "--since 1h").await.says("25 deliveries replayed into events, 0 bodies added to raw");
    assert_eq!(testbed.value("SELECT countIf(asset_owner = 'payments') FROM events").await, 25);
    assert_eq!(testbed.dump("id, received_at, stored_at", "events").await, ids);

    assert_eq!(testbed.dump("*", "raw").await, bodies);
    assert_eq!(testbed.published().await, published);
    // The sinks go on: a new delivery is one row too.
    testbed.publicize("acme", 1).await;
    assert_eq!(testbed.counts("events").await, (26, 26));
    testbed.up.stop().await;
}

#[tokio::test]
async fn a_side_table_leaves_events_alone() {
    let testbed = Testbed::start().await;
    testbed.publicize("acme", 25).await;
    let (events, raw, published) =
        (testbed.dump("*", "events").await, testbed.dump("*", "raw").await, testbed.published().await);
    testbed.replay(ASSETS, "--since 1h --into events_tried").await.says("25 deliveries replayed into events_tried");
    assert_eq!(testbed.value("SELECT countIf(asset_owner = 'payments') FROM events_tried").await, 25);
    let but = "* EXCEPT (inserted_at, stored_at, told, assets, asset_owner, asset_criticality, asset_labels)";
    assert_eq!(testbed.dump(but, "events_tried").await, testbed.dump(but, "events").await);
    assert_eq!((testbed.dump("*", "events").await, testbed.dump("*", "raw").await), (events, raw));
    assert_eq!(testbed.published().await, published);

    let again = testbed.replay(ASSETS, "--since 1h --into events_tried").await;
    again.complains(1, "Choose another name, or drop the table");
    assert_eq!(testbed.counts("events_tried").await, (25, 25));
    testbed.up.stop().await;
}

#[tokio::test]
async fn only_the_tenant_and_the_window_are_touched() {
    let testbed = Testbed::start().await;
    // One after the other, so that no two have the same time of reception.
    for number in 0..30 {
        testbed.hook.store("repository", &guid(), publicized("octo", number)).await;
    }
    testbed.publicize("acme", 30).await;
    let others = async || testbed.dump("*", "(SELECT * FROM events WHERE tenant = 'octo')").await;
    let before = others().await;
    assert_eq!(before.len(), 30);
    let lines = "[[pipeline.enrich.assets]]\nname = \"all\"\nactor = \"*\"\nowner = \"payments\"\n";
    testbed
        .replay(lines, "--since 1h --tenant Acme")
        .await
        .says("30 deliveries replayed into events, 0 bodies added to raw");
    assert_eq!(testbed.value("SELECT countIf(asset_owner = 'payments') FROM events").await, 30);
    assert_eq!(others().await, before);

    // The window begins and ends within octo's deliveries.
    let times: Vec<(String,)> = testbed
        .stored
        .rows("SELECT toString(received_at) FROM events WHERE tenant = 'octo' ORDER BY received_at")
        .await;
    let from = format!("{}Z", times[10].0.replace(' ', "T"));
    let to = format!("{}Z", times[20].0.replace(' ', "T"));
    let done = testbed.replay(lines, &format!("--since {from} --until {to}")).await;
    done.says("10 deliveries replayed into events, 0 bodies added to raw");
    let changed: Vec<(u64, String, String)> = testbed
        .stored
        .rows(
            "SELECT count(), toString(min(received_at)), toString(max(received_at)) FROM events \
             WHERE tenant = 'octo' AND asset_owner = 'payments'",
        )
        .await;
    assert_eq!(changed, [(10, times[10].0.clone(), times[19].0.clone())]);
    testbed.up.stop().await;
}

#[tokio::test]
async fn an_event_that_was_delivered_twice_has_one_row() {
    let testbed = Testbed::start().await;
    let first = RawDelivery::sample(1);
    let later = Timestamp::from_micros(first.received_at.as_micros() + 1);
    let second = RawDelivery { received_at: later, ..first.clone() };
    testbed.publish(vec![first.message()]).await;
    testbed.stored.settled().await;
    testbed.publish(vec![second.repeated()]).await;
    testbed.stored.settled().await;
    let (events, raw) = (testbed.dump("*", "events").await, testbed.dump("*", "raw").await);
    assert_eq!((events.len(), raw.len()), (1, 1));

    // Replay both deliveries, then only the second. Its event has a row with an earlier time.
    let done = testbed.replay(ASSETS, "--since 1h").await;
    done.says("2 deliveries replayed into events, 0 bodies added to raw");
    let replaced = testbed.dump("*", "events").await;
    assert_eq!(replaced.len(), 1);
    assert_eq!((&replaced[0]["asset_owner"], &replaced[0]["raw_sequence"]), (&"payments".into(), &1.into()));
    let done = testbed.replay("", &format!("--since {later}")).await;
    done.says(
        "0 deliveries replayed into events, 0 bodies added to raw, 1 left unchanged because another \
         delivery of their event has the row",
    );
    assert_eq!((testbed.dump("*", "events").await, testbed.dump("*", "raw").await), (replaced, raw));
    testbed.up.stop().await;
}

#[tokio::test]
async fn the_event_stays_that_of_its_first_body() {
    let testbed = two_bodies_under_one_id().await;
    let rows = two_bodies(&testbed).await;
    testbed.replay(ASSETS, "--since 1h").await.says("3 deliveries replayed into events, 0 bodies added to raw");
    assert_eq!(repositories(&testbed).await, ["acme/app-1", "octo/app-3"]);
    assert_eq!(testbed.value("SELECT countIf(asset_owner = 'payments') FROM events").await, 1);
    testbed.replay("", "--since 1h").await.says("3 deliveries replayed into events, 0 bodies added to raw");
    assert!(two_bodies(&testbed).await == rows);
    // One tenant's events alone.
    let done = testbed.replay(ASSETS, "--since 1h --tenant acme").await;
    done.says("2 deliveries replayed into events, 0 bodies added to raw");
    assert_eq!(testbed.counts("events").await, (2, 1));
    testbed.up.stop().await;
}

#[tokio::test]
async fn lost_rows_are_made_of_the_same_bodies_again() {
    let testbed = two_bodies_under_one_id().await;
    let rows = two_bodies(&testbed).await;
    for table in ["events", "raw"] {
        testbed.execute(&format!("TRUNCATE TABLE {table}")).await;
    }
    testbed.replay("", "--since 2h").await.says("3 deliveries replayed into events, 3 bodies added to raw");
    assert!(two_bodies(&testbed).await == rows);

    // Here the sink inserted the second body first, because the first was held up. So the second stays the event.
    testbed.execute("DELETE FROM events WHERE tenant = 'acme'").await;
    let second = sha256(publicized("acme", 2).as_bytes());
    testbed.execute(&format!(
        "INSERT INTO events (id, tenant, kind, received_at, repository, raw_sha256) SELECT id, tenant, event, received_at, \
         'acme/app-2', sha256 FROM raw WHERE sha256 = '{second}'"
    ))
    .await;
    testbed.replay(ASSETS, "--since 3h").await.says("3 deliveries replayed into events, 0 bodies added to raw");
    assert_eq!(repositories(&testbed).await, ["acme/app-2", "octo/app-3"]);
    assert_eq!(testbed.value("SELECT countIf(asset_owner = 'payments') FROM events").await, 1);
    testbed.up.stop().await;
}

/// Stores two bodies under one id for acme, and another tenant's event under the same id.
async fn two_bodies_under_one_id() -> Testbed {
    let testbed = Testbed::start().await;
    let id = guid();
    for (owner, number) in [("acme", 1), ("acme", 2), ("octo", 3)] {
        testbed.hook.store("repository", &id, publicized(owner, number)).await;
        // One after the other: of two bodies on their way together, either may become the event.
        testbed.stored.settled().await;
    }
    assert_eq!(repositories(&testbed).await, ["acme/app-1", "octo/app-3"]);
    assert_eq!(testbed.counts("raw").await, (3, 1));
    testbed
}

/// The repositories of all events.
async fn repositories(testbed: &Testbed) -> Vec<String> {
    let rows: Vec<(String,)> = testbed.stored.rows("SELECT repository FROM events ORDER BY repository").await;
    rows.into_iter().map(|(repository,)| repository).collect()
}

/// All rows of both tables. The ids are equal, so that [`Testbed::dump`] could not order them.
async fn two_bodies(testbed: &Testbed) -> [Vec<Map<String, Value>>; 2] {
    // A row that was lost is no longer known to have been stored in EVENTS.
    let events = "SELECT * EXCEPT (inserted_at, stored_at) FROM events ORDER BY raw_sha256";
    let raw = "SELECT * EXCEPT inserted_at REPLACE (toString(headers) AS headers) FROM raw ORDER BY sha256";
    [testbed.stored.objects(events).await, testbed.stored.objects(raw).await]
}

#[tokio::test]
async fn an_event_that_cannot_be_computed_keeps_its_row() {
    let testbed = Testbed::start().await;
    let poison = |number: u16| {
        let mut message = RawDelivery::sample(number).message();
        message.payload = "no JSON".into();
        message
    };
    let (row, none) = (poison(1), poison(2));
    let received = row.headers.get(header::RECEIVED_AT).unwrap().to_string();
    let mut lost = RawDelivery::sample(3).message();
    lost.headers.insert(header::BODY_OBJECT, "github:gone");
    testbed.publish(vec![row, none, lost, RawDelivery::sample(4).message()]).await;
    testbed.stored.settled().await;
    // An earlier release could read this one.
    let id = RawDelivery::sample(1).id;
    testbed
        .execute(&format!(
            "INSERT INTO events (id, tenant, kind, received_at) VALUES ('{id}', 'acme', 'repository', \
         fromUnixTimestamp64Micro({received}))"
        ))
        .await;
    assert_eq!(testbed.counts("events").await, (2, 2));
    let before = testbed.dump("*", &format!("(SELECT * FROM events WHERE id = '{id}')")).await;

    // They are dead letters already, so the replay reports no failure.
    let done = testbed.replay("", "--since 1h").await;
    done.says("1 deliveries replayed into events, 0 bodies added to raw, 3 failed again and were dead letters before");
    assert_eq!(testbed.dump("*", &format!("(SELECT * FROM events WHERE id = '{id}')")).await, before);
    // DEAD may not be purged, so delete the dead letters one by one.
    let dead = testbed.stored.stream(Stream::Dead).await;
    for dead_letter in 1..=dead.cached_info().state.last_sequence {
        assert!(dead.delete_message(dead_letter).await.unwrap());
    }
    let done = testbed.replay(ASSETS, "--since 1h").await;
    done.complains(3, "3 deliveries cannot be computed (1 body_lost, 2 malformed); their rows, if any, are unchanged");
    assert!(done.complained.contains(&format!("RAW:1 {id} is unchanged: malformed: ")), "{}", done.complained);
    assert!(done.complained.contains("RAW:3 "), "{}", done.complained);
    assert_eq!(done.said, "1 deliveries replayed into events, 0 bodies added to raw\n");
    assert_eq!(testbed.dump("*", &format!("(SELECT * FROM events WHERE id = '{id}')")).await, before);
    assert_eq!(testbed.value("SELECT countIf(asset_owner = 'payments') FROM events").await, 1);
    assert_eq!(testbed.counts("events").await, (2, 2));
    testbed.up.stop().await;
}

#[tokio::test]
async fn a_row_that_clickhouse_refuses_fails_alone() {
    let testbed = Testbed::start().await;
    testbed.publicize("acme", 15).await;
    let of_seven = "(SELECT * FROM events WHERE repository = 'acme/app-7')";
    let before = testbed.dump("*", of_seven).await;
    testbed.execute("ALTER TABLE events ADD CONSTRAINT no_seven CHECK repository != 'acme/app-7'").await;
    let done = testbed.replay(ASSETS, "--since 1h").await;
    done.complains(3, "1 deliveries cannot be computed (1 rejected); their rows, if any, are unchanged");
    assert_eq!(done.said, "14 deliveries replayed into events, 0 bodies added to raw\n");
    assert_eq!(testbed.dump("*", of_seven).await, before);
    assert_eq!(testbed.value("SELECT countIf(asset_owner = 'payments') FROM events").await, 14);
    assert_eq!(testbed.counts("events").await, (15, 15));
    testbed.up.stop().await;
}

#[tokio::test]
async fn a_replay_waits_for_deliveries_that_no_sink_has_stored() {
    let testbed = Testbed::start().await;
    // Suspend everything but the servers, so that only RAW has these deliveries.
    freeze(testbed.up.pid()).await;
    let deliveries: Vec<RawDelivery> =
        (0..20).map(|number| RawDelivery { id: EventId::github(&guid()), ..RawDelivery::sample(number) }).collect();
    testbed.publish(deliveries.iter().map(RawDelivery::message).collect()).await;
    let state = testbed.stored.jetstream().get_key_value("state").await.unwrap();
    let revision = async || state.entry("lease.replay").await.ok().flatten().map(|entry| entry.revision);
    let thaw = async {
        // The replay renews its lease every half second. After six renewals it has certainly begun to wait.
        let mut last = poll::until("a replay runs", CEILING, revision).await.unwrap();
        for _ in 0..6 {
            let renewed = async || revision().await.filter(|&now| now > last);
            last = poll::until("it goes on", CEILING, renewed).await.unwrap();
        }
        assert_eq!(testbed.counts("events").await, (0, 0));
        signal(testbed.up.pid(), Signal::CONT);
    };
    let (done, ()) = tokio::join!(testbed.replay(ASSETS, "--since 1h"), thaw);
    done.says("20 deliveries replayed into events, 0 bodies added to raw");
    assert!(done.complained.contains("waiting for normalize, which has up to 20 earlier"), "{}", done.complained);
    testbed.stored.settled().await;
    assert_eq!((testbed.counts("events").await, testbed.counts("raw").await), ((20, 20), (20, 20)));
    assert_eq!(testbed.value("SELECT countIf(asset_owner = 'payments') FROM events").await, 20);
    testbed.up.stop().await;
}

#[tokio::test]
async fn a_delivery_that_was_stored_late_counts_by_its_time_of_reception() {
    let testbed = Testbed::start().await;
    let hour_ago = Timestamp::now().minus(Duration::from_secs(3_600));
    let late = RawDelivery { received_at: hour_ago, ..RawDelivery::sample(1) };
    testbed.publish(vec![RawDelivery::sample(2).message(), late.message()]).await;
    testbed.stored.settled().await;
    // RAW holds nothing that was stored then, but it holds a delivery that was received then.
    let done = testbed.replay(ASSETS, "--since 2h").await;
    done.says("2 deliveries replayed into events, 0 bodies added to raw");
    assert!(done.complained.contains("RAW holds deliveries since"), "{}", done.complained);
    assert_eq!(testbed.counts("events").await, (2, 2));
    testbed.up.stop().await;
}
