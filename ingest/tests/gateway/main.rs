//! The gateway alone, on a real nats-server. It gives every answer with its reason, and in time.

#![allow(clippy::unwrap_used, reason = "all of this program is a test")]

mod asked;
mod collect;
mod example;
mod identity;
mod limits;
mod ndjson;
mod readiness;
mod scopes;
mod support;
mod unfit;

use std::time::Duration;

use headrace_ingest::config::Config;
use headrace_runtime::broker::Stream;
use headrace_schemas::header;
use headrace_schemas::id::EventId;
use headrace_tests::harness::Nats;
use headrace_tests::product::hook::{Answer, Hook, answer, guid, signature};
use headrace_tests::product::process::{freeze, signal};
use reqwest::header::{ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use rustix::process::Signal;
use support::{Caller, SECRET, TestGateway, config};
use tokio::time::Instant;

/// The gateway always answers within this time, because GitHub waits for 10 s.
const ANSWER_MAX: Duration = Duration::from_secs(8);
const BODY: &str = r#"{"zen":"Keep it logically awesome.","organization":{"login":"Acme"}}"#;
const FORM: &str = "application/x-www-form-urlencoded";

#[tokio::test]
async fn a_delivery_is_stored_as_it_was_sent() {
    let gateway = TestGateway::start(config()).await;
    let guid = guid();
    let sent = gateway.hook().send("ping", &guid.to_uppercase(), BODY).await;
    assert_eq!((sent.status, sent.body["status"].as_str()), (202, Some("stored")));
    assert_eq!(sent.body["id"], format!("github:{guid}"));
    let again = gateway.hook().send("ping", &guid, BODY).await;
    assert_eq!((again.status, again.body["status"].as_str()), (200, Some("duplicate")));
    assert_eq!(again.body["id"], sent.body["id"]);

    let messages = gateway.nats().messages(Stream::Raw).await;
    let [message] = messages.as_slice() else { panic!("one delivery, one message: {messages:?}") };
    assert_eq!(message.subject.as_str(), "raw.acme.github.ping");
    assert_eq!(message.payload, BODY);
    let found = |name: &str| message.headers.get(name).unwrap().to_string();
    assert_eq!(found(header::GITHUB_SIGNATURE), signature(SECRET, BODY.as_bytes()));
    assert_eq!(found(header::GITHUB_EVENT), "ping");
    assert_eq!(found(header::ID), format!("github:{guid}"));
    assert_eq!(found(header::CONTENT_TYPE), "application/json");
    assert!(EventId::github(&guid).created_at().is_some() && message.headers.get(header::EVENT_TIME).is_none());
    assert_eq!((gateway.counted("accepted"), gateway.counted("duplicate")), (1.0, 1.0));
    assert_eq!(gateway.metric("headrace_ingest_verified_total"), 2.0);
}

#[tokio::test]
async fn every_refusal_has_a_status_and_a_reason() {
    let gateway = TestGateway::start(Config { body_max_bytes: 4_096, ..config() }).await;
    let hook = gateway.hook();
    let form = |body: &str| {
        let media_type = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(FORM))]);
        hook.request("ping", &guid(), body).headers(media_type)
    };
    let bare = || gateway.http().post(gateway.webhook("")).header(CONTENT_TYPE, "application/json").body(BODY);
    let typed = |media_type: &str| gateway.http().post(gateway.webhook("")).header(CONTENT_TYPE, media_type).body(BODY);
    let signed = |value: &str| hook.unsigned("ping", &guid(), BODY).header(header::GITHUB_SIGNATURE, value);
    let chunks = || futures::stream::iter((0..9).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1_024])));
    let chunked = || hook.request("ping", &guid(), "").body(reqwest::Body::wrap_stream(chunks()));
    // The signature is good, so that only the encoding is wrong.
    let packed = |encoding: &str| hook.request("ping", &guid(), BODY).header(CONTENT_ENCODING, encoding);
    let good = signature(SECRET, BODY.as_bytes());
    for (request, status, reason, words) in [
        (bare(), 400, "missing_header", "expected the header X-GitHub-Event, found none"),
        (bare().header("X-GitHub-Event", "ping"), 400, "missing_header", "expected the header X-GitHub-Delivery"),
        (hook.request("p.i>n*g", &guid(), BODY), 400, "bad_header", "an event kind such as `push`"),
        (hook.request("", &guid(), BODY), 400, "bad_header", "an event kind"),
        (hook.request(&"p".repeat(65), &guid(), BODY), 400, "bad_header", "an event kind"),
        (hook.request("ping", "one", BODY), 400, "bad_header", "expected a GUID as GitHub writes it"),
        (hook.request("ping", &format!("{{{}}}", guid()), BODY), 400, "bad_header", "without braces or prefix"),
        (hook.request("ping", &format!("urn:uuid:{}", guid()), BODY), 400, "bad_header", "without braces or prefix"),
        (hook.request("ping", &guid().replace('-', ""), BODY), 400, "bad_header", "with hyphens"),
        (form("other=1"), 400, "missing_payload", "expected a form with the field `payload`"),
        (hook.unsigned("ping", &guid(), BODY), 401, "signature_missing", "set a secret for the webhook"),
        (signed(&good[..70]), 401, "signature_malformed", "64 hex digits"),
        (signed(&good.replace("sha256=", "sha1=")), 401, "signature_malformed", "expected `sha256=`"),
        (signed(&signature("guess", BODY.as_bytes())), 401, "signature_wrong", "does not match the body"),
        (signed(&signature(SECRET, b"{}")), 401, "signature_wrong", "does not match the body"),
        (gateway.http().post(gateway.url("/webhooks/gitlab")).body(BODY), 404, "unknown_path", "/webhooks/github"),
        (gateway.http().get(gateway.url("/metrics")), 404, "unknown_path", "nothing is served at this path"),
        (gateway.http().get(gateway.url("/readyz")), 404, "unknown_path", "nothing is served at this path"),
        (gateway.http().get(gateway.webhook("")), 405, "method_not_allowed", "expected POST, found GET"),
        (
            gateway.http().put(gateway.webhook("/security")).body(BODY),
            405,
            "method_not_allowed",
            "expected POST, found PUT",
        ),
        (hook.request("ping", &guid(), vec![b' '; 4_097]), 413, "body_too_large", "at most 4096 bytes"),
        (chunked(), 413, "body_too_large", "at most 4096 bytes"),
        (packed("gzip"), 415, "unsupported_encoding", "expected a body without a content encoding, found `gzip`"),
        (packed("deflate"), 415, "unsupported_encoding", "found `deflate`"),
        (packed("br"), 415, "unsupported_encoding", "found `br`"),
        (packed("identity, gzip"), 415, "unsupported_encoding", "found `identity, gzip`"),
        (typed("text/plain"), 415, "unsupported_type", "found `text/plain`"),
        (typed("application/jsonp"), 415, "unsupported_type", "expected the content type application/json"),
    ] {
        let before = gateway.counted(reason);
        let answer = answer(request).await.unwrap();
        explains(&answer, status, reason, words);
        assert_eq!(gateway.counted(reason), before + 1.0, "{reason} is counted");
        assert_eq!(answer.headers.get(ALLOW).is_some(), status == 405);
        assert!(!answer.headers.contains_key(RETRY_AFTER));
    }
    assert_eq!(gateway.metric("headrace_ingest_in_flight"), 0.0);
    assert!(gateway.nats().messages(Stream::Raw).await.is_empty());
}

