//! What arrives at the gateway of a running `up` is stored whole, refused with a reason, or dead-lettered.

use std::time::Duration;

use async_nats::HeaderMap as NatsHeaders;
use headrace_local::poll;
use headrace_runtime::broker::Stream;
use headrace_schemas::header;
use headrace_tests::harness::CEILING;
use headrace_tests::product::admin::{get, sample};
use headrace_tests::product::hook::{Answer, Hook, answer, guid, sha256, signature};
use headrace_tests::product::process::{Launch, Ready, Running, command, complained, freeze, said, signal};
use headrace_tests::product::stored::{self, Stored};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;

use super::PROGRAM;

/// The gateway always answers within this time, because GitHub waits for 10 s.
const ANSWER_MAX: Duration = Duration::from_secs(8);

/// A running `up`, and what it stores.
struct Testbed {
    up: Running,
    hook: Hook,
    stored: Stored,
    dir: TempDir,
}

impl Testbed {
    async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let up = Launch::up(PROGRAM, dir.path()).start().await;
        let (hook, stored) = (Hook::of(up.ready()), Stored::of(up.ready()).await);
        Self { up, hook, stored, dir }
    }

    fn ready(&self) -> &Ready {
        self.up.ready()
    }

    /// Waits until the metrics meet `condition`.
    async fn until_metrics(&self, what: &str, condition: impl Fn(&str) -> bool) {
        let url = format!("{}/metrics", self.ready().metrics);
        let asked = poll::until(what, CEILING, async || condition(&get(&url).await.1).then_some(())).await;
        if let Err(error) = asked {
            panic!("{error}: {}", get(&url).await.1);
        }
    }

    /// Waits until each of these series has counted something.
    async fn until_counted(&self, series: &[&str]) {
        for series in series {
            let is_counted = |metrics: &str| sample(metrics, series).is_some_and(|count| count > 0.0);
            self.until_metrics(&format!("{series} counts"), is_counted).await;
        }
    }
}

/// A body that a rule matches, by an actor of the caller's choice.
fn publicized(actor: &str) -> Vec<u8> {
    json!({
        "action": "publicized",
        "repository": { "id": 1, "name": "app", "full_name": "acme/app", "private": false, "owner": { "login": "acme" } },
        "organization": { "id": 5, "login": "acme" },
        "sender": { "id": 7, "login": actor, "type": "User" },
    })
    .to_string()
    .into_bytes()
}

#[tokio::test]
async fn one_log_line_names_all_consumers() {
    let testbed = Testbed::start().await;
    let log = testbed.up.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("each consumer goes on where it stopped")).collect();
    let [line] = lines.as_slice() else { panic!("expected one line: {log}") };
    assert!(line.contains("normalize on RAW") && line.contains("clickhouse on EVENTS"), "{line}");
    assert!(!log.contains("incarnation"), "{log}");
    testbed.up.stop().await;
}

#[tokio::test]
async fn bad_signatures_store_nothing() {
    let testbed = Testbed::start().await;
    let (hook, stored) = (&testbed.hook, &testbed.stored);
    let body = publicized("mallory");
    let good = signature(testbed.ready().webhook_secret.as_deref().unwrap(), &body);
    let unsigned = || hook.unsigned("repository", &guid(), body.clone());
    let signed = |value: &str| unsigned().header(header::GITHUB_SIGNATURE, value);
    let before = stored.count(Stream::Raw).await;
    for (request, reason) in [
        (unsigned(), "signature_missing"),
        (unsigned().header("X-Hub-Signature", "sha1=7d38cdd689735b008b3c702edd92eea23791c5f6"), "signature_missing"),
        (signed(&good[..good.len() - 1]), "signature_malformed"),
        (signed(&good["sha256=".len()..]), "signature_malformed"),
        (signed(""), "signature_malformed"),
        (signed(&signature("another secret", &body)), "signature_wrong"),
        (signed(&signature("", &body)), "signature_wrong"),
    ] {
        let answer = answer(request).await.unwrap();
        assert_eq!((answer.status, answer.body["error"].as_str()), (401, Some(reason)), "{}", answer.body);
    }
    assert_eq!(stored.count(Stream::Raw).await, before);
    let reasons = [
        r#"headrace_ingest_requests_total{reason="signature_missing"}"#,
        r#"headrace_ingest_requests_total{reason="signature_malformed"}"#,
        r#"headrace_ingest_requests_total{reason="signature_wrong"}"#,
    ];
    testbed.until_counted(&reasons).await;
    let log = testbed.up.log();
    assert!(
        log.contains("requests without a valid signature or token were refused") && log.contains("127.0.0.1"),
        "{log}"
    );
    assert!(!log.contains("mallory") && !log.contains(&good), "the log holds nothing of a body: {log}");
    testbed.up.stop().await;
}

