//! Logs are one JSON object per line for machines, and text for people.

use headrace_tests::harness::Nats;
use headrace_tests::product::hook::{Hook, guid};
use headrace_tests::product::process::Launch;
use serde_json::Value;
use tempfile::TempDir;

use super::PROGRAM;

/// The log lines in a process's output, without what it prints for a person.
async fn logged(format: Option<&str>) -> Vec<String> {
    let dir = TempDir::new().unwrap();
    let launch = Launch::up(PROGRAM, dir.path());
    let launch = format.into_iter().fold(launch, |launch, format| launch.set("HEADRACE__LOG__FORMAT", format));
    let up = launch.start().await;
    let log = up.log();
    up.stop().await;
    log.lines().filter(|line| line.contains("INFO")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_get_json_and_people_text() {
    // A test is no terminal, so `auto` means JSON.
    for format in [None, Some("auto"), Some("json")] {
        let lines = logged(format).await;
        assert!(!lines.is_empty(), "{format:?}");
        for line in lines {
            let object: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            let is_text = |name: &str| object[name].as_str().is_some_and(|text| !text.is_empty());
            assert!(["timestamp", "level", "message", "target"].into_iter().all(is_text), "{line}");
        }
    }
    let lines = logged(Some("text")).await;
    assert!(!lines.is_empty());
    for line in lines {
        assert!(line.contains(" INFO ") && !line.contains('{') && !line.contains('\u{1b}'), "{line}");
    }
}

#[tokio::test]
async fn refused_deliveries_that_no_line_told_are_told_at_the_end() {
    let (nats, dir) = (Nats::start().await, TempDir::new().unwrap());
    let config = dir.path().join("headrace.toml");
    let limits = "{ max_age_hours = 24, max_bytes = 67108864 }";
    let text = format!(
        "nats.url = '{}'\nadmin.listen = '127.0.0.1:0'\ningest.listen = '127.0.0.1:0'\n\
         ingest.github.secrets = ['a secret of this test']\n\
         streams = {{ raw = {limits}, events = {limits}, alerts = {limits}, dead = {limits} }}\n",
        nats.server().url()
    );
    std::fs::write(&config, text).unwrap();
    let ingest = Launch::run(PROGRAM, "ingest", &config, dir.path()).start().await;
    let gateway = ingest.ready().gateway.clone().unwrap();
    let hook = Hook::new(format!("{gateway}/webhooks/github"), "another secret");
    for _ in 0..3 {
        assert_eq!(hook.send("ping", &guid(), "{}").await.status, 401);
    }
    assert!(ingest.interrupt().await.success(), "{}", ingest.log());
    let log = ingest.log();
    let told = log.lines().filter(|line| line.contains("requests without a valid signature or token were refused"));
    let counts = told.map(|line| serde_json::from_str::<Value>(line).unwrap()["count"].as_u64().unwrap());
    assert_eq!(counts.sum::<u64>(), 3, "{log}");
}
