//! The commands that a newcomer copies from the README, the page of sources and the output of `up` do what is promised.

use std::path::Path;
use std::process::{Output, Stdio};

use headrace_tests::product::process::{Launch, complained, said};
use headrace_tests::product::stored::Stored;
use tempfile::TempDir;
use tokio::process::Command;

use super::PROGRAM;

const README: &str = include_str!("../../README.md");
const SOURCES: &str = include_str!("../../deploy/docs/sources.md");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_of_the_readme_and_of_up_show_a_first_event() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("headrace-data");
    let up = Launch::up(PROGRAM, dir.path()).replace("--data-dir", &data).within(dir.path()).start().await;
    let stored = Stored::of(up.ready()).await;
    let count = "SELECT count() FROM events WHERE actor = 'mona' AND risk = 65";

    let [first, examples] = shell_blocks(README, "## A first event").try_into().unwrap();
    let [_, records] = shell_blocks(SOURCES, "## Newline-delimited JSON").try_into().unwrap();
    let first = first.replace("cargo run --release --", PROGRAM);
    let (send, query) = first.trim_end().rsplit_once('\n').unwrap();
    succeeds(send, dir.path()).await;
    stored.until_count(count, 1).await;
    let row = said(&succeeds(query, dir.path()).await);
    for fact in ["mona", "repository", "publicized", "repo.access", "acme/app", "high"] {
        assert!(row.contains(fact), "expected {fact} in {row}");
    }

    let log = up.log();
    let printed = log.split("Send a first event from another terminal").nth(1).unwrap();
    let printed: Vec<&str> = printed.lines().skip(2).take_while(|line| !line.trim().is_empty()).collect();
    assert_eq!(printed.len(), 3, "{log}");
    let printed = printed.join("\n").replace("  headrace ", &format!("  {PROGRAM} "));
    succeeds(&printed, dir.path()).await;
    stored.until_count(count, 2).await;

    succeeds(&examples.replace("cargo run --release --", PROGRAM), dir.path()).await;
    stored.until_count("SELECT uniqExact(kind) > 50 FROM events", 1).await;

    let gateway = up.ready().gateway.as_ref().unwrap();
    let records = records.replace("http://127.0.0.1:8080", gateway);
    let answer = said(&succeeds(&records, dir.path()).await);
    assert!(answer.contains(r#""status":"stored""#), "{answer}");
    stored.until_count("SELECT count() FROM events WHERE source = 'ndjson' AND actor = 'ada'", 1).await;
    let printed = log.lines().find(|line| line.contains("/collect/ndjson")).unwrap();
    let answer = said(&succeeds(printed, dir.path()).await);
    assert!(answer.contains(r#""status":"stored""#), "{answer}");
    stored.until_count("SELECT count() FROM events WHERE source = 'ndjson'", 2).await;

    let alerts = std::fs::read_to_string(data.join("out/alerts.jsonl")).unwrap();
    assert!(alerts.contains("acme/app"), "{alerts}");
    up.stop().await;
}

/// The shell code blocks of a section.
fn shell_blocks(page: &str, heading: &str) -> Vec<String> {
    let section = page.split(heading).nth(1).unwrap().split("\n## ").next().unwrap();
    section.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// Runs `commands` in a shell, as if they were pasted there.
async fn succeeds(commands: &str, dir: &Path) -> Output {
    let mut shell = Command::new("sh");
    let output = shell.args(["-ec", commands]).current_dir(dir).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = output.await.unwrap();
    assert!(output.status.success(), "{commands}\n{}", complained(&output));
    output
}
