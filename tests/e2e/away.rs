//! A sink whose receiver is down delays nobody. The process becomes ready, works, and reports which receiver is missing.

use std::net::TcpListener;
use std::path::Path;

use headrace_local::poll;
use headrace_runtime::broker::Stream;
use headrace_tests::harness::{CEILING, Nats};
use headrace_tests::product::admin::get;
use headrace_tests::product::hook::{Hook, guid};
use headrace_tests::product::process::Launch;
use headrace_tests::product::stored::Stored;
use tempfile::TempDir;

use super::PROGRAM;
use super::roles::configuration;

/// An address on which nobody listens.
const REFUSED: &str = "http://127.0.0.1:1";

/// Splunk at an address that refuses connections, and Jira at one that accepts them and never answers. The short grace
/// spares the test the wait for Jira when the process stops.
fn sinks(silent: &TcpListener) -> String {
    let jira = silent.local_addr().unwrap();
    format!(
        "[sinks.splunk]\nurl = '{REFUSED}'\ntoken = 't'\n[sinks.jira]\nurl = 'http://{jira}'\nemail = 'a@b.example'\n\
         api_token = 't'\nproject = 'SEC'\ntimeout_ms = 60000\n[shutdown]\ngrace_s = 1\n"
    )
}

fn write(dir: &Path, text: &str) -> std::path::PathBuf {
    let config = dir.join("headrace.toml");
    std::fs::write(&config, text).unwrap();
    config
}

#[tokio::test]
async fn up_works_without_its_receivers() {
    let (dir, silent) = (TempDir::new().unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let config = write(dir.path(), &sinks(&silent));
    let up = Launch::up(PROGRAM, dir.path()).argument("--config").argument(&config).start().await;
    let (hook, stored) = (Hook::of(up.ready()), Stored::of(up.ready()).await);
    hook.store("team", &guid(), r#"{"action":"created","organization":{"login":"acme"}}"#).await;
    stored.until_count("SELECT count() FROM events", 1).await;
    stored.until_count("SELECT count() FROM raw", 1).await;
    let log = up.log();
    for (component, why) in [("splunk", "the receiver did not answer"), ("jira", "it has not answered yet")] {
        let is_named = |line: &str| line.contains(&format!("{component:<10}  away: ")) && line.contains(why);
        assert!(log.lines().any(is_named), "{component}: {log}");
    }
    assert_eq!(get(&format!("{}/readyz", up.ready().metrics)).await.0, 200);
    // The process still runs, and it stops without an error.
    up.stop().await;
}

#[tokio::test]
async fn a_process_of_sinks_is_ready_without_their_receivers() {
    let (dir, silent) = (TempDir::new().unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let nats = Nats::start().await;
    let text = configuration(&nats.server().url(), REFUSED, dir.path()) + &sinks(&silent);
    let config = write(dir.path(), &text);
    let sinks = Launch::run(PROGRAM, "sinks", &config, dir.path()).start().await;
    let log = sinks.log();
    for component in ["clickhouse", "clickhouse-raw", "splunk", "jira"] {
        let is_named = |line: &str| {
            line.contains("running without this sink") && line.contains(&format!(r#""component":"{component}""#))
        };
        assert!(log.lines().any(is_named), "{component}: {log}");
    }
    assert_eq!(get(&format!("{}/readyz", sinks.ready().metrics)).await.0, 200);
    let ready_file = sinks.ready_file().to_owned();
    sinks.stop().await;
    assert!(!ready_file.exists(), "a stopped process leaves no ready file");
}

#[tokio::test]
async fn a_sink_with_the_longest_waits_that_may_be_set_has_its_consumer() {
    let (dir, nats) = (TempDir::new().unwrap(), Nats::start().await);
    let waits = "linger_ms = 60000\ntimeout_ms = 600000\nbreaker.open_ms = 3600000\nretry.backoff_min_ms = 3600000\n\
                 retry.backoff_max_ms = 3600000\nretry.retry_after_max_s = 86400\n";
    let sinks = format!(
        "[sinks.splunk]\nurl = '{REFUSED}'\ntoken = 't'\nbatch_events_max = 1000000\nconcurrency = 64\n{waits}\
         [sinks.jira]\nurl = '{REFUSED}'\nemail = 'a@b.example'\napi_token = 't'\nproject = 'SEC'\n\
         index_lag_ms = 3600000\n{waits}[shutdown]\ngrace_s = 1\n"
    );
    let text = configuration(&nats.server().url(), REFUSED, dir.path()) + &sinks;
    let process = Launch::run(PROGRAM, "sinks", &write(dir.path(), &text), dir.path()).start().await;
    for (stream, component) in [(Stream::Events, "splunk"), (Stream::Alerts, "jira")] {
        let stream = nats.jetstream().get_stream(stream.name()).await.unwrap();
        let made =
            poll::until("the broker takes the consumer", CEILING, async || stream.consumer_info(component).await.ok());
        made.await.unwrap_or_else(|error| panic!("{component}: {error}: {}", process.log()));
    }
    process.stop().await;
}
