//! How processes end, and what commands report about a process that has ended.

use std::fs::File;
use std::path::Path;

use headrace_local::poll;
use headrace_tests::harness::CEILING;
use headrace_tests::product::admin::{get, sample};
use headrace_tests::product::hook::{Hook, guid};
use headrace_tests::product::process::{Launch, command, complained, freeze, gone, signal};
use rustix::process::Signal;
use tempfile::TempDir;

use super::PROGRAM;

#[tokio::test]
async fn a_second_signal_ends_everything_at_once() {
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("headrace.toml");
    // Far longer than this test may take, so that only the second signal can end `up` in time.
    std::fs::write(&config, "[shutdown]\ngrace_s = 300\n[sinks.clickhouse]\ninsert_timeout_s = 300\n").unwrap();
    let up = Launch::up(PROGRAM, dir.path()).argument("--config").argument(&config).start().await;
    let ready = up.ready().clone();
    freeze(ready.pids["clickhouse"]).await;
    Hook::of(&ready).store("team", &guid(), r#"{"action":"created","organization":{"login":"acme"}}"#).await;
    let until = async |what: &str, condition: &dyn Fn(&str) -> bool| {
        let condition = async || condition(&get(&format!("{}/metrics", ready.metrics)).await.1).then_some(());
        poll::until(what, CEILING, condition).await.unwrap_or_else(|error| panic!("{error}: {}", up.log()));
    };
    let pending = r#"headrace_consumer_pending{component="clickhouse"}"#;
    until("the sink holds the event", &|metrics| sample(metrics, pending) == Some(1.0)).await;

    signal(up.pid(), Signal::INT);
    let said = async || up.log().contains("press Ctrl-C again to end everything at once").then_some(());
    poll::until("it says what a second signal does", CEILING, said).await.unwrap();
    assert!(!up.ready_file().exists(), "a stopping process removes its ready file");
    signal(up.pid(), Signal::TERM);
    let status = tokio::time::timeout(CEILING, up.ended()).await.expect("it ends at once");
    assert_eq!(status.code(), Some(130), "{}", up.log());
    assert!(up.log().contains("ended at once, as asked by a second signal"), "{}", up.log());
    for pid in ready.pids.into_values() {
        gone(pid).await;
    }
}

#[tokio::test]
async fn commands_report_that_up_was_killed() {
    let dir = TempDir::new().unwrap();
    let up = Launch::up(PROGRAM, dir.path()).start().await;
    let (pid, data) = (up.pid(), dir.path().join("data"));
    up.kill().await;
    assert!(data.join("ready.json").exists(), "a killed process removes nothing");
    let body = dir.path().join("body.json");
    std::fs::write(&body, "{}").unwrap();
    let commands: [&[&str]; 5] = [
        &["send", body.to_str().unwrap(), "--event", "push"],
        &["gaps"],
        &["dead", "list"],
        &["dead", "redrive", "--all"],
        &["replay", "--since", "1h"],
    ];
    for arguments in commands {
        refused(arguments, &data, pid).await;
    }
}

#[tokio::test]
async fn up_waits_for_the_clickhouse_of_one_that_was_killed() {
    let dir = TempDir::new().unwrap();
    let up = Launch::up(PROGRAM, dir.path()).start().await;
    let (log, killed) = (dir.path().join("up.log"), up.ready().pids["clickhouse"]);
    up.kill().await;
    // How long the server takes to end is chance. So the test holds the server's lock in its place.
    let lock = File::open(dir.path().join("data/clickhouse/headrace.lock")).unwrap();
    let taken = poll::until("the killed server's lock is free", CEILING, async || lock.try_lock().ok()).await;
    taken.unwrap();
    let ends = async {
        let told = async || std::fs::read_to_string(&log).unwrap().contains("still ending").then_some(());
        poll::until("it says for whom it waits", CEILING, told).await.unwrap();
        lock.unlock().unwrap();
    };
    let (up, ()) = tokio::join!(Launch::up(PROGRAM, dir.path()).start(), ends);
    let names = |line: &str| line.contains("still ending") && line.contains(&killed.to_string());
    assert!(up.log().lines().any(names), "process {killed} is not named in {}", up.log());
    up.stop().await;
}

async fn refused(arguments: &[&str], data: &Path, pid: u32) {
    let place = ["--data-dir", data.to_str().unwrap()];
    let output = command(PROGRAM, arguments.iter().chain(&place)).await;
    let problem = complained(&output);
    assert_eq!(output.status.code(), Some(4), "{arguments:?}: {problem}");
    let expected = format!("`headrace up` is not running on {}: process {pid} is gone", data.display());
    assert!(problem.contains(&expected), "{arguments:?}: {problem}");
}
