//! Newline-delimited JSON with a bearer token: every answer, packed bodies, many records, and a broker that dies midway.

use std::collections::BTreeSet;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use headrace_ingest::config::Config;
use headrace_ingest::ndjson::config::{Config as Ndjson, Scoped};
use headrace_ingest::tenant::Tenants;
use headrace_runtime::broker::Stream;
use headrace_runtime::secret::Secret;
use headrace_schemas::header;
use headrace_tests::harness::{CEILING, until};
use headrace_tests::product::hook::{Answer, answer};
use headrace_tests::product::process::{freeze, signal};
use reqwest::RequestBuilder;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use rustix::process::Signal;

use crate::support::TestGateway;

const TOKEN: &str = "token-of-all";
const ACMES: &str = "token-of-acme";
const LINE: &str = r#"{"id":"a-1","time":"2025-03-01T12:00:00Z","kind":"login","tenant":"Acme"}"#;

fn config() -> Config {
    let scoped = Scoped { tenants: vec!["Acme EU".to_owned()], tokens: vec![Secret::new(ACMES)] };
    let ndjson = Ndjson { tokens: vec![Secret::new(TOKEN)], scoped: vec![scoped], ..Ndjson::default() };
    Config { ndjson: Some(ndjson), ..Config::default() }
}

/// A request without a token.
fn bare(gateway: &TestGateway, body: impl Into<Vec<u8>>) -> RequestBuilder {
    gateway.http().post(gateway.url("/collect/ndjson")).body(body.into())
}

fn request(gateway: &TestGateway, body: impl Into<Vec<u8>>) -> RequestBuilder {
    bare(gateway, body).bearer_auth(TOKEN)
}

