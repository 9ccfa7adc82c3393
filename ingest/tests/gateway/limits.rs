//! What comes too often, too slowly or too much at once, and hinders nobody else.

use std::time::Duration;

use futures::future::join_all;
use headrace_ingest::config::Config;
use headrace_runtime::broker::Stream;
use headrace_tests::harness::until;
use headrace_tests::product::hook::{answer, guid};
use reqwest::header::RETRY_AFTER;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::{Caller, Gate, config};
use crate::{ANSWER_MAX, BODY, explains};

#[tokio::test]
async fn more_requests_than_configured_are_asked_to_come_later() {
    let gate = Gate::start(Config { requests_per_second_max: std::num::NonZeroU32::new(1), ..config() }).await;
    let hook = gate.hook();
    let answers = join_all((0..20).map(|_| async { hook.send("ping", &guid(), BODY).await })).await;
    let (stored, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 202);
    assert!(!stored.is_empty() && !refused.is_empty(), "{} of 20 were stored", stored.len());
    for answer in &refused {
        explains(answer, 429, "too_many", "more requests per second than the configured 1");
        assert!(answer.headers.contains_key(RETRY_AFTER));
    }
    assert_eq!(gate.counted("too_many"), refused.len() as f64);
}

#[tokio::test]
async fn a_slow_body_is_given_up() {
    let gate = Gate::start(Config { answer_max_ms: 300, ..config() }).await;
    let mut caller = Caller::begin(&gate, BODY.len(), "").await;
    caller.write(&BODY.as_bytes()[..10]).await;
    let (status, text) = caller.answer().await;
    assert_eq!(status, 408, "{text}");
    assert!(text.contains(r#""error":"body_slow""#) && text.contains("did not arrive within 300ms"), "{text}");
    assert_eq!(gate.counted("body_slow"), 1.0);
}

#[tokio::test]
async fn bytes_that_trickle_are_cut_off_and_delay_nobody() {
    let gate = Gate::start(Config { answer_max_ms: 2_000, head_max_ms: 2_000, ..config() }).await;
    let (mut heads, mut bodies) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        heads.push(Caller::connect(&gate).await);
        bodies.push(Caller::begin(&gate, BODY.len(), "").await);
    }
    let begun = || gate.metric("headrace_ingest_in_flight") + gate.counted("body_slow");
    until("the bodies are waited for", || begun() >= 100.0).await;
    // A byte at a time, for ever: what bounds a pause between two of them bounds nothing.
    let trickling: JoinSet<()> = heads
        .into_iter()
        .map(|caller| caller.trickle(b"POST /webhooks/github HTTP/1.1\r\nX-Slow: ", None))
        .chain(bodies.into_iter().map(|caller| caller.trickle(b"{", Some("body_slow"))))
        .collect();
    let mut honest = 0;
    while gate.counted("body_slow") < 100.0 {
        assert_eq!(gate.hook().send("ping", &guid(), BODY).await.status, 202, "after {honest}");
        honest += 1;
    }
    assert!(honest > 0, "deliveries were answered beside them");
    let ended = tokio::time::timeout(headrace_tests::harness::CEILING, trickling.join_all());
    assert_eq!(ended.await.expect("every one of them was cut off").len(), 200);
    assert_eq!(gate.nats().messages(Stream::Raw).await.len(), honest);
}

#[tokio::test]
async fn a_flood_of_headers_is_refused() {
    let gate = Gate::start(config()).await;
    let many = "X-Many: 1\r\n".repeat(1_000);
    let large = format!("X-Large: {}\r\n", "a".repeat(1 << 20));
    // Never its end: it is not waited for either.
    let endless = "X-Endless: 1\r\n".repeat(100_000);
    for (headers, end) in [(&many, "\r\n"), (&large, "\r\n"), (&endless, "")] {
        let mut caller = Caller::connect(&gate).await;
        let head = format!("POST /webhooks/github HTTP/1.1\r\nHost: x\r\n{headers}{end}");
        // It may be cut off before it has said all.
        caller.write_some(head.as_bytes()).await;
        assert_eq!(caller.last_status().await, Some(431));
    }
    assert_eq!(gate.hook().send("ping", &guid(), BODY).await.status, 202);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_no_event() {
    let gate = Gate::start(config()).await;
    let mut caller = Caller::begin(&gate, BODY.len(), "").await;
    caller.write(&BODY.as_bytes()[..10]).await;
    until("the request is under way", || gate.metric("headrace_ingest_in_flight") == 1.0).await;
    drop(caller);
    until("the request is given up", || gate.metric("headrace_ingest_in_flight") == 0.0).await;
    assert_eq!(gate.metric("headrace_ingest_verified_total"), 0.0);
    assert!(gate.nats().messages(Stream::Raw).await.is_empty());
}

#[tokio::test]
async fn no_more_requests_are_held_than_configured() {
    let gate = Gate::start(Config { in_flight_max: 2, ..config() }).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut caller = Caller::begin(&gate, BODY.len(), "Expect: 100-continue\r\n").await;
        assert_eq!(caller.answer().await.0, 100, "it is let in");
        held.push(caller);
    }
    let began = Instant::now();
    let refused = gate.hook().send("ping", &guid(), BODY).await;
    assert!(began.elapsed() < ANSWER_MAX, "it took {:?}", began.elapsed());
    explains(&refused, 503, "saturated", "nothing was stored");
    assert!(refused.headers.contains_key(RETRY_AFTER));
    assert_eq!(gate.counted("saturated"), 1.0);

    // Whoever is held goes on; then there is room again.
    for mut caller in held {
        caller.write(BODY.as_bytes()).await;
        assert_eq!(caller.answer().await.0, 202);
    }
    assert_eq!(gate.hook().send("ping", &guid(), BODY).await.status, 202);
}

#[tokio::test]
async fn no_more_bytes_are_held_than_configured() {
    const BODY_BYTES: usize = 1 << 20;
    const HELD: &str = "headrace_ingest_in_flight_bytes";
    let limits = Config { body_max_bytes: BODY_BYTES, in_flight_max_bytes: 3 * BODY_BYTES, ..config() };
    let gate = Gate::start(limits).await;
    // Announcements alone keep nobody out.
    let mut callers = Vec::new();
    for _ in 0..8 {
        let mut caller = Caller::begin(&gate, BODY_BYTES, "Expect: 100-continue\r\n").await;
        assert_eq!(caller.answer().await.0, 100);
        callers.push(caller);
    }
    assert_eq!(gate.hook().send("ping", &guid(), BODY).await.status, 202);
    drop(callers);
    until("nobody is held", || gate.metric(HELD) == 0.0).await;

    let mut held = Vec::new();
    for count in 1..=3 {
        let mut caller = Caller::begin(&gate, BODY_BYTES, "").await;
        caller.write(&vec![b' '; BODY_BYTES - 1]).await;
        until("the body is held", || gate.metric(HELD) == f64::from(count) * BODY_BYTES as f64).await;
        held.push(caller);
    }
    let known = gate.hook().send("ping", &guid(), BODY).await;
    explains(&known, 503, "saturated", "nothing was stored");
    let unknown = gate.hook().request("ping", &guid(), "");
    let chunks = futures::stream::iter([Ok::<_, std::io::Error>("{}")]);
    let unknown = answer(unknown.body(reqwest::Body::wrap_stream(chunks))).await.unwrap();
    explains(&unknown, 503, "saturated", "nothing was stored");

    // A caller that goes away leaves its room to others.
    drop(held);
    until("nobody is held", || gate.metric(HELD) == 0.0).await;
    assert_eq!(gate.hook().send("ping", &guid(), BODY).await.status, 202);
}

#[tokio::test]
async fn no_more_connections_are_held_than_configured() {
    let gate = Gate::start(Config { connections_max: 1, ..config() }).await;
    let first = Caller::begin(&gate, BODY.len(), "").await;
    until("the first is served", || gate.metric("headrace_ingest_in_flight") == 1.0).await;
    let mut second = Caller::begin(&gate, BODY.len(), "").await;
    second.write(BODY.as_bytes()).await;
    // Its request waits in the kernel, for as long as the first connection is open.
    assert!(tokio::time::timeout(Duration::from_millis(200), second.answer()).await.is_err());
    assert_eq!(gate.metric("headrace_ingest_in_flight"), 1.0);
    drop(first);
    assert_eq!(second.answer().await.0, 202);
}
