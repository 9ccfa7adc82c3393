//! Deliveries that the gateway did not accept.

use headrace_tests::product::admin::{get, sample};
use headrace_tests::product::hook::Hook;
use headrace_tests::product::process::{command, said};
use headrace_tests::product::stored::Stored;
use headrace_tests::standin;
use headrace_tests::standin::github::APP_HOOK;
use headrace_tests::standin::server::{Failure, When, Which};
use serde_json::json;

use super::PROGRAM;
use super::testbed::{Gaps, NAMES, ORG_HOOK, REPO_HOOK, Testbed, holds_each_once};

#[tokio::test]
async fn deliveries_missed_while_the_gateway_was_down_are_stored_once() {
    let testbed = Testbed::start().await;
    let config = testbed.configure("grace_s = 1", "");
    let up = testbed.up(&config).await;
    let early = testbed.emit(APP_HOOK, 3, 202).await;
    testbed.emit(ORG_HOOK, 2, 202).await;
    testbed.until_gaps("all is seen", &config, |gaps| gaps.code == Some(0) && gaps.count(NAMES[0], "seen") == 3).await;
    up.stop().await;

    // For one hook, more than a page of GitHub's list.
    testbed.emit(APP_HOOK, 130, 0).await;
    testbed.emit(ORG_HOOK, 20, 0).await;
    testbed.emit(REPO_HOOK, 5, 0).await;
    let up = testbed.up(&config).await;
    let all = [[133, 3, 130, 0], [22, 2, 20, 0], [5, 0, 5, 0]];
    let recovered = |gaps: &Gaps| gaps.code == Some(0) && NAMES.map(|hook| gaps.counts(hook)) == all;
    testbed.until_gaps("all is recovered", &config, recovered).await;
    let repeated = testbed.github.redeliveries(APP_HOOK);
    assert!(early.iter().all(|guid| !repeated.contains_key(guid)), "a delivery that had arrived was sent again");

    let stored = Stored::of(up.ready()).await;
    stored.settled().await;
    holds_each_once(&stored, &["raw", "events"], 160).await;
    testbed.until_table_agrees(&config, &stored).await;
    let (_, metrics) = get(&format!("{}/metrics", up.ready().metrics)).await;
    let series = r#"headrace_recovery_deliveries{hook="app/4711",state="recovered"}"#;
    assert_eq!(sample(&metrics, series), Some(130.0), "{metrics}");
    up.stop().await;
    let log = std::fs::read_to_string(testbed.dir.path().join("data/nats/nats-server.log")).unwrap();
    assert!(!log.contains("Violation"), "the role has the rights that it needs: {log}");
}

#[tokio::test]
async fn only_deliveries_that_are_not_stored_are_sent_again() {
    let testbed = Testbed::start().await;
    let config = testbed.configure("grace_s = 5", "");
    let up = testbed.up(&config).await;
    let ready = up.ready().clone();
    // A proxy between GitHub and the gateway, such as a load balancer.
    let balancer = standin::clickhouse::start(&ready.gateway.unwrap()).await;
    testbed.github.deliver_to(&balancer.url(), &ready.webhook_secret.unwrap());
    balancer.fail_next(3, Failure::Status(502), When::Before, Which::Any);
    balancer.fail_next(2, Failure::Status(504), When::After, Which::Any);
    let lost = testbed.emit(ORG_HOOK, 3, 502).await;
    testbed.emit(ORG_HOOK, 2, 504).await;
    testbed.emit(ORG_HOOK, 4, 202).await;
    let recovered = |gaps: &Gaps| gaps.code == Some(0) && gaps.counts(NAMES[1]) == [9, 6, 3, 0];
    testbed.until_gaps("the lost ones are recovered", &config, recovered).await;
    let repeated: Vec<String> = testbed.github.redeliveries(ORG_HOOK).into_keys().collect();
    let mut lost = lost;
    lost.sort();
    assert_eq!(repeated, lost);
    holds_each_once(&Stored::of(up.ready()).await, &["raw"], 9).await;
    up.stop().await;
}

