//! The whole product in one process whose memory is limited, under bodies of every size, while ClickHouse is away for a
//! part of the time.

use std::collections::BTreeSet;
use std::path::Path;

use futures::{StreamExt as _, stream};
use headrace_local::poll;
use headrace_runtime::broker::Stream;
use headrace_tests::harness::{CEILING, until};
use headrace_tests::product::admin::{get, sample};
use headrace_tests::product::hook::{Hook, guid};
use headrace_tests::product::process::{Launch, Running, freeze, signal};
use headrace_tests::product::stored::Stored;
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use tempfile::TempDir;

use super::PROGRAM;
use super::roles::{SECRET, check, configuration, servers_with};

/// What the process may have: the kernel gives it no more than this.
const LIMIT_BYTES: u64 = 512_000_000;
const BUDGET_MB: u64 = 320;
/// The largest body that the gateway takes; it travels beside RAW.
const LARGEST: usize = 25 << 20;
/// Nearly the largest body that fits into a message.
const LARGE: usize = 7_900_000;
const SMALL: usize = 7_700;
/// Together they are nearly as much as the limit.
const BODIES: [(usize, usize); 3] = [(13, LARGEST), (6, LARGE), (150, SMALL)];

/// A body of `bytes` bytes, which compresses about as well as text.
fn body(number: usize, bytes: usize) -> Vec<u8> {
    let mut body = format!(
        r#"{{"action":"edited","repository":{{"id":{number},"full_name":"acme/app-{number}"}},"organization":{{"id":5,"login":"acme"}},"sender":{{"id":7,"login":"mona"}},"padding":""#
    )
    .into_bytes();
    let mut state = number as u64 + 1;
    while body.len() + 2 < bytes {
        // xorshift64, so that each body has other digits.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        body.extend_from_slice(&format!("{state:016x}").as_bytes()[..16.min(bytes - 2 - body.len())]);
    }
    body.extend_from_slice(br#""}"#);
    body
}

/// The number in a line of `/proc/<pid>/status`, in bytes.
fn status(running: &Running, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn limited(text: &str, dir: &Path, more: &str) -> std::path::PathBuf {
    let config = dir.join("headrace.toml");
    std::fs::write(&config, format!("{more}\n{text}")).unwrap();
    config
}

/// Sends all bodies, the sizes mixed, each again until it is stored. Returns their ids.
async fn send(hook: &Hook) -> BTreeSet<String> {
    let mut sizes: Vec<usize> = BODIES.into_iter().flat_map(|(count, bytes)| vec![bytes; count]).collect();
    // Every fifth of the list in turn mixes them.
    let count = sizes.len();
    sizes = (0..count).map(|number| sizes[number * 5 % count]).collect();
    let sent = stream::iter(sizes.into_iter().enumerate()).map(|(number, bytes)| async move {
        let (guid, body) = (guid(), body(number, bytes));
        let stored = async || hook.send("repository", &guid, body.clone()).await.is_stored().then_some(());
        poll::until("the gateway has room", CEILING, stored).await.unwrap();
        format!("github:{guid}")
    });
    sent.buffer_unordered(4).collect().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_every_size_go_through_a_process_with_little_memory() {
    let dir = TempDir::new().unwrap();
    let (nats, clickhouse) = servers_with(dir.path(), &[]).await;
    let text = configuration(&nats.url(), &clickhouse.url(), dir.path());
    // A batch may have all bodies that wait. Only the budget keeps the sink from reading them at once, three times over.
    let text = text.replace("[sinks.clickhouse]", &format!("[sinks.clickhouse]\nbatch_bytes_max = {}", 1 << 30));
    let config = limited(&text, dir.path(), &format!("memory.budget_mb = {BUDGET_MB}\nnats.clock_skew_ms = 100"));
    let launch = Launch::run(PROGRAM, "ingest", &config, dir.path()).argument("pipeline").argument("sinks");
    let running = launch.start().await;
    let pid = Pid::from_raw(i32::try_from(running.pid()).unwrap()).unwrap();
    let limit = Rlimit { current: Some(LIMIT_BYTES), maximum: Some(LIMIT_BYTES) };
    prlimit(Some(pid), Resource::Data, limit).unwrap();

    let hook = Hook::new(format!("{}/webhooks/github", running.ready().gateway.clone().unwrap()), SECRET);
    let server = clickhouse.pid().unwrap();
    freeze(server).await;
    let sent = send(&hook).await;
    // ClickHouse holds up nobody but its own sinks.
    let lines = || std::fs::read_to_string(dir.path().join("out/events.jsonl")).unwrap_or_default().lines().count();
    until("the file has every event", || lines() == sent.len()).await;
    signal(server, Signal::CONT);
    let stored = Stored::at(&nats.url(), &clickhouse.url()).await;
    let count = sent.len() as u64;
    for table in ["events", "raw"] {
        stored.until_count(&format!("SELECT count() FROM {table}"), count).await;
        let ids: Vec<(String,)> = stored.rows(&format!("SELECT id FROM {table}")).await;
        assert_eq!(ids.into_iter().map(|(id,)| id).collect::<BTreeSet<_>>(), sent, "{table}");
    }
    let bytes: usize = BODIES.iter().map(|(count, bytes)| count * bytes).sum();
    stored.until_count("SELECT sum(length(body)) FROM raw", bytes as u64).await;
    stored.settled().await;
    assert_eq!(stored.count(Stream::Dead).await, 0);
    let (_, metrics) = get(&format!("{}/metrics", running.ready().metrics)).await;
    let held = |component: &str| sample(&metrics, &format!("headrace_held_bytes{{component=\"{component}\"}}"));
    for component in ["ingest", "normalize", "alert", "clickhouse", "clickhouse-raw", "file-events"] {
        assert_eq!(held(component), Some(0.0), "{component}: {metrics}");
    }
    let peak = status(&running, "VmHWM");

    assert!(peak < LIMIT_BYTES, "{peak} bytes were resident at once: {}", running.log());
    running.stop().await;
}

#[tokio::test]
async fn a_budget_that_is_too_small_is_refused_with_what_would_do() {
    let dir = TempDir::new().unwrap();
    let text = configuration("nats://127.0.0.1:1", "http://127.0.0.1:1", dir.path());
    let config = limited(&text, dir.path(), "memory.budget_mb = 64");
    let (code, _, problem) = check(&config).await;
    assert_eq!(code, Some(2), "{problem}");
    let expected = "memory.budget_mb: expected at least ";
    let least: u64 = problem.split(expected).nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((65..=BUDGET_MB).contains(&least), "{problem}");
    for (budget, refused) in [(least, false), (least - 1, true)] {
        let config = limited(&text, dir.path(), &format!("memory.budget_mb = {budget}"));
        let (_, _, problem) = check(&config).await;
        assert_eq!(problem.contains(expected), refused, "{budget}: {problem}");
    }
}