async fn send(gateway: &TestGateway, body: impl Into<Vec<u8>>) -> Answer {
    answer(request(gateway, body)).await.unwrap()
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn lines(ids: std::ops::Range<usize>) -> String {
    ids.map(|id| format!("{{\"id\":{id},\"time\":1740830400,\"kind\":\"login\",\"actor\":\"mona\"}}\n")).collect()
}

/// Checks an answer's numbers: status, word, records and duplicates.
fn told(answer: &Answer) -> (u16, &str, u64, u64) {
    let number = |name: &str| answer.body[name].as_u64().unwrap_or_else(|| panic!("{}", answer.body));
    (answer.status, answer.body["status"].as_str().unwrap(), number("records"), number("duplicates"))
}

async fn stored(gateway: &TestGateway) -> u64 {
    gateway.nats().jetstream().get_stream(Stream::Raw.name()).await.unwrap().cached_info().state.messages
}

#[tokio::test]
async fn each_line_is_stored_as_it_was_sent() {
    let tenants = Tenants { by_login: [("acme".to_owned(), "Acme EU".to_owned())].into() };
    let gateway = TestGateway::with_tenants(config(), &tenants).await;
    let other = r#" {"id":7,"time":1740830400.5, "tenant":"octo"} "#;
    let body = format!("{LINE}\r\n\r\n{other}");
    assert_eq!(told(&send(&gateway, body.clone()).await), (202, "stored", 2, 0));
    assert_eq!(told(&send(&gateway, body).await), (200, "duplicate", 2, 2));
    // Another body under a known id is a delivery of its own. The same line twice is one.
    let third = LINE.replace("login", "logout");
    assert_eq!(told(&send(&gateway, format!("{third}\n{LINE}\n{third}\n")).await), (202, "stored", 3, 2));

    let messages = gateway.nats().messages(Stream::Raw).await;
    let found = |at: usize, name: &str| messages[at].headers.get(name).map(ToString::to_string).unwrap_or_default();
    let payloads: Vec<&[u8]> = messages.iter().map(|message| &message.payload[..]).collect();
    assert_eq!(payloads, [LINE.as_bytes(), other.as_bytes(), third.as_bytes()]);
    let subjects: Vec<&str> = messages.iter().map(|message| message.subject.as_str()).collect();
    assert_eq!(subjects, ["raw.acme_20eu.ndjson.login", "raw.octo.ndjson.record", "raw.acme_20eu.ndjson.logout"]);
    assert_eq!((found(0, header::ID), found(1, header::ID)), ("ndjson:a-1".to_owned(), "ndjson:7".to_owned()));
    assert_eq!(found(0, header::EVENT_TIME), "1740830400000000");
    assert_eq!(found(1, header::EVENT_TIME), "1740830400500000");
    assert_eq!((found(0, header::SOURCE).as_str(), found(0, header::CONTENT_TYPE).as_str()), ("ndjson", ""));
    let records = |outcome: &str| {
        gateway.metric(&format!("headrace_ingest_records_total{{source=\"ndjson\",outcome=\"{outcome}\"}}"))
    };
    assert_eq!((records("stored"), records("duplicate")), (3.0, 4.0));
}

#[tokio::test]
async fn every_refusal_has_a_status_and_a_code() {
    let ndjson = Ndjson { records_max: 3, ..config().ndjson.unwrap() };
    let gateway = TestGateway::start(Config { body_max_bytes: 4_096, ndjson: Some(ndjson), ..config() }).await;
    let with = |line: &str| request(&gateway, format!("{LINE}\n{line}"));
    let acmes = |tenant: &str| bare(&gateway, format!("{{\"id\":1,\"time\":1{tenant}}}")).bearer_auth(ACMES);
    let typed = |media_type: &str| request(&gateway, LINE).header(CONTENT_TYPE, media_type);
    let packed = |encoding: &str| request(&gateway, LINE).header(CONTENT_ENCODING, encoding);
    for (request, status, code, words) in [
        (bare(&gateway, LINE), 401, "token_missing", "expected the header Authorization with `Bearer`"),
        (bare(&gateway, LINE).basic_auth("a", Some(TOKEN)), 401, "token_missing", "found none"),
        (bare(&gateway, LINE).bearer_auth("token-of-al"), 401, "token_wrong", "none of those configured here"),
        (bare(&gateway, "not read").bearer_auth("guess"), 401, "token_wrong", "none of those configured here"),
        (acmes(",\"tenant\":\"octo\""), 403, "token_foreign", "line 1: the token does not cover"),
        (acmes(",\"tenant\":\"acme_20eu\""), 403, "token_foreign", "line 1: "),
        (acmes(""), 403, "token_foreign", "line 1: "),
        (typed("application/x-www-form-urlencoded"), 415, "unsupported_type", "application/x-ndjson"),
        (packed("br"), 415, "unsupported_encoding", "content encoding gzip, or without any, found `br`"),
        (packed("gzip"), 400, "body_unpackable", "pack it as its Content-Encoding says"),
        (with("[]"), 400, "line_malformed", "line 2: expected one JSON object in the line, found an array"),
        (with("{\"id\":\"x"), 400, "line_malformed", "line 2: "),
        (with("{\"time\":1}"), 400, "id_missing", "line 2: expected the field `id`, found none"),
        (with("{\"id\":true}"), 400, "id_malformed", "found a truth value"),
        (with("{\"id\":1}"), 400, "time_missing", "line 2: expected the field `time`, found none"),
        (with("{\"id\":1,\"time\":\"x\"}"), 400, "time_malformed", "RFC 3339 text"),
        (with("{\"id\":1,\"time\":9000000000}"), 400, "time_ahead", "is the sender's clock right?"),
        (with("{\"id\":1,\"time\":1,\"kind\":[]}"), 400, "kind_malformed", "found an array"),
        (with("{\"id\":1,\"time\":1,\"tenant\":{}}"), 400, "tenant_malformed", "found an object"),
        (with(&lines(1..4)), 400, "too_many_records", "at most 3 records in a request, found more in line 4"),
        (request(&gateway, "\n \r\n"), 400, "no_records", "found no line that is not blank"),
        (request(&gateway, ""), 400, "no_records", "found no line that is not blank"),
        (request(&gateway, vec![b' '; 4_097]), 413, "body_too_large", "at most 4096 bytes"),
        (gateway.http().get(gateway.url("/collect/ndjson")), 405, "method_not_allowed", "found GET"),
        (
            gateway.http().post(gateway.webhook("")).body(LINE),
            404,
            "unknown_path",
            "what is sent goes to /collect/ndjson",
        ),
    ] {
        let before = gateway.counted(code);
        let answer = answer(request).await.unwrap();
        let text = answer.body.to_string();
        assert_eq!((answer.status, answer.body["error"].as_str()), (status, Some(code)), "{text}");
        assert!(answer.body["message"].as_str().unwrap().contains(words), "expected `{words}` in {text}");
        assert!(!text.contains("token-of") && !text.contains("octo") && !text.contains("login"), "{text}");
        assert_eq!(gateway.counted(code), before + 1.0, "{code} is counted");
    }
    assert_eq!(stored(&gateway).await, 0, "nothing of a refused request is stored");
    let acmes = acmes(",\"tenant\":\"ACME EU\"");
    assert_eq!(told(&answer(acmes).await.unwrap()), (202, "stored", 1, 0));
}

#[tokio::test]
async fn a_packed_body_is_unpacked_within_the_limit() {
    const MAX: usize = 1 << 20;
    let gateway = TestGateway::start(Config { body_max_bytes: MAX, in_flight_max_bytes: 4 * MAX, ..config() }).await;
    let packed = |body: Vec<u8>| request(&gateway, body).header(CONTENT_ENCODING, "gzip");
    let many = lines(0..5_000);
    assert_eq!(told(&answer(packed(gzip(many.as_bytes()))).await.unwrap()), (202, "stored", 5_000, 0));
    assert_eq!(told(&send(&gateway, many.clone()).await), (200, "duplicate", 5_000, 5_000));

    // A bomb: packed it is within the limit, unpacked it is a hundred times as large. The gateway's room is too small for
    // all of it, so the answer would be another if more were unpacked than a body may have.
    let bomb = gzip(&vec![b' '; 100 * MAX]);
    assert!(bomb.len() < MAX);
    for (token, status, code) in [(TOKEN, 413, "body_too_large"), ("guess", 401, "token_wrong")] {
        let request = bare(&gateway, bomb.clone()).bearer_auth(token).header(CONTENT_ENCODING, "gzip");
        let answer = answer(request).await.unwrap();
        assert_eq!((answer.status, answer.body["error"].as_str()), (status, Some(code)), "{}", answer.body);
    }
    let broken = gzip(many.as_bytes())[..1_000].to_vec();
    let answer = answer(packed(broken)).await.unwrap();
    assert_eq!((answer.status, answer.body["error"].as_str()), (400, Some("body_unpackable")), "{}", answer.body);
    assert_eq!(gateway.metric("headrace_ingest_in_flight_bytes"), 0.0);
    assert_eq!(stored(&gateway).await, 5_000);
}

#[tokio::test]
async fn a_packed_body_needs_little_more_room_than_an_unpacked_one() {
    const MAX: usize = 4 << 20;
    let limits = Config { body_max_bytes: MAX, in_flight_max_bytes: MAX + (2 << 20), ..config() };
    let gateway = TestGateway::start(limits).await;
    // Random digits, which are half as long when they are packed.
    let digits = || hex::encode(rand::random_iter::<u8>().take(4_000).collect::<Vec<u8>>());
    let line = |id: usize| format!("{{\"id\":{id},\"time\":1740830400,\"text\":\"{}\"}}\n", digits());
    let body: String = (0..500).map(line).collect();
    let packed = gzip(body.as_bytes());
    assert!(body.len() < MAX && body.len() + packed.len() > MAX + (2 << 20));
    let sent = request(&gateway, packed).header(CONTENT_ENCODING, "gzip");
    assert_eq!(told(&answer(sent).await.unwrap()), (202, "stored", 500, 0));
    assert_eq!(gateway.metric("headrace_ingest_in_flight_bytes"), 0.0);
}

#[tokio::test]
async fn records_take_room_besides_their_body() {
    const MAX: usize = 1 << 20;
    let limits = Config { body_max_bytes: MAX, in_flight_max_bytes: 3 * MAX, ..config() };
    let gateway = TestGateway::start(limits).await;
    // 5,000 records of a few bytes: their body takes a tenth of the room, and they take most of the rest.
    let (first, second) = (lines(0..5_000), lines(5_000..10_000));
    assert!(first.len() < MAX / 2);
    let server = gateway.nats().server().pid().unwrap();
    freeze(server).await;
    let refused = async {
        until("the records have room", || gateway.metric("headrace_ingest_in_flight_bytes") > (2 * MAX) as f64).await;
        let refused = send(&gateway, second.clone()).await;
        signal(server, Signal::CONT);
        refused
    };
    let (stored_first, refused) = tokio::join!(send(&gateway, first), refused);
    assert_eq!((refused.status, refused.body["error"].as_str()), (503, Some("saturated")), "{}", refused.body);
    assert_eq!(told(&stored_first), (202, "stored", 5_000, 0));
    // Alone, they are taken even where they need more room than there is.
    let limits = Config { body_max_bytes: MAX, in_flight_max_bytes: MAX, ..config() };
    let small = TestGateway::start(limits).await;
    assert_eq!(told(&send(&small, second).await), (202, "stored", 5_000, 0));
    assert_eq!(small.metric("headrace_ingest_in_flight_bytes"), 0.0);
}

#[tokio::test]
async fn ten_thousand_records_are_stored_before_the_answer() {
    let gateway = TestGateway::start(config()).await;
    let answer = send(&gateway, lines(0..10_000)).await;
    assert_eq!(stored(&gateway).await, 10_000);
    assert_eq!(told(&answer), (202, "stored", 10_000, 0));
    // One more in a request that was sent before: only that one is new.
    assert_eq!(told(&send(&gateway, lines(1..10_001)).await), (202, "stored", 10_000, 9_999));
    assert_eq!(stored(&gateway).await, 10_001);
    let refused = send(&gateway, lines(0..10_001)).await;
    assert_eq!((refused.status, refused.body["error"].as_str()), (400, Some("too_many_records")));
}

#[tokio::test]
async fn a_request_whose_broker_died_midway_is_sent_again_and_stored_once() {
    const RECORDS: usize = 4_000;
    // Long lines, so that storing them takes a while.
    let text = "x".repeat(2_000);
    let line = |id: usize| format!("{{\"id\":{id},\"time\":1740830400,\"text\":\"{text}\"}}\n");
    let gateway = TestGateway::start(config()).await;
    let mut sent = 0;
    // The broker may confirm the last record before it dies. Then the next request is the one that dies midway.
    let refused = loop {
        let body: String = (sent..sent + RECORDS).map(line).collect();
        let before = stored(&gateway).await;
        let pid = gateway.nats().server().pid().unwrap();
        let kill = async {
            let some = async || (stored(&gateway).await > before).then_some(());
            headrace_local::poll::until("some records are stored", CEILING, some).await.unwrap();
            signal(pid, Signal::KILL);
        };
        let (answer, ()) = tokio::join!(send(&gateway, body.clone()), kill);
        sent += RECORDS;
        let again = async || {
            let answer = send(&gateway, body.clone()).await;
            answer.is_stored().then(|| answer.body["records"].as_u64())
        };
        // Whoever supervises the server starts it again. A sender sends the whole request again until it is stored.
        let records = headrace_local::poll::until("it is stored", CEILING, again).await.unwrap();
        assert_eq!(records, Some(RECORDS as u64));
        if !answer.is_stored() {
            break answer;
        }
    };
    assert_eq!((refused.status, refused.body["error"].as_str()), (503, Some("broker_away")), "{}", refused.body);
    assert!(refused.headers.contains_key(RETRY_AFTER));
    let messages = gateway.nats().messages(Stream::Raw).await;
    let ids: BTreeSet<&str> =
        messages.iter().map(|message| message.headers.get(header::ID).unwrap().as_str()).collect();
    assert_eq!((messages.len(), ids.len()), (sent, sent), "each record is in RAW once");
}