#[tokio::test]
async fn another_tenants_body_or_another_kind_under_the_id_hides_no_loss() {
    let testbed = Testbed::start().await;
    let config = testbed.configure("grace_s = 5", "");
    let up = testbed.up(&config).await;
    testbed.github.deliver_to("http://127.0.0.1:1", "");
    let lost = testbed.emit(ORG_HOOK, 2, 0).await;
    // GitHub does not sign the GUID, so another sender can use the same ones.
    let hook = Hook::of(up.ready());
    let stranger = json!({ "action": "publicized", "organization": { "login": "octo" } });
    hook.store("repository", &lost[0], stranger.to_string()).await;
    let other_kind = json!({ "action": "started", "organization": { "login": "acme" } });
    hook.store("watch", &lost[1], other_kind.to_string()).await;
    testbed.github.deliver_to(up.ready().gateway.as_deref().unwrap(), up.ready().webhook_secret.as_deref().unwrap());
    let settled = |gaps: &Gaps| gaps.count(NAMES[1], "delivered") == 2 && gaps.count(NAMES[1], "waiting") == 0;
    let known = |gaps: &Gaps| gaps.code == Some(0) && settled(gaps);
    let found = testbed.until_gaps("what became of both is known", &config, known).await;
    assert_eq!(found.counts(NAMES[1]), [2, 0, 2, 0]);
    let stored = Stored::of(up.ready()).await;
    stored.until_count("SELECT count() FROM raw WHERE tenant = 'acme' AND event = 'repository'", 2).await;
    up.stop().await;
}

#[tokio::test]
async fn a_hook_that_refuses_or_is_gone_is_reported_and_hinders_no_other() {
    let testbed = Testbed::start().await;
    let config = testbed.configure("grace_s = 1", "");
    let up = testbed.up(&config).await;
    let gateway = up.ready().gateway.clone().unwrap();
    testbed.github.deliver_to("http://127.0.0.1:1", "");
    testbed.emit(APP_HOOK, 4, 0).await;
    testbed.emit(ORG_HOOK, 3, 0).await;
    testbed.emit(REPO_HOOK, 2, 0).await;
    let gone = {
        let mut github = testbed.github.data();
        github.hooks.get_mut(APP_HOOK).unwrap().refuses = Some(422);
        github.hooks.get_mut(ORG_HOOK).unwrap().disabled = true;
        github.hooks.remove(REPO_HOOK).unwrap()
    };
    testbed.github.deliver_to(&gateway, up.ready().webhook_secret.as_deref().unwrap());
    let problem = |gaps: &Gaps| gaps.hook(NAMES[2])["problem"].as_str().unwrap_or_default().to_owned();
    let reported = |gaps: &Gaps| {
        let refused = |name| gaps.count(name, "refused");
        (refused(NAMES[0]), refused(NAMES[1])) == (4, 3) && !problem(gaps).is_empty()
    };
    let gaps = testbed.until_gaps("the refusals are reported", &config, reported).await;
    assert_eq!((gaps.code, gaps.count(NAMES[0], "missing"), gaps.count(NAMES[1], "missing")), (Some(3), 4, 3));
    assert!(gaps.complaint.contains("7 deliveries are missing"), "{}", gaps.complaint);
    let problem = problem(&gaps);
    assert!(problem.contains("404 Not Found") && problem.contains("is the hook there"), "{problem}");
    let table = command(
        PROGRAM,
        ["gaps", "--config", config.to_str().unwrap(), "--data-dir", testbed.dir.path().join("data").to_str().unwrap()],
    )
    .await;
    assert_eq!(table.status.code(), Some(3));
    let line =
        said(&table).lines().find(|line| line.starts_with(NAMES[0]) && line.contains("all hours")).unwrap().to_owned();
    assert_eq!(line.split_whitespace().skip(3).collect::<Vec<_>>(), ["4", "0", "0", "0", "4", "4", "0"]);
    let (_, states) = get(&format!("{}/readyz", up.ready().metrics)).await;
    assert!(states.contains(r#""recover:repository/acme/app/8":{"state":"broken""#), "{states}");

    let stored = Stored::of(up.ready()).await;
    testbed.until_table_agrees(&config, &stored).await;

    // A person fixes all three hooks.
    {
        let mut github = testbed.github.data();
        github.hooks.get_mut(APP_HOOK).unwrap().refuses = None;
        github.hooks.get_mut(ORG_HOOK).unwrap().disabled = false;
        github.hooks.insert(REPO_HOOK.to_owned(), gone);
    }
    let gaps = testbed
        .until_gaps("all is recovered", &config, |gaps| {
            let recovered = NAMES.iter().map(|name| gaps.count(name, "recovered"));
            gaps.code == Some(0) && recovered.eq([4, 3, 2])
        })
        .await;
    assert_eq!(NAMES.map(|hook| gaps.counts(hook)), [[4, 0, 4, 0], [3, 0, 3, 0], [2, 0, 2, 0]]);
    testbed.until_table_agrees(&config, &stored).await;
    up.stop().await;
}
