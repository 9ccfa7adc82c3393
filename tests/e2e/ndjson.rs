//! Records of newline-delimited JSON, from `up` to rows: each once, whenever and however often it is sent.

use std::time::Duration;

use headrace_local::poll;
use headrace_runtime::broker::Stream;
use headrace_schemas::time::Timestamp;
use headrace_tests::harness::CEILING;
use headrace_tests::product::admin::{get, sample};
use headrace_tests::product::hook::{Answer, answer};
use headrace_tests::product::process::{Ready, gone, signal};
use headrace_tests::product::stored::Stored;
use rustix::process::Signal;
use tempfile::TempDir;

use super::with_short_limits;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);
const COUNT: &str = "SELECT count() FROM events WHERE source = 'ndjson'";
/// A record that GitHub's rule "repository made public" would match.
const LOOKALIKE: &str = r#""kind":"repo.access","repository":{"full_name":"acme/app","visibility":"public"}"#;

async fn send(ready: &Ready, token: &str, body: String) -> Answer {
    let url = format!("{}/collect/ndjson", ready.gateway.as_ref().unwrap());
    let request = reqwest::Client::new().post(url).bearer_auth(token).body(body);
    answer(request).await.unwrap()
}

/// A line with an id, a time and further fields.
fn line(id: &str, time: Timestamp, more: &str) -> String {
    format!("{{\"id\":\"{id}\",\"time\":\"{time}\",{more}}}\n")
}

/// The ids with other than one row in `events`.
async fn doubled(stored: &Stored) -> Vec<(String, u64)> {
    stored.rows("SELECT id, count() AS n FROM events GROUP BY id HAVING n != 1").await
}

