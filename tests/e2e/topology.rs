//! Streams that somebody deletes come back while everything runs, and no event is stored twice over it.

use async_nats::jetstream::consumer::{self, FromConsumer as _};
use headrace_local::poll;
use headrace_runtime::broker::Stream;
use headrace_tests::harness::CEILING;
use headrace_tests::product::admin::{get, sample};
use headrace_tests::product::hook::{Hook, guid};
use headrace_tests::product::process::{Launch, command, complained};
use headrace_tests::product::stored::Stored;
use tempfile::TempDir;

use super::PROGRAM;

/// Events before and after the streams are deleted.
const EVENTS: usize = 40;

/// `up` with short limits: suspects of a new stream wait until a call for the old one must have ended, and a replay that
/// adds rows until a sink's call must have.
fn launch(dir: &TempDir) -> Launch {
    let config = dir.path().join("headrace.toml");
    let text = format!(
        "nats.clock_skew_ms = 100\nsinks.clickhouse = {{ linger_ms = 50, insert_timeout_s = 1, clock_skew_ms = 200 }}\n\
         sinks.file = {{ dir = '{}', timeout_ms = 1000 }}\n",
        dir.path().join("out").display()
    );
    std::fs::write(&config, text).unwrap();
    Launch::up(PROGRAM, dir.path()).argument("--config").argument(config)
}

#[tokio::test]
async fn deleted_streams_come_back_and_every_event_is_one_row() {
    let dir = TempDir::new().unwrap();
    let up = launch(&dir).start().await;
    let (hook, stored) = (Hook::of(up.ready()), Stored::of(up.ready()).await);
    let body = |number: usize| format!(r#"{{"action":"created","organization":{{"login":"acme"}},"number":{number}}}"#);
    let before: Vec<String> = (0..EVENTS).map(|_| guid()).collect();
    for (number, guid) in before.iter().enumerate() {
        hook.store("team", guid, body(number)).await;
    }
    stored.settled().await;

    // One alone, then both: their memory of ids goes with them.
    let mut sent = EVENTS as u64;
    for streams in [&[Stream::Raw][..], &[Stream::Events], &[Stream::Raw, Stream::Events]] {
        for stream in streams {
            let recreated = format!("headrace_streams_recreated_total{{stream=\"{}\"}}", stream.name());
            let count = async || {
                let (_, metrics) = get(&format!("{}/metrics", up.ready().metrics)).await;
                sample(&metrics, &recreated).unwrap_or_default()
            };
            let earlier = count().await;
            stored.jetstream().delete_stream(stream.name()).await.unwrap();
            let back = async || (count().await > earlier).then_some(());
            let waited = poll::until("the stream is made anew and counted", CEILING, back).await;
            waited.unwrap_or_else(|error| panic!("{}: {error}: {}", stream.name(), up.log()));
        }
        // GitHub sends again what the new streams do not know, and something new.
        for (number, guid) in before.iter().enumerate() {
            assert!(hook.send("team", guid, body(number)).await.is_stored());
        }
        hook.store("team", &guid(), body(EVENTS)).await;
        sent += 1;
        // Before that a stream may have no consumer yet, which would have nothing to settle.
        for table in ["events", "raw"] {
            stored.until_count(&format!("SELECT uniqExact(id) FROM {table}"), sent).await;
        }
        stored.settled().await;
    }
    let log = up.log();
    for name in ["RAW", "EVENTS"] {
        let told = |line: &str| {
            line.contains("somebody deleted this stream") && line.contains(&format!(r#""stream":"{name}""#))
        };
        assert!(log.lines().any(|line| told(line) && line.contains("ERROR")), "{name}: {log}");
    }
    for table in ["events", "raw"] {
        let rows: Vec<(u64, u64)> = stored.rows(&format!("SELECT count(), uniqExact(id) FROM {table}")).await;
        assert_eq!(rows, [(sent, sent)], "{table}");
    }
    assert_eq!(stored.count(Stream::Dead).await, 0);
    up.stop().await;
}

#[tokio::test]
async fn a_consumer_that_somebody_changed_is_changed_back() {
    let dir = TempDir::new().unwrap();
    let up = launch(&dir).start().await;
    let (hook, stored) = (Hook::of(up.ready()), Stored::of(up.ready()).await);
    let body = r#"{"action":"created","organization":{"login":"acme"}}"#;
    hook.store("team", &guid(), body).await;
    stored.settled().await;
    for (stream, name) in [(Stream::Raw, "normalize"), (Stream::Raw, "clickhouse-raw"), (Stream::Events, "clickhouse")]
    {
        let stream = stored.stream(stream).await;
        let mut consumer = stream.get_consumer::<consumer::pull::Config>(name).await.unwrap();
        let mut config =
            consumer::pull::Config::try_from_consumer_config(consumer.info().await.unwrap().config.clone()).unwrap();
        config.filter_subjects = Vec::new();
        config.filter_subject = "raw.nobody.>".to_owned();
        if name == "clickhouse" {
            config.filter_subject = "events.nobody.>".to_owned();
        }
        stream.update_consumer(config).await.unwrap();
    }
    hook.store("team", &guid(), body).await;
    let told = |name: &str| {
        let told = |line: &str| {
            line.contains("somebody changed this consumer") && line.contains(&format!(r#""component":"{name}""#))
        };
        up.log().lines().any(told).then_some(())
    };
    for name in ["normalize", "clickhouse-raw", "clickhouse"] {
        poll::until("it is told", CEILING, async || told(name)).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    // What came meanwhile may have been passed over; what comes now is not.
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
    up.stop().await;
}