#[tokio::test]
async fn a_refusal_reaches_a_sender_that_still_writes() {
    let gateway = TestGateway::start(Config { body_max_bytes: 1 << 20, ..config() }).await;
    // Far more than fits into the buffers of two sockets.
    let large = || vec![b' '; 32 << 20];
    let unsigned = |path: &str| Hook::new(gateway.url(path), SECRET).unsigned("ping", &guid(), large());
    for (request, status) in [
        (gateway.http().post(gateway.webhook("")).body(large()), 415),
        (unsigned("/webhooks/github"), 401),
        (gateway.hook().request("ping", &guid(), large()), 413),
        (unsigned("/webhooks/github/ping"), 404),
        (gateway.http().put(gateway.webhook("")).body(large()), 405),
    ] {
        assert_eq!(answer(request).await.unwrap().status, status);
    }
}

/// Checks an answer's status, reason and message. The answer must reveal no secret and no signature.
fn explains(answer: &Answer, status: u16, reason: &str, words: &str) {
    let text = answer.body.to_string();
    assert_eq!((answer.status, answer.body["error"].as_str()), (status, Some(reason)), "{text}");
    assert!(answer.body["message"].as_str().unwrap().contains(words), "expected `{words}` in {text}");
    let signature = signature(SECRET, BODY.as_bytes());
    assert!(!text.contains(SECRET) && !text.contains(&signature["sha256=".len()..]), "{text}");
}

