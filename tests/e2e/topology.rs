//! Streams and consumers that somebody deletes or changes come back while everything runs. No event is stored twice
//! because of it.

use async_nats::jetstream::consumer::{self, FromConsumer as _};
use headrace_local::poll;
use headrace_runtime::broker::Stream;
use headrace_tests::harness::CEILING;
use headrace_tests::product::admin::{get, sample};
use headrace_tests::product::hook::{Answer, Hook, guid};
use headrace_tests::product::process::{Running, command, complained};
use headrace_tests::product::stored::Stored;
use serde_json::Value;
use tempfile::TempDir;

use super::{PROGRAM, with_short_limits};

/// Events before a stream is deleted. They are sent again afterwards.
const EVENTS: usize = 40;

#[tokio::test]
async fn a_deleted_raw_stream_comes_back_and_every_event_is_one_row() {
    come_back(&[Stream::Raw], 1).await;
}

#[tokio::test]
async fn a_deleted_event_stream_comes_back_and_every_event_is_one_row() {
    come_back(&[Stream::Events], 1).await;
}

#[tokio::test]
async fn both_streams_come_back_twice_and_every_event_is_one_row() {
    come_back(&[Stream::Raw, Stream::Events], 2).await;
}

fn body(number: usize) -> Vec<u8> {
    format!(r#"{{"action":"created","organization":{{"login":"acme"}},"number":{number}}}"#).into_bytes()
}

/// Deletes the streams of a running `up`, one after the other, several times. The ids that the broker remembered go
/// with them.
async fn come_back(streams: &[Stream], times: usize) {
    let dir = TempDir::new().unwrap();
    let up = with_short_limits(&dir, "").start().await;
    let (hook, stored) = (Hook::of(up.ready()), Stored::of(up.ready()).await);
    let before: Vec<String> = (0..EVENTS).map(|_| guid()).collect();
    let deliveries = || before.iter().enumerate().map(|(number, guid)| ("team", guid.as_str(), body(number)));
    hook.store_all(deliveries()).await;
    stored.settled().await;

    for round in 0..times {
        for stream in streams {
            let earlier = recreations(&up, *stream).await;
            assert_eq!(earlier, round as f64, "{}", stream.name());
            stored.jetstream().delete_stream(stream.name()).await.unwrap();
            let back = async || (recreations(&up, *stream).await > earlier).then_some(());
            let waited = poll::until("the stream is created again and counted", CEILING, back).await;
            waited.unwrap_or_else(|error| panic!("{}: {error}: {}", stream.name(), up.log()));
        }
        // GitHub sends again what a new stream does not know, and one new event.
        assert!(hook.send_all(deliveries()).await.iter().all(Answer::is_stored));
        hook.store("team", &guid(), body(EVENTS + round)).await;
        // Wait for the rows first: until a stream has a consumer, it seems to be settled.
        for table in ["events", "raw"] {
            stored.until_count(&format!("SELECT uniqExact(id) FROM {table}"), (EVENTS + round + 1) as u64).await;
        }
        stored.settled().await;
    }
    let sent = (EVENTS + times) as u64;
    let log = up.log();
    for stream in streams {
        let named = format!(r#""stream":"{}""#, stream.name());
        let says = |line: &str| line.contains("somebody deleted this stream") && line.contains(&named);
        let said = log.lines().filter(|line| says(line) && line.contains("ERROR")).count();
        assert!(said >= times, "{}: {log}", stream.name());
    }
    for table in ["events", "raw"] {
        let rows: Vec<(u64, u64)> = stored.rows(&format!("SELECT count(), uniqExact(id) FROM {table}")).await;
        assert_eq!(rows, [(sent, sent)], "{table}");
    }
    assert_eq!(stored.count(Stream::Dead).await, 0);
    up.stop().await;
}

/// How often the running `up` has created a stream again.
async fn recreations(up: &Running, stream: Stream) -> f64 {
    let (_, metrics) = get(&format!("{}/metrics", up.ready().metrics)).await;
    sample(&metrics, &format!("headrace_streams_recreated_total{{stream=\"{}\"}}", stream.name())).unwrap_or_default()
}

#[tokio::test]
async fn a_consumer_that_somebody_changed_is_changed_back() {
    let dir = TempDir::new().unwrap();
    let up = with_short_limits(&dir, "").start().await;
    let (hook, stored) = (Hook::of(up.ready()), Stored::of(up.ready()).await);
    let body = r#"{"action":"created","organization":{"login":"acme"}}"#;
    hook.store("team", &guid(), body).await;
    stored.settled().await;
    let mut changed = Vec::new();
    for (stream, name) in [(Stream::Raw, "normalize"), (Stream::Raw, "clickhouse-raw"), (Stream::Events, "clickhouse")]
    {
        let stream = stored.stream(stream).await;
        let given = stream.consumer_info(name).await.unwrap().config;
        let mut config = consumer::pull::Config::try_from_consumer_config(given.clone()).unwrap();
        config.filter_subjects = Vec::new();
        config.filter_subject = "raw.nobody.>".to_owned();
        if name == "clickhouse" {
            config.filter_subject = "events.nobody.>".to_owned();
        }
        stream.update_consumer(config).await.unwrap();
        changed.push((stream, name, (given.filter_subject, given.filter_subjects)));
    }
    hook.store("team", &guid(), body).await;
    let is_logged = |name: &str| {
        let named = format!(r#""component":"{name}""#);
        let says = |line: &str| line.contains("somebody changed this consumer") && line.contains(&named);
        up.log().lines().any(says).then_some(())
    };
    for (stream, name, filters) in changed {
        let logged = poll::until("the change is logged", CEILING, async || is_logged(name)).await;
        logged.unwrap_or_else(|error| panic!("{name}: {error}"));
        // It is logged before it is done.
        let is_back = async || {
            let found = stream.consumer_info(name).await.unwrap().config;
            ((found.filter_subject, found.filter_subjects) == filters).then_some(())
        };
        let back = poll::until("it is changed back", CEILING, is_back).await;
        back.unwrap_or_else(|error| panic!("{name}: {error}: {}", up.log()));
    }
    // The changed consumer may have skipped the event before this one. It must not skip this one.
    let last = guid();
    hook.store("team", &last, body).await;
    for table in ["events", "raw"] {
        stored.until_count(&format!("SELECT count() FROM {table} WHERE id = 'github:{last}'"), 1).await;
    }
    let data = dir.path().join("data");
    let replay = command(PROGRAM, ["replay", "--since", "1h", "--data-dir", data.to_str().unwrap()]).await;
    assert!(replay.status.success(), "{}", complained(&replay));
    for table in ["events", "raw"] {
        stored.until_count(&format!("SELECT uniqExact(id) FROM {table}"), 3).await;
        stored.until_count(&format!("SELECT count() FROM {table}"), 3).await;
    }
    // `normalize` has several workers. None takes the change that another mends for a second one.
    assert!(!up.log().contains("somebody changed this consumer again"), "{}", up.log());
    up.stop().await;
}

#[tokio::test]
async fn a_table_that_was_dropped_is_made_anew_when_up_begins_again() {
    let dir = TempDir::new().unwrap();
    let up = with_short_limits(&dir, "").start().await;
    let (hook, stored) = (Hook::of(up.ready()), Stored::of(up.ready()).await);
    let body = r#"{"action":"created","organization":{"login":"acme"}}"#;
    hook.store("team", &guid(), body).await;
    stored.settled().await;
    stored.rows::<Value>("DROP TABLE raw SYNC").await;
    hook.store("team", &guid(), body).await;
    // The only remedy that `up` leaves, because it has the passwords.
    let is_told = async || up.log().contains("or the next start of the `headrace up`").then_some(());
    let told = poll::until("the remedy is told", CEILING, is_told).await;
    told.unwrap_or_else(|error| panic!("{error}: {}", up.log()));
    up.stop().await;

    let up = with_short_limits(&dir, "").start().await;
    let stored = Stored::of(up.ready()).await;
    stored.until_count("SELECT count() FROM raw", 1).await;
    assert_eq!(stored.rows::<(u64,)>("SELECT count() FROM events").await, [(2,)]);
    up.stop().await;
}
