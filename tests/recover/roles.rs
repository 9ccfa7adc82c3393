//! Each role as a process of its own: a broker that loses messages, and a second process that takes over.

use headrace_local::poll;
use headrace_runtime::broker::Stream;
use headrace_tests::harness::CEILING;
use headrace_tests::product::admin::{get, sample};
use headrace_tests::product::process::Running;
use headrace_tests::product::stored::Stored;
use headrace_tests::standin::github::APP_HOOK;

use super::servers::{SECRET, Servers, role};
use super::testbed::{Gaps, NAMES, ORG_HOOK, Testbed, holds_each_once};

/// Whether the process reports that it holds the lease for recovery.
async fn leads(process: &Running) -> bool {
    let (_, metrics) = get(&format!("{}/metrics", process.ready().metrics)).await;
    sample(&metrics, "headrace_recovery_leader") == Some(1.0)
}

#[tokio::test]
async fn deliveries_that_the_broker_lost_are_recovered() {
    let testbed = Testbed::start().await;
    let servers = Servers::start(&testbed).await;
    let config = servers.configure(&testbed, "");
    let ingest = role("ingest", "ingest", &config, &testbed).await;
    testbed.github.deliver_to(ingest.ready().gateway.as_deref().unwrap(), SECRET);
    let recover = role("recover", "recover", &config, &testbed).await;
    // The gateway confirms all of them to GitHub.
    let guids = testbed.emit(APP_HOOK, 10, 202).await;
    // No consumer has read them, so they are a backlog and not a loss.
    let waiting = |gaps: &Gaps| gaps.count(NAMES[0], "waiting") == 10;
    let gaps = testbed.until_gaps("they are waiting", &config, waiting).await;
    assert_eq!((gaps.code, gaps.count(NAMES[0], "missing")), (Some(1), 0));
    assert!(gaps.complaint.contains("it cannot be told"), "{}", gaps.complaint);
    let stored = Stored::of(recover.ready()).await;
    let raw = stored.stream(Stream::Raw).await;
    // A purge removes everything before a sequence. RAW allows no deletion of a single message.
    raw.purge().sequence(5).await.unwrap();
    assert_eq!(testbed.github.asked(), 0);

    let sinks = role("sinks", "sinks", &config, &testbed).await;
    let recovered = |gaps: &Gaps| gaps.code == Some(0) && gaps.counts(NAMES[0]) == [10, 6, 4, 0];
    testbed.until_gaps("the forgotten ones are recovered", &config, recovered).await;
    let repeated: Vec<String> = testbed.github.redeliveries(APP_HOOK).into_keys().collect();
    let mut forgotten = [0, 1, 2, 3].map(|index: usize| guids[index].clone());
    forgotten.sort();
    assert_eq!(repeated, forgotten);
    holds_each_once(&stored, &["raw"], 10).await;
    for process in [sinks, recover, ingest] {
        process.stop().await;
    }
}

#[tokio::test]
async fn one_process_works_and_another_takes_over_when_it_dies() {
    let testbed = Testbed::start().await;
    let servers = Servers::start(&testbed).await;
    let config = servers.configure(&testbed, "");
    let ingest = role("ingest", "ingest", &config, &testbed).await;
    let sinks = role("sinks", "sinks", &config, &testbed).await;
    let first = role("recover", "first", &config, &testbed).await;
    poll::until("the first leads", CEILING, async || leads(&first).await.then_some(())).await.unwrap();
    let second = role("recover", "second", &config, &testbed).await;
    testbed.github.deliver_to("http://127.0.0.1:1", "");
    testbed.emit(ORG_HOOK, 5, 0).await;
    testbed.github.deliver_to(ingest.ready().gateway.as_deref().unwrap(), SECRET);
    let recovered = |count| move |gaps: &Gaps| gaps.code == Some(0) && gaps.counts(NAMES[1]) == [count, 0, count, 0];
    testbed.until_gaps("all is recovered", &config, recovered(5)).await;
    assert!(leads(&first).await && !leads(&second).await);
    let (_, metrics) = get(&format!("{}/metrics", second.ready().metrics)).await;
    assert!(!metrics.contains("headrace_recovery_runs_total"), "{metrics}");

    first.kill().await;
    testbed.github.deliver_to("http://127.0.0.1:1", "");
    testbed.emit(ORG_HOOK, 5, 0).await;
    testbed.github.deliver_to(ingest.ready().gateway.as_deref().unwrap(), SECRET);
    testbed.until_gaps("the second recovers the rest", &config, recovered(10)).await;
    assert!(leads(&second).await);
    holds_each_once(&Stored::of(second.ready()).await, &["raw"], 10).await;

    // A process that is stopped gives the lease back, so the next need not wait until it expires.
    second.stop().await;
    let third = role("recover", "third", &config, &testbed).await;
    poll::until("the third leads", CEILING, async || leads(&third).await.then_some(())).await.unwrap();
    for process in [third, sinks, ingest] {
        process.stop().await;
    }
}