#[tokio::test]
async fn a_large_body_arrives_whole_and_a_larger_one_is_refused() {
    let testbed = Testbed::start().await;
    let (hook, stored) = (&testbed.hook, &testbed.stored);
    let padded = |bytes: usize| {
        let mut body = publicized("large");
        body.truncate(body.len() - 1);
        body.extend_from_slice(b",\"padding\":\"");
        body.resize(bytes - 2, b'x');
        body.extend_from_slice(b"\"}");
        body
    };
    let (body, id) = (padded(20 << 20), guid());
    hook.store("repository", &id, body.clone()).await;
    let id = format!("github:{id}");
    stored.until_count(&format!("SELECT count() FROM events WHERE id = '{id}'"), 1).await;
    stored.until_count(&format!("SELECT count() FROM raw WHERE id = '{id}'"), 1).await;
    let sql = format!("SELECT length(body), lower(hex(SHA256(body))) FROM raw WHERE id = '{id}'");
    assert_eq!(stored.rows::<(usize, String)>(&sql).await, [(body.len(), sha256(&body))]);
    let sql = format!("SELECT raw_bytes, raw_sha256, actor FROM events WHERE id = '{id}'");
    let row = (body.len(), sha256(&body), "large".to_owned());
    assert_eq!(stored.rows::<(usize, String, String)>(&sql).await, [row]);
    let last = stored.messages(Stream::Raw).await.pop().unwrap();
    assert!(last.payload.is_empty(), "RAW holds a reference");

    let before = stored.count(Stream::Raw).await;
    let answer = hook.send("repository", &guid(), padded(26 << 20)).await;
    assert_eq!((answer.status, answer.body["error"].as_str()), (413, Some("body_too_large")), "{}", answer.body);
    assert_eq!(stored.count(Stream::Raw).await, before);
    testbed.until_counted(&[r#"headrace_ingest_requests_total{reason="body_too_large"}"#]).await;
    testbed.up.stop().await;
}

#[tokio::test]
async fn forms_unknown_kinds_and_traces_arrive() {
    let testbed = Testbed::start().await;
    a_form_is_the_same_event(testbed.ready(), &testbed.hook, &testbed.stored).await;
    an_unknown_kind_is_carried(&testbed.hook, &testbed.stored).await;
    a_trace_goes_all_the_way(&testbed.hook, &testbed.stored).await;
    testbed.up.stop().await;
}

async fn a_form_is_the_same_event(ready: &Ready, hook: &Hook, stored: &Stored) {
    let json = String::from_utf8(publicized("form é & more")).unwrap();
    let form = form_urlencoded::Serializer::new(String::new()).append_pair("payload", &json).finish().into_bytes();
    let (as_json, as_form) = (guid(), guid());
    hook.store("repository", &as_json, json).await;
    let media_type =
        HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"))]);
    let signature = signature(ready.webhook_secret.as_deref().unwrap(), &form);
    let request = hook.unsigned("repository", &as_form, form.clone()).headers(media_type);
    let answer = answer(request.header(header::GITHUB_SIGNATURE, signature)).await.unwrap();
    assert_eq!(answer.status, 202, "{}", answer.body);
    let ids = format!("('github:{as_json}', 'github:{as_form}')");
    stored.until_count(&format!("SELECT count() FROM events WHERE id IN {ids}"), 2).await;
    let columns = "* EXCEPT (id, key, content, event_time, stored_at, inserted_at, received_at, occurred_at, \
                   raw_sequence, raw_sha256, raw_bytes)";
    let rows = stored.objects(&format!("SELECT {columns} FROM events WHERE id IN {ids}")).await;
    assert_eq!(rows[0], rows[1]);
    assert_eq!(rows[0]["actor"], "form é & more");
    // The stored bytes are the bytes that were signed.
    let raw = format!("SELECT lower(hex(SHA256(body))) FROM raw WHERE id = 'github:{as_form}'");
    stored.until_count(&format!("SELECT count() FROM raw WHERE id = 'github:{as_form}'"), 1).await;
    assert_eq!(stored.rows::<(String,)>(&raw).await, [(sha256(&form),)]);
}

async fn an_unknown_kind_is_carried(hook: &Hook, stored: &Stored) {
    let id = guid();
    hook.store("quantum_entanglement", &id, publicized("mona")).await;
    let sql = format!("SELECT kind, category, actor FROM events WHERE id = 'github:{id}'");
    stored.until_count(&format!("SELECT count() FROM events WHERE id = 'github:{id}'"), 1).await;
    let row = ["quantum_entanglement", "other", "mona"].map(str::to_owned);
    assert_eq!(stored.rows::<[String; 3]>(&sql).await, [row]);
}

async fn a_trace_goes_all_the_way(hook: &Hook, stored: &Stored) {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let id = guid();
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let request = hook.request("repository", &id, publicized("mona")).header(header::TRACEPARENT, traceparent);
    assert_eq!(answer(request).await.unwrap().status, 202);
    stored.settled().await;
    for stream in [Stream::Raw, Stream::Events] {
        let messages = stored.messages(stream).await;
        let own = messages.iter().find(|message| stored::header(message, header::ID) == format!("github:{id}"));
        let traceparent = stored::header(own.unwrap(), header::TRACEPARENT);
        assert_eq!(traceparent.split('-').nth(1), Some(TRACE), "{}: {traceparent}", stream.name());
    }
}

#[tokio::test]
async fn poison_is_dead_lettered_and_counted_and_delays_nobody() {
    let testbed = Testbed::start().await;
    let (hook, stored) = (&testbed.hook, &testbed.stored);
    let id = format!("github:{}", guid());
    let mut headers = NatsHeaders::new();
    headers.insert(header::MESSAGE_ID, id.as_str());
    headers.insert(header::ID, id.as_str());
    headers.insert(header::SOURCE, "github");
    headers.insert(header::EVENT, "push");
    headers.insert(header::RECEIVED_AT, "1760000000000000");
    headers.insert(header::CONTENT_TYPE, "application/json");
    let publish = async |headers: NatsHeaders, payload: &'static str| {
        let sent = stored.jetstream().publish_with_headers("raw.acme.github.push", headers, payload.into()).await;
        sent.unwrap().await.unwrap();
    };
    publish(headers, "this is no JSON").await;
    publish(NatsHeaders::new(), "{}").await;
    let after = guid();
    hook.store("repository", &after, publicized("mona")).await;
    stored.until_count(&format!("SELECT count() FROM events WHERE id = 'github:{after}'"), 1).await;
    stored.settled().await;

    let mut found: Vec<[String; 4]> = stored.messages(Stream::Dead).await.iter().map(dead_letter).collect();
    found.sort();
    let expected = [
        ["dead.clickhouse-raw.acme", "missing_header", "1", "{}"],
        ["dead.normalize.acme", "malformed", "1", "this is no JSON"],
        ["dead.normalize.acme", "missing_header", "1", "{}"],
    ];
    assert_eq!(found, expected.map(|dead_letter| dead_letter.map(str::to_owned)));
    let details: Vec<String> = stored
        .messages(Stream::Dead)
        .await
        .iter()
        .map(|dead_letter| stored::header(dead_letter, header::DEAD_DETAIL))
        .collect();
    assert!(details.iter().all(|detail| detail.contains("expected")), "{details:?}");
    every_step_is_counted(&testbed).await;
    testbed.up.stop().await;
}

/// A dead letter's subject, reason, attempts and payload.
fn dead_letter(message: &async_nats::jetstream::message::StreamMessage) -> [String; 4] {
    [
        message.subject.to_string(),
        stored::header(message, header::DEAD_REASON),
        stored::header(message, header::DEAD_ATTEMPTS),
        String::from_utf8_lossy(&message.payload).into_owned(),
    ]
}

#[tokio::test]
async fn the_command_sends_one_file_and_a_second_up_is_refused() {
    let testbed = Testbed::start().await;
    the_command_sends_one_file(testbed.ready(), &testbed.dir).await;
    a_second_process_is_refused(&testbed.up, &testbed.dir).await;
    testbed.up.stop().await;
}

async fn the_command_sends_one_file(ready: &Ready, dir: &TempDir) {
    let file = dir.path().join("first.json");
    std::fs::write(&file, publicized("mona")).unwrap();
    let (file, data) = (file.to_str().unwrap(), dir.path().join("data"));
    let arguments = ["send", file, "--event", "repository", "--data-dir", data.to_str().unwrap()];
    let sent = command(PROGRAM, arguments).await;
    assert!(sent.status.success(), "{}", complained(&sent));
    assert!(
        said(&sent).starts_with("202 Accepted: {\"id\":\"github:") || said(&sent).contains("\"status\":\"stored\""),
        "{}",
        said(&sent)
    );

    let secret = ["--secret", "another secret"];
    let refused = command(PROGRAM, arguments.into_iter().chain(secret)).await;
    assert_eq!(refused.status.code(), Some(1));
    let problem = complained(&refused);
    assert!(problem.contains("401 Unauthorized") && problem.contains("signature_wrong"), "{problem}");
    assert!(
        !problem.contains(ready.webhook_secret.as_deref().unwrap()) && !problem.contains("another secret"),
        "{problem}"
    );
}

async fn a_second_process_is_refused(up: &Running, dir: &TempDir) {
    let before = up.ready_now();
    let second = TempDir::new().unwrap();
    let launch = Launch::up(PROGRAM, second.path()).replace("--data-dir", dir.path().join("data"));
    let (code, log) = launch.refused().await;
    assert_eq!(code, Some(1), "{log}");
    let owner = format!("error: another `headrace up` (process {}) runs on the data directory", up.pid());
    assert!(log.contains(&owner), "{log}");
    assert_eq!(up.ready_now(), before);
}

async fn every_step_is_counted(testbed: &Testbed) {
    let series = [
        r#"headrace_ingest_requests_total{reason="accepted"}"#,
        "headrace_ingest_verified_total",
        "headrace_ingest_stored_bytes_total",
        "headrace_ingest_store_seconds_count",
        r#"headrace_published_total{component="normalize"}"#,
        r#"headrace_settled_total{component="normalize",outcome="done"}"#,
        r#"headrace_settled_total{component="normalize",outcome="poison"}"#,
        r#"headrace_dead_letters_total{component="normalize",reason="malformed"}"#,
        r#"headrace_delivered_total{component="clickhouse"}"#,
        r#"headrace_delivered_total{component="clickhouse-raw"}"#,
        r#"headrace_delivered_total{component="file-events"}"#,
        r#"headrace_deliver_seconds_count{component="clickhouse"}"#,
    ];
    testbed.until_counted(&series).await;
    let (_, metrics) = get(&format!("{}/metrics", testbed.ready().metrics)).await;
    for series in [
        r#"headrace_dead_letters_total{component="clickhouse",reason="rejected"}"#,
        r#"headrace_rule_matches_total{rule="#,
        "headrace_build_info{version=",
    ] {
        assert!(metrics.contains(series), "no {series} in\n{metrics}");
    }
    for series in [
        r#"headrace_delivered_total{component="normalize"}"#,
        r#"headrace_published_total{component="clickhouse"}"#,
        r#"headrace_sink_call_seconds_count{component="alert"}"#,
    ] {
        assert_eq!(sample(&metrics, series), None, "{series}");
    }
    for component in ["normalize", "alert", "clickhouse", "clickhouse-raw", "file-events", "file-alerts"] {
        let is_reported = |metrics: &str| {
            let value = |name: &str| sample(metrics, &format!("{name}{{component=\"{component}\"}}"));
            value("headrace_consumer_lag").is_some() && value("headrace_healthy") == Some(1.0)
        };
        testbed.until_metrics(&format!("{component} is healthy and reports its backlog"), is_reported).await;
    }
    testbed.until_metrics("the streams are measured", streams_are_measured).await;
}

/// Whether the streams were measured, which happens every few seconds, with the rights of one of the NATS users.
fn streams_are_measured(metrics: &str) -> bool {
    let is_positive = |series: &str| sample(metrics, series).is_some_and(|value| value > 0.0);
    is_positive(r#"headrace_stream_bytes{stream="RAW"}"#)
        && is_positive(r#"headrace_stream_max_bytes{stream="RAW"}"#)
        && is_positive(r#"headrace_dead_letters_waiting{component="normalize"}"#)
        && sample(metrics, r#"headrace_consumer_oldest_unsettled_seconds{component="clickhouse",stream="EVENTS"}"#)
            .is_some()
}

#[tokio::test]
async fn a_broker_that_hangs_is_answered_503_in_time() {
    let testbed = Testbed::start().await;
    let (ready, hook, stored) = (testbed.ready(), &testbed.hook, &testbed.stored);
    let readyz = format!("{}/readyz", ready.metrics);
    assert_eq!(get(&readyz).await.0, 200);
    freeze(ready.pids["nats"]).await;
    let id = guid();
    let began = Instant::now();
    let refused: Answer = hook.send("repository", &id, publicized("late")).await;
    assert!(began.elapsed() < ANSWER_MAX, "it took {:?}", began.elapsed());
    assert_eq!((refused.status, refused.body["error"].as_str()), (503, Some("broker_away")), "{}", refused.body);
    assert!(refused.headers.contains_key(RETRY_AFTER));
    let (status, why) = get(&readyz).await;
    assert_eq!(status, 503, "{why}");
    signal(ready.pids["nats"], Signal::CONT);

    // Send it again, as the answer asks. The broker may have stored the first request too, but the event is stored once.
    let accepted = async || hook.send("repository", &id, publicized("late")).await.is_stored().then_some(());
    poll::until("the broker is back", CEILING, accepted).await.unwrap();
    stored.settled().await;
    let sql = format!("SELECT count() FROM events WHERE id = 'github:{id}'");
    assert_eq!(stored.rows::<(u64,)>(&sql).await, [(1,)]);
    assert_eq!(get(&readyz).await.0, 200);
    testbed.up.stop().await;
}