#[tokio::test]
async fn each_path_accepts_only_its_family() {
    let gateway = TestGateway::start(config()).await;
    let families = [
        ("repository", "push"),
        ("organization", "team"),
        ("security", "code_scanning_alert"),
        ("collaboration", "issues"),
    ];
    for (path, _) in families {
        let hook = Hook::new(gateway.webhook(&format!("/{path}")), SECRET);
        for (belongs, kind) in families {
            let answer = hook.send(kind, &guid(), BODY).await;
            if belongs == path {
                assert_eq!(answer.status, 202, "{kind} at {path}: {}", answer.body);
            } else {
                let words =
                    format!("this path accepts {path} events; `{kind}` belongs to /webhooks/github/{belongs} or");
                explains(&answer, 400, "wrong_family", &words);
            }
        }
        // Every path accepts `ping`, and kinds that did not exist when this was written.
        for kind in ["ping", "quantum_entanglement"] {
            assert_eq!(hook.send(kind, &guid(), BODY).await.status, 202, "{kind} at {path}");
        }
    }
    assert_eq!(gateway.counted("wrong_family"), 12.0);
}

#[tokio::test]
async fn a_delivery_is_answered_503_in_time_when_the_broker_hangs() {
    let gateway = TestGateway::start(config()).await;
    let pid = gateway.nats().server().pid().unwrap();
    freeze(pid).await;
    let hook = gateway.hook();
    let send = async |body: Vec<u8>| hook.send("ping", &guid(), body).await;
    let began = Instant::now();
    // A body that fits in a message, and one that would go to the object store.
    let (small, large) = tokio::join!(send(BODY.into()), send(vec![b' '; 9 << 20]));
    assert!(began.elapsed() < ANSWER_MAX, "it took {:?}", began.elapsed());
    for answer in [small, large] {
        explains(&answer, 503, "broker_away", "send it again");
        assert!(answer.headers.contains_key(RETRY_AFTER));
    }
    assert_eq!(gateway.counted("broker_away"), 2.0);
    signal(pid, Signal::CONT);
    let stored = async || gateway.hook().send("ping", &guid(), BODY).await.is_stored().then_some(());
    headrace_local::poll::until("the broker is back", headrace_tests::harness::CEILING, stored).await.unwrap();
}

#[tokio::test]
async fn without_a_connection_deliveries_are_answered_503_at_once() {
    let gateway = TestGateway::start(config()).await;
    let hook = gateway.hook();
    let gateway = gateway.without_nats().await;
    let refused = async || {
        let began = Instant::now();
        let answer = hook.send("ping", &guid(), BODY).await;
        explains(&answer, 503, "broker_away", "send it again");
        assert!(answer.headers.contains_key(RETRY_AFTER));
        // Far less than the timeout of a confirmation, because the gateway knows that the broker is away.
        (began.elapsed() < Duration::from_secs(1)).then_some(())
    };
    headrace_local::poll::until("it answers at once", headrace_tests::harness::CEILING, refused).await.unwrap();
    assert!(gateway.counted("broker_away") >= 1.0);
}

#[tokio::test]
async fn a_delivery_to_a_full_stream_is_answered_503() {
    let gateway = TestGateway::start(config()).await;
    let raw = gateway.nats().jetstream().get_stream(Stream::Raw.name()).await.unwrap();
    let full = async_nats::jetstream::stream::Config { max_messages: 1, ..raw.cached_info().config.clone() };
    gateway.nats().jetstream().update_stream(full).await.unwrap();
    assert_eq!(gateway.hook().send("ping", &guid(), BODY).await.status, 202);
    let refused = gateway.hook().send("ping", &guid(), BODY).await;
    explains(&refused, 503, "stream_full", "the stream RAW is full");
    assert!(refused.headers.contains_key(RETRY_AFTER));
    assert_eq!(gateway.counted("stream_full"), 1.0);
    assert_eq!(gateway.nats().messages(Stream::Raw).await.len(), 1);
}

#[tokio::test]
async fn a_stopping_gateway_answers_accepted_requests() {
    let gateway = TestGateway::start(config()).await;
    let mut caller = Caller::begin(&gateway, BODY.len(), "Expect: 100-continue\r\n").await;
    assert_eq!(caller.answer().await.0, 100);
    let nats: &Nats = gateway.nats();
    gateway.stop();
    let address = gateway.address();
    let closed = async || tokio::net::TcpStream::connect(address).await.is_err().then_some(());
    headrace_local::poll::until("new connections are refused", headrace_tests::harness::CEILING, closed).await.unwrap();
    caller.write(BODY.as_bytes()).await;
    assert_eq!(caller.answer().await.0, 202);
    assert_eq!(nats.messages(Stream::Raw).await.len(), 1);
}
