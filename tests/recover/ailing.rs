//! Recovery while GitHub limits requests, fails or hangs, and the budget that spares GitHub.

use headrace_local::poll;
use headrace_schemas::time::Timestamp;
use headrace_tests::harness::CEILING;
use headrace_tests::product::admin::{get, sample};
use headrace_tests::product::process::signal;
use headrace_tests::product::stored::Stored;
use headrace_tests::standin::server::{Failure, When, Which};
use rustix::process::Signal;

use super::testbed::{Gaps, NAMES, ORG_HOOK, Testbed, holds_each_once};

#[tokio::test]
async fn recovery_waits_for_a_github_that_limits_fails_or_hangs() {
    let testbed = Testbed::start().await;
    let config = testbed.configure("grace_s = 1", "");
    testbed.github.deliver_to("http://127.0.0.1:1", "");
    testbed.emit(ORG_HOOK, 6, 0).await;
    let fail = |times, failure, which| testbed.github.fail_next(times, failure, When::Before, which);
    fail(3, Failure::StatusAfter(403, 1), Which::Any);
    fail(2, Failure::Status(502), Which::Any);
    fail(1, Failure::Hang, Which::Any);
    fail(2, Failure::Reset, Which::Any);
    fail(1, Failure::Torn, Which::Any);
    fail(1, Failure::Garbage, Which::Any);
    fail(1, Failure::StatusAfter(429, 1), Which::Deliveries);
    fail(1, Failure::Status(500), Which::Deliveries);
    // These requests have their effect, and only the answer is lost.
    testbed.github.fail_next(1, Failure::Reset, When::After, Which::Deliveries);
    testbed.github.fail_next(1, Failure::Hang, When::After, Which::Deliveries);
    let up = testbed.up(&config).await;
    let recovered = |gaps: &Gaps| gaps.code == Some(0) && gaps.counts(NAMES[1]) == [6, 0, 6, 0];
    testbed.until_gaps("all is recovered", &config, recovered).await;
    assert_eq!(testbed.github.failures_left(), 0);

    // The primary rate limit is used up, and the token is revoked for a while.
    {
        let mut github = testbed.github.data();
        github.remaining = 0;
        github.reset_at = Timestamp::from_micros(Timestamp::now().as_micros() + 2_000_000);
        github.revoked = true;
    }
    let problem = |gaps: &Gaps| gaps.hook(NAMES[1])["problem"].as_str().is_some_and(|text| text.contains("401"));
    let gaps = testbed.until_gaps("the revoked token is reported", &config, problem).await;
    assert_eq!(gaps.code, Some(1));
    assert!(gaps.complaint.contains("it cannot be told"), "{}", gaps.complaint);
    testbed.github.data().revoked = false;
    testbed.until_gaps("it goes on by itself", &config, recovered).await;
    holds_each_once(&Stored::of(up.ready()).await, &["raw"], 6).await;
    up.stop().await;
}

#[tokio::test]
async fn without_clickhouse_only_deliveries_that_were_never_accepted_are_sent_again() {
    let testbed = Testbed::start().await;
    let config = testbed.configure("grace_s = 1", "");
    let up = testbed.up(&config).await;
    let (gateway, clickhouse) = (up.ready().gateway.clone().unwrap(), up.ready().pids["clickhouse"]);
    signal(clickhouse, Signal::STOP);
    let taken = testbed.emit(ORG_HOOK, 4, 202).await;
    testbed.github.deliver_to("http://127.0.0.1:1", "");
    testbed.emit(ORG_HOOK, 3, 0).await;
    testbed.github.deliver_to(&gateway, up.ready().webhook_secret.as_deref().unwrap());
    let repeated = async || Some(testbed.github.redeliveries(ORG_HOOK)).filter(|repeated| repeated.len() == 3);
    let repeated = poll::until("the missed ones are sent again", CEILING, repeated).await.unwrap();
    assert!(taken.iter().all(|guid| !repeated.contains_key(guid)));
    // While ClickHouse does not answer, no delivery may be reported as seen or missing.
    let unknown = |gaps: &Gaps| gaps.count(NAMES[1], "waiting") == 7 && gaps.complaint.contains("it cannot be told");
    assert_eq!(testbed.until_gaps("all deliveries are waiting", &config, unknown).await.code, Some(1));
    signal(clickhouse, Signal::CONT);
    let recovered = |gaps: &Gaps| gaps.code == Some(0) && gaps.counts(NAMES[1]) == [7, 4, 3, 0];
    testbed.until_gaps("all is classified", &config, recovered).await;
    let stored = Stored::of(up.ready()).await;
    holds_each_once(&stored, &["raw"], 7).await;
    // What could not be written while ClickHouse was away is written now.
    testbed.until_table_agrees(&config, &stored).await;
    up.stop().await;
}

#[tokio::test]
async fn no_more_redeliveries_are_asked_for_than_the_budget_allows() {
    let testbed = Testbed::start().await;
    let config = testbed.configure("grace_s = 1\nbudget_per_run = 3\nbudget_per_hour = 7", "");
    testbed.github.deliver_to("http://127.0.0.1:1", "");
    let missed = testbed.emit(ORG_HOOK, 20, 0).await;
    // Nothing may be asked for before GitHub knows where to send it.
    testbed.github.down();
    let up = testbed.up(&config).await;
    testbed.github.up().await;
    let used_up = |gaps: &Gaps| gaps.counts(NAMES[1]) == [20, 0, 7, 13];
    let gaps = testbed.until_gaps("the budget is used up", &config, used_up).await;
    assert_eq!(gaps.code, Some(3));
    let runs = async || {
        let (_, metrics) = get(&format!("{}/metrics", up.ready().metrics)).await;
        sample(&metrics, r#"headrace_recovery_runs_total{hook="organization/acme/7",outcome="complete"}"#)
    };
    let enough = runs().await.unwrap() + 3.0;
    let more = async || runs().await.filter(|runs| *runs >= enough);
    poll::until("three more runs", CEILING, more).await.unwrap();
    assert_eq!(testbed.github.asked(), 7);
    // The oldest come first, because GitHub forgets them first.
    let mut oldest = missed[..7].to_vec();
    oldest.sort();
    assert_eq!(testbed.github.redeliveries(ORG_HOOK).into_keys().collect::<Vec<_>>(), oldest);
    up.stop().await;

    // A restart does not renew the budget.
    let up = testbed.up(&config).await;
    let checked_at = gaps.hook(NAMES[1])["checked_at"].clone();
    testbed
        .until_gaps("another run", &config, |gaps| gaps.hook(NAMES[1])["checked_at"].as_str() > checked_at.as_str())
        .await;
    assert_eq!(testbed.github.asked(), 7);
    up.stop().await;
}
