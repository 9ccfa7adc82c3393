//! Many matches make one alert and one ticket, and every event reaches the SIEM.

use std::collections::{BTreeMap, BTreeSet};

use headrace_local::poll;
use headrace_tests::harness::CEILING;
use headrace_tests::product::admin::{get, sample};
use headrace_tests::product::hook::{Hook, guid, sha256};
use headrace_tests::product::process::Launch;
use headrace_tests::product::stored::Stored;
use headrace_tests::standin::jira::{self, Jira};
use headrace_tests::standin::server::{Failure, When, Which};
use headrace_tests::standin::splunk::{self, Splunk};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::PROGRAM;

const EVENTS: usize = 12;

#[tokio::test]
async fn repeated_matches_are_one_alert_and_one_ticket() {
    let (splunk, jira, dir) = (Splunk::start().await, Jira::start().await, TempDir::new().unwrap());
    let config = dir.path().join("headrace.toml");
    std::fs::write(&config, configuration(&splunk, &jira, &dir)).unwrap();
    // The ticket is created, but the answer is lost. So the sink gets the alert again.
    jira.fail_next(1, Failure::Reset, When::After, Which::Deliveries);
    // The events are indexed, but the answer is lost.
    splunk.fail_next(1, Failure::Reset, When::After, Which::Deliveries);
    let launch = || Launch::up(PROGRAM, dir.path()).argument("--config").argument(&config);
    let up = launch().start().await;
    let (hook, stored) = (Hook::of(up.ready()), Stored::of(up.ready()).await);

    // Two actors make two alerts for the same rule.
    let deliveries: Vec<(String, &str)> =
        (0..EVENTS).map(|number| (guid(), if number % 3 == 0 { "mona" } else { "hubot" })).collect();
    for (guid, actor) in &deliveries {
        hook.store("repository", guid, publicized(actor)).await;
    }
    // GitHub delivers some of them again.
    for (guid, actor) in deliveries.iter().take(3) {
        assert_eq!(hook.send("repository", guid, publicized(actor)).await.status, 200);
    }
    stored.settled().await;
    assert_eq!((jira.failures_left(), splunk.failures_left()), (0, 0), "both answers were lost");

    let alerts = alerts_in(&dir);
    let counts: BTreeSet<u64> = alerts.values().map(|alert| alert["count"].as_u64().unwrap()).collect();
    assert_eq!(counts, BTreeSet::from([4, 8]), "{alerts:#?}");
    let mut tickets = jira.alerts();
    tickets.sort();
    assert_eq!(tickets, alerts.keys().cloned().collect::<Vec<_>>());
    let sent: BTreeSet<String> = deliveries.iter().map(|(guid, _)| format!("github:{guid}")).collect();
    assert_eq!(splunk.ids().into_iter().collect::<BTreeSet<_>>(), sent);
    conflicting_delivery_is_kept_and_counted(&hook, &stored, &deliveries[0], &up.ready().metrics).await;
    assert_eq!(alerts_in(&dir), alerts, "there is no second alert, and no alert counts more events");
    assert_eq!((jira.alerts().len(), splunk.ids().into_iter().collect::<BTreeSet<_>>()), (tickets.len(), sent));
    up.stop().await;

    // After a restart, another match continues the alert and makes no second ticket.
    let up = launch().start().await;
    let (hook, stored) = (Hook::of(up.ready()), Stored::of(up.ready()).await);
    let late = guid();
    hook.store("repository", &late, publicized("mona")).await;
    stored.settled().await;
    let grown: BTreeSet<u64> = alerts_in(&dir).values().map(|alert| alert["count"].as_u64().unwrap()).collect();
    assert_eq!(grown, BTreeSet::from([5, 8]));
    assert_eq!(jira.alerts().len(), tickets.len());
    assert!(splunk.ids().contains(&format!("github:{late}")));
    up.stop().await;
}

/// Sends another actor's body under the id of a delivery. It is kept and reported, and changes nothing else.
async fn conflicting_delivery_is_kept_and_counted(hook: &Hook, stored: &Stored, first: &(String, &str), metrics: &str) {
    let (guid, actor) = first;
    hook.store("repository", guid, publicized("eve")).await;
    stored.settled().await;
    let id = format!("github:{guid}");
    let event: Vec<(String, String)> =
        stored.rows(&format!("SELECT actor, raw_sha256 FROM events WHERE id = '{id}'")).await;
    let hashes = [*actor, "eve"].map(|actor| sha256(publicized(actor).as_bytes()));
    assert_eq!(event, [((*actor).to_owned(), hashes[0].clone())]);
    let conflicts: Vec<(String, String, u64, Vec<String>)> =
        stored.rows("SELECT tenant, id, deliveries, hashes FROM conflicting_deliveries").await;
    assert_eq!(conflicts, [("acme".to_owned(), id, 2, hashes.to_vec())], "`raw` has both");
    // The counter is increased only after the message is settled.
    let counted = async || {
        let (_, metrics) = get(&format!("{metrics}/metrics")).await;
        sample(&metrics, r#"headrace_conflicting_deliveries_total{component="normalize"}"#)
            .filter(|count| *count == 1.0)
    };
    poll::until("it is counted", CEILING, counted).await.unwrap_or_else(|error| panic!("{error}"));
}

fn configuration(splunk: &Splunk, jira: &Jira, dir: &TempDir) -> String {
    format!(
        r#"
[pipeline.alert]
# Windows begin at whole multiples of this. So long a window hardly ends within the test.
window_minutes = 8640

[sinks.file]
dir = "{out}"

[sinks.splunk]
url = "{splunk}"
token = "{token}"
index = "{index}"
linger_ms = 50

[sinks.jira]
url = "{jira}"
email = "{email}"
api_token = "{api_token}"
project = "{project}"
linger_ms = 50
index_lag_ms = 100
"#,
        out = dir.path().join("out").display(),
        splunk = splunk.url(),
        token = splunk::TOKEN,
        index = splunk::INDEX,
        jira = jira.url(),
        email = jira::EMAIL,
        api_token = jira::API_TOKEN,
        project = jira::PROJECT,
    )
}

fn publicized(actor: &str) -> String {
    json!({
        "action": "publicized",
        "repository": { "id": 1, "name": "app", "full_name": "acme/app", "private": false, "owner": { "login": "acme" } },
        "organization": { "id": 5, "login": "acme" },
        "sender": { "id": 7, "login": actor, "type": "User" },
    })
    .to_string()
}

/// The latest state of each alert in the file, by id.
fn alerts_in(dir: &TempDir) -> BTreeMap<String, Value> {
    let text = std::fs::read_to_string(dir.path().join("out/alerts.jsonl")).unwrap();
    let alerts = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    alerts.map(|alert| (alert["id"].as_str().unwrap().to_owned(), alert)).collect()
}
