//! Logs are one JSON object per line for machines, and text for people.

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
