//! Processes that end at the points around the cursor, and two that share the work.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use headrace_local::poll;
use headrace_runtime::broker::{CURSORS, Stream};
use headrace_runtime::crash::{Point, VARIABLE};
use headrace_schemas::header;
use headrace_tests::harness::{CEILING, Nats};
use headrace_tests::product::admin::{get, sample};
use headrace_tests::product::process::{Launch, Running, freeze, signal};
use rustix::process::Signal;

use super::{Folder, NAME, PROGRAM};

/// Two pages.
const RECORDS: usize = 1_200;

pub(super) fn configure(dir: &Path, nats: &Nats, settings: &str) -> PathBuf {
    let limits = "max_age_hours = 24\nmax_bytes = 67108864\n";
    let streams = ["raw", "events", "alerts", "dead"].map(|name| format!("[streams.{name}]\n{limits}")).concat();
    let text = format!("nats.url = '{}'\nadmin.listen = '127.0.0.1:0'\n{settings}{streams}", nats.server().url());
    let path = dir.join("headrace.toml");
    std::fs::write(&path, text).unwrap();
    path
}

fn launch(folder: &Folder, nats: &Nats, name: &str) -> Launch {
    let config = configure(folder.dir(), nats, &folder.settings());
    let dir = folder.dir().join(name);
    std::fs::create_dir_all(&dir).unwrap();
    Launch::run(PROGRAM, "collect", &config, &dir)
}

/// Waits until RAW has `count` messages, and no more.
pub(super) async fn counted(nats: &Nats, count: usize) {
    let raw = async || {
        let stream = nats.jetstream().get_stream(Stream::Raw.name()).await.ok()?;
        Some(stream.cached_info().state.messages).filter(|found| *found >= count as u64)
    };
    assert_eq!(poll::until("all records are in RAW", CEILING, raw).await.unwrap(), count as u64);
}

/// Waits until RAW has each of `count` records, and each once.
pub(super) async fn stored(nats: &Nats, count: usize) {
    counted(nats, count).await;
    let messages = nats.messages(Stream::Raw).await;
    let ids: BTreeSet<String> =
        messages.iter().map(|message| message.headers.get(header::ID).unwrap().to_string()).collect();
    assert_eq!((messages.len(), ids.len()), (count, count));
    assert!((0..count).all(|number| ids.contains(&format!("ndjson:{number}"))));
}

#[tokio::test]
async fn a_process_that_dies_around_the_cursor_loses_and_doubles_nothing() {
    let (folder, nats) = (Folder::new(), Nats::start().await);
    let mut count = 0;
    for (point, passing) in
        [(Point::BeforeCursor, 1), (Point::AfterCursor, 1), (Point::BeforeCursor, 2), (Point::AfterStoreAck, 1_100)]
    {
        folder.append("a.log", count..count + RECORDS);
        count += RECORDS;
        let crashing = launch(&folder, &nats, "crashing").set(VARIABLE, format!("{}:{passing}", point.name()));
        // It may die before it is ready. A signal leaves no exit code.
        let (code, log) = crashing.refused().await;
        assert_eq!(code, None, "{point:?}: {log}");
        let process = launch(&folder, &nats, "whole").start().await;
        counted(&nats, count).await;
        process.stop().await;
    }
    stored(&nats, count).await;
    let cursors = nats.jetstream().get_key_value(CURSORS).await.unwrap();
    assert!(cursors.get(format!("cursor.{NAME}")).await.unwrap().is_some());
}

async fn leads(process: &Running) -> bool {
    let (_, metrics) = get(&format!("{}/metrics", process.ready().metrics)).await;
    sample(&metrics, &format!("headrace_collect_leader{{component=\"collect:{NAME}\"}}")) == Some(1.0)
}

#[tokio::test]
async fn one_process_reads_and_another_takes_over_when_it_is_killed_or_suspended() {
    let (folder, nats) = (Folder::new(), Nats::start().await);
    folder.append("a.log", 0..100);
    let first = launch(&folder, &nats, "first").start().await;
    poll::until("the first reads", CEILING, async || leads(&first).await.then_some(())).await.unwrap();
    let second = launch(&folder, &nats, "second").start().await;
    stored(&nats, 100).await;
    assert!(leads(&first).await && !leads(&second).await);
    first.kill().await;
    folder.append("a.log", 100..200);
    stored(&nats, 200).await;
    assert!(leads(&second).await);

    // One that is suspended does not know that it has lost the lease.
    let third = launch(&folder, &nats, "third").start().await;
    freeze(second.pid()).await;
    folder.append("a.log", 200..300);
    stored(&nats, 300).await;
    assert!(leads(&third).await);
    signal(second.pid(), Signal::CONT);
    folder.append("a.log", 300..400);
    stored(&nats, 400).await;
    poll::until("the second stands by", CEILING, async || (!leads(&second).await).then_some(())).await.unwrap();
    third.stop().await;
    second.stop().await;
}