#[tokio::test]
async fn a_record_is_one_row_however_often_it_is_sent_and_however_old_it_is() {
    let dir = TempDir::new().unwrap();
    let up = with_short_limits(&dir, "").start().await;
    let stored = Stored::of(up.ready()).await;
    let token = up.ready().tokens["ndjson"].clone();
    let now = Timestamp::now();
    let login = r#""kind":"login","tenant":"Acme","actor":"mona","ip":"192.0.2.1","geo":{"city":"Oslo"}"#;
    let young: String = (0..150).map(|number| line(&format!("n-{number}"), now, login)).collect();
    // From long before the broker's duplicate window: their copies are looked up.
    let old: String = (0..150).map(|number| line(&format!("o-{number}"), now.minus(HOUR), login)).collect();
    let old = old + &line("old", now.minus(DAY), login);
    let body = young + &old;
    let sent = send(up.ready(), &token, body.clone()).await;
    assert_eq!((sent.status, sent.body["records"].as_u64()), (202, Some(301)), "{}", sent.body);
    stored.until_count(COUNT, 301).await;
    let again = send(up.ready(), &token, body.clone()).await;
    assert_eq!((again.status, again.body["duplicates"].as_u64()), (200, Some(301)), "{}", again.body);
    stored.settled().await;
    stored.until_count(COUNT, 301).await;

    let row = "SELECT tenant, kind, actor, ip, attributes['geo.city'], toUnixTimestamp64Micro(occurred_at), severity \
               FROM events WHERE id = 'ndjson:old'";
    let rows: Vec<(String, String, String, String, String, i64, String)> = stored.rows(row).await;
    let text = str::to_owned;
    let a_day_ago = now.minus(DAY).as_micros();
    let expected =
        (text("acme"), text("login"), text("mona"), text("192.0.2.1"), text("Oslo"), a_day_ago, text("none"));
    assert_eq!(rows, [expected]);
    let bodies: Vec<(String,)> = stored.rows("SELECT body FROM raw WHERE id = 'ndjson:n-7'").await;
    assert_eq!(bodies, [(line("n-7", now, login).trim_end().to_owned(),)], "the line as it came, without its end");

    // Another body under a known id is kept and shown, and the event stays what it was.
    let other = line("n-0", now, &login.replace("mona", "mallory"));
    assert_eq!(send(up.ready(), &token, other).await.status, 202);
    stored.until_count("SELECT count() FROM raw WHERE id = 'ndjson:n-0'", 2).await;
    stored.settled().await;
    let conflicts: Vec<(String, u64)> = stored.rows("SELECT id, deliveries FROM conflicting_deliveries").await;
    assert_eq!(conflicts, [("ndjson:n-0".to_owned(), 2)]);
    let actors: Vec<(String,)> = stored.rows("SELECT DISTINCT actor FROM events").await;
    assert_eq!(actors, [("mona".to_owned(),)]);
    // The counter is increased only after the message is settled.
    let counted = async || {
        let metrics = get(&format!("{}/metrics", up.ready().metrics)).await.1;
        sample(&metrics, r#"headrace_conflicting_deliveries_total{component="normalize"}"#)
            .filter(|count| *count == 1.0)
    };
    poll::until("it is counted", CEILING, counted).await.unwrap();

    // A broker that has forgotten all of them takes the old ones for new. ClickHouse does not.
    for stream in [Stream::Raw, Stream::Events] {
        stored.stream(stream).await.purge().await.unwrap();
    }
    let nats = up.ready_now().pids["nats"];
    signal(nats, Signal::KILL);
    gone(nats).await;
    up.started_again("nats", nats).await;
    let stored_again = async || send(up.ready(), &token, old.clone()).await.is_stored().then_some(());
    poll::until("the records are stored again", CEILING, stored_again).await.unwrap();
    stored.settled().await;
    assert_eq!(doubled(&stored).await, []);
    stored.until_count(COUNT, 301).await;
    stored.until_count("SELECT count() FROM raw", 302).await;
    assert_eq!(stored.count(Stream::Dead).await, 0);
    up.stop().await;
}

#[tokio::test]
async fn a_record_that_was_ahead_of_the_clock_is_one_row_when_it_comes_again() {
    // So short that the broker soon forgets it. A quarter of it is how far a time may be ahead.
    const WINDOW_S: u64 = 4;
    let dir = TempDir::new().unwrap();
    let up = with_short_limits(&dir, &format!("streams.duplicate_window_s = {WINDOW_S}\n")).start().await;
    let (stored, token) = (Stored::of(up.ready()).await, up.ready().tokens["ndjson"].clone());
    let ahead = Timestamp::from_micros(Timestamp::now().as_micros() + 900_000);
    let record = line("ahead", ahead, r#""kind":"login","tenant":"acme""#);
    // What may be further ahead would come again after the broker has forgotten it, and look new.
    let further = Timestamp::from_micros(Timestamp::now().as_micros() + 10_000_000);
    let refused = send(up.ready(), &token, line("further", further, r#""kind":"login","tenant":"acme""#)).await;
    assert_eq!((refused.status, refused.body["error"].as_str()), (400, Some("time_ahead")), "{}", refused.body);
    assert_eq!(send(up.ready(), &token, record.clone()).await.status, 202);
    stored.until_count(COUNT, 1).await;
    let is_known = async || {
        assert!(send(up.ready(), &token, record.clone()).await.is_stored());
        let metrics = get(&format!("{}/metrics", up.ready().metrics)).await.1;
        let known = |component: &str| {
            let series = format!("headrace_already_there_total{{component=\"{component}\"}}");
            sample(&metrics, &series).filter(|count| *count > 0.0)
        };
        known("clickhouse").and(known("clickhouse-raw"))
    };
    let waited = poll::until("a copy that the broker has forgotten is looked up", CEILING, is_known).await;
    waited.unwrap_or_else(|error| panic!("{error}: {}", up.log()));
    stored.settled().await;
    assert_eq!(doubled(&stored).await, []);
    stored.until_count("SELECT count() FROM raw", 1).await;
    up.stop().await;
}

#[tokio::test]
async fn a_token_sends_for_its_tenants_and_a_rule_sees_its_products_events() {
    const RULE: &str = "title: Mallory logged in\nid: 33333333-3333-4333-8333-333333333333\n\
        logsource:\n  product: ndjson\ndetection:\n  selection:\n    kind: login\n    geo.city: Oslo\n  \
        condition: selection\nlevel: high\n";
    let dir = TempDir::new().unwrap();
    let rules = dir.path().join("rules");
    std::fs::create_dir(&rules).unwrap();
    std::fs::write(rules.join("mallory.yml"), RULE).unwrap();
    let settings = format!(
        "pipeline.score.rules_dirs = ['{}']\n\
         ingest.ndjson = {{ tokens = ['all'], default_tenant = 'acme', scoped = [{{ tenants = ['acme'], tokens = ['own'] }}] }}",
        rules.display()
    );
    let up = with_short_limits(&dir, &settings).start().await;
    let stored = Stored::of(up.ready()).await;
    assert_eq!(up.ready().tokens["ndjson"], "all", "the configured token is used");
    let now = Timestamp::now();
    let both = line("1", now, r#""kind":"login""#) + &line("2", now, r#""kind":"login","tenant":"octo""#);
    for (token, body, status, code) in [
        ("own", both.clone(), 403, "token_foreign"),
        ("other", both.clone(), 401, "token_wrong"),
        ("all", both.clone() + "{}", 400, "id_missing"),
    ] {
        let refused = send(up.ready(), token, body).await;
        assert_eq!((refused.status, refused.body["error"].as_str()), (status, Some(code)), "{}", refused.body);
    }
    assert_eq!(stored.count(Stream::Raw).await, 0, "nothing of a refused request is stored");

    let own = line("3", now, r#""kind":"login","geo":{"city":"Oslo"}"#) + &line("4", now, LOOKALIKE);
    assert_eq!(send(up.ready(), "own", own).await.status, 202);
    assert_eq!(send(up.ready(), "all", both).await.status, 202);
    stored.until_count(COUNT, 4).await;
    let rows: Vec<(String, String, String, Vec<String>)> =
        stored.rows("SELECT id, tenant, severity, rule_titles FROM events ORDER BY id").await;
    let row = |id: &str, tenant: &str, severity: &str, titles: &[&str]| {
        let titles = titles.iter().map(|&title| title.to_owned()).collect();
        (format!("ndjson:{id}"), tenant.to_owned(), severity.to_owned(), titles)
    };
    let expected = [
        row("1", "acme", "none", &[]),
        row("2", "octo", "none", &[]),
        row("3", "acme", "high", &["Mallory logged in"]),
        row("4", "acme", "none", &[]),
    ];
    assert_eq!(rows, expected, "GitHub's rules are tried on GitHub's events alone");
    up.stop().await;
}
