//! Requests that come too often, too slowly or too many at once. They hinder no other sender.

use std::net::SocketAddr;

use futures::future::join_all;
use headrace_ingest::config::Config;
use headrace_runtime::broker::Stream;
use headrace_tests::harness::until;
use headrace_tests::product::hook::{Answer, Hook, answer, guid};
use headrace_tests::product::process::{freeze, signal};
use reqwest::header::RETRY_AFTER;
use rustix::process::Signal;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::{Caller, TestGateway, config};
use crate::{ANSWER_MAX, BODY, explains};

#[tokio::test]
async fn requests_over_the_configured_rate_are_answered_429() {
    let gateway =
        TestGateway::start(Config { requests_per_second_max: std::num::NonZeroU32::new(1), ..config() }).await;
    let hook = gateway.hook();
    let answers = join_all((0..20).map(|_| async { hook.send("ping", &guid(), BODY).await })).await;
    let (stored, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 202);
    assert!(!stored.is_empty() && !refused.is_empty(), "{} of 20 were stored", stored.len());
    for answer in &refused {
        explains(answer, 429, "too_many", "more requests per second than the configured 1");
        assert!(answer.headers.contains_key(RETRY_AFTER));
    }
    assert_eq!(gateway.counted("too_many"), refused.len() as f64);
}

#[tokio::test]
async fn a_slow_body_is_answered_408() {
    let gateway = TestGateway::start(Config { answer_max_ms: 300, ..config() }).await;
    let mut caller = Caller::begin(&gateway, BODY.len(), "").await;
    caller.write(&BODY.as_bytes()[..10]).await;
    let (status, text) = caller.answer().await;
    assert_eq!(status, 408, "{text}");
    assert!(text.contains(r#""error":"body_slow""#) && text.contains("did not arrive within 300ms"), "{text}");
    assert_eq!(gateway.counted("body_slow"), 1.0);
}

#[tokio::test]
async fn bytes_that_trickle_are_cut_off_and_delay_nobody() {
    let gateway = TestGateway::start(Config { answer_max_ms: 2_000, head_max_ms: 2_000, ..config() }).await;
    let (mut heads, mut bodies) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        heads.push(Caller::connect(&gateway).await);
        bodies.push(Caller::begin(&gateway, BODY.len(), "").await);
    }
    let begun = || gateway.metric("headrace_ingest_in_flight") + gateway.counted("body_slow");
    until("the bodies are waited for", || begun() >= 100.0).await;
    // These send a byte at a time, for ever. A limit on the pause between two bytes would not stop them.
    let trickling: JoinSet<()> = heads
        .into_iter()
        .map(|caller| caller.trickle(b"POST /webhooks/github HTTP/1.1\r\nX-Slow: ", None))
        .chain(bodies.into_iter().map(|caller| caller.trickle(b"{", Some("body_slow"))))
        .collect();
    let mut honest = 0;
    while gateway.counted("body_slow") < 100.0 {
        assert_eq!(gateway.hook().send("ping", &guid(), BODY).await.status, 202, "after {honest}");
        honest += 1;
    }
    assert!(honest > 0, "other deliveries are answered meanwhile");
    let ended = tokio::time::timeout(headrace_tests::harness::CEILING, trickling.join_all());
    assert_eq!(ended.await.expect("every connection is cut off").len(), 200);
    assert_eq!(gateway.nats().messages(Stream::Raw).await.len(), honest);
}

#[tokio::test]
async fn a_flood_of_headers_is_refused() {
    let gateway = TestGateway::start(config()).await;
    let many = "X-Many: 1\r\n".repeat(1_000);
    let large = format!("X-Large: {}\r\n", "a".repeat(1 << 20));
    // The end never comes. The gateway must not wait for it.
    let endless = "X-Endless: 1\r\n".repeat(100_000);
    for (headers, end) in [(&many, "\r\n"), (&large, "\r\n"), (&endless, "")] {
        let mut caller = Caller::connect(&gateway).await;
        let head = format!("POST /webhooks/github HTTP/1.1\r\nHost: x\r\n{headers}{end}");
        // The gateway may cut it off before it has sent everything.
        caller.write_some(head.as_bytes()).await;
        assert_eq!(caller.last_status().await, Some(431));
    }
    assert_eq!(gateway.hook().send("ping", &guid(), BODY).await.status, 202);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_stored() {
    let gateway = TestGateway::start(config()).await;
    let mut caller = Caller::begin(&gateway, BODY.len(), "").await;
    caller.write(&BODY.as_bytes()[..10]).await;
    until("the request is under way", || gateway.metric("headrace_ingest_in_flight") == 1.0).await;
    drop(caller);
    until("the request is given up", || gateway.metric("headrace_ingest_in_flight") == 0.0).await;
    assert_eq!(gateway.metric("headrace_ingest_verified_total"), 0.0);
    assert!(gateway.nats().messages(Stream::Raw).await.is_empty());
}

async fn send(hook: Hook, body: Vec<u8>) -> Answer {
    hook.send("ping", &guid(), body).await
}

/// Opens a connection, sends `start`, and begins again whenever the connection is closed.
async fn reopen(address: SocketAddr, start: String) {
    loop {
        let mut caller = Caller::to(address).await;
        caller.write_some(start.as_bytes()).await;
        caller.last_status().await;
    }
}

#[tokio::test]
async fn no_more_requests_are_stored_at_once_than_configured() {
    let gateway = TestGateway::start(Config { in_flight_max: 2, ..config() }).await;
    let hook = gateway.hook();
    // Requests whose bodies are incomplete do not count, however many.
    let mut unfinished = Vec::new();
    for _ in 0..4 {
        let mut caller = Caller::begin(&gateway, BODY.len(), "").await;
        caller.write(&BODY.as_bytes()[..BODY.len() - 1]).await;
        unfinished.push(caller);
    }
    until("they are under way", || gateway.metric("headrace_ingest_in_flight") == 4.0).await;
    assert_eq!(hook.send("ping", &guid(), BODY).await.status, 202);
    // Requests with wrong signatures do not count either.
    let unsigned = || Hook::new(gateway.webhook(""), "guess");
    assert_eq!(unsigned().send("ping", &guid(), BODY).await.status, 401);

    let pid = gateway.nats().server().pid().unwrap();
    freeze(pid).await;
    let held: JoinSet<Answer> = (0..2).map(|_| send(hook.clone(), BODY.into())).collect();
    until("two are being stored", || gateway.metric("headrace_ingest_verified_total") == 3.0).await;
    let began = Instant::now();
    let refused = hook.send("ping", &guid(), BODY).await;
    assert!(began.elapsed() < ANSWER_MAX, "it took {:?}", began.elapsed());
    explains(&refused, 503, "saturated", "nothing was stored");
    assert!(refused.headers.contains_key(RETRY_AFTER));
    assert_eq!(gateway.counted("saturated"), 1.0);

    // The waiting requests get answers. Then there is room again.
    signal(pid, Signal::CONT);
    for answer in held.join_all().await {
        assert!([202, 503].contains(&answer.status), "{}", answer.body);
    }
    let stored = async || hook.send("ping", &guid(), BODY).await.is_stored().then_some(());
    headrace_local::poll::until("there is room again", headrace_tests::harness::CEILING, stored).await.unwrap();
}

#[tokio::test]
async fn no_more_bytes_are_held_than_configured() {
    const BODY_BYTES: usize = 1 << 20;
    const HELD: &str = "headrace_ingest_in_flight_bytes";
    let limits = Config { body_max_bytes: BODY_BYTES, in_flight_max_bytes: 3 * BODY_BYTES, ..config() };
    let gateway = TestGateway::start(limits).await;
    let hook = gateway.hook();
    // An announced body that is not sent takes no room.
    let mut callers = Vec::new();
    for _ in 0..8 {
        let mut caller = Caller::begin(&gateway, BODY_BYTES, "Expect: 100-continue\r\n").await;
        assert_eq!(caller.answer().await.0, 100);
        callers.push(caller);
    }
    assert_eq!(gateway.metric(HELD), 0.0);
    assert_eq!(hook.send("ping", &guid(), BODY).await.status, 202);
    drop(callers);

    // A body that never ends takes room, until another delivery needs it.
    let mut held = Vec::new();
    for count in 1..=3 {
        let mut caller = Caller::begin(&gateway, BODY_BYTES, "").await;
        caller.write(&vec![b' '; BODY_BYTES - 1]).await;
        until("the body is held", || gateway.metric(HELD) == f64::from(count) * BODY_BYTES as f64).await;
        held.push(caller);
    }
    assert_eq!(hook.send("ping", &guid(), BODY).await.status, 202);
    assert_eq!(gateway.dropped("gateway", "body_slow"), 1.0);
    drop(held);
    until("nobody is held", || gateway.metric(HELD) == 0.0).await;

    // A body that is being stored takes room until it is stored.
    let pid = gateway.nats().server().pid().unwrap();
    freeze(pid).await;
    let stored: JoinSet<Answer> = (0..3).map(|_| send(hook.clone(), vec![b' '; BODY_BYTES])).collect();
    until("three are being stored", || gateway.metric("headrace_ingest_verified_total") == 5.0).await;
    let chunks = futures::stream::iter([Ok::<_, std::io::Error>("{}")]);
    let unknown = hook.request("ping", &guid(), "").body(reqwest::Body::wrap_stream(chunks));
    let (known, unknown) = tokio::join!(async { hook.send("ping", &guid(), BODY).await }, answer(unknown));
    explains(&known, 503, "saturated", "nothing was stored");
    explains(&unknown.unwrap(), 503, "saturated", "nothing was stored");
    signal(pid, Signal::CONT);
    stored.join_all().await;
    until("nobody is held", || gateway.metric(HELD) == 0.0).await;
}

#[tokio::test]
async fn no_more_connections_are_held_than_configured() {
    let gateway = TestGateway::start(Config { connections_max: 1, ..config() }).await;
    let first = Caller::begin(&gateway, BODY.len(), "").await;
    until("the first is served", || gateway.metric("headrace_ingest_in_flight") == 1.0).await;
    let mut second = Caller::begin(&gateway, BODY.len(), "").await;
    second.write(BODY.as_bytes()).await;
    assert_eq!(second.answer().await.0, 202);
    assert_eq!(first.last_status().await, None, "the first connection was closed to make room");
    assert_eq!(gateway.dropped("gateway", "body_slow"), 1.0);
    assert_eq!(gateway.metric("headrace_connections{listener=\"gateway\"}"), 1.0);
}

#[tokio::test]
async fn clients_that_reopen_connections_keep_no_sender_out() {
    // By their own time limit they could stay for ten minutes.
    let gateway =
        TestGateway::start(Config { connections_max: 64, in_flight_max: 8, head_max_ms: 600_000, ..config() }).await;
    let address = gateway.address();
    let head = format!(
        "POST /webhooks/github HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\
         X-GitHub-Event: ping\r\nX-GitHub-Delivery: {}\r\nX-Hub-Signature-256: sha256={}\r\n\r\n{{",
        guid(),
        "0".repeat(64)
    );
    let (idle, half_sent) = ((0..80).map(|_| String::new()), (0..20).map(|_| head.clone()));
    let mut clients: JoinSet<()> = idle.chain(half_sent).map(|start| reopen(address, start)).collect();
    until("every place is taken", || gateway.metric("headrace_connections{listener=\"gateway\"}") == 64.0).await;
    for number in 0..10 {
        // Each delivery opens a new connection.
        let sent = tokio::time::timeout(headrace_tests::harness::CEILING, async {
            gateway.hook().send("ping", &guid(), BODY).await
        });
        assert_eq!(sent.await.unwrap_or_else(|_| panic!("{number} is kept out")).status, 202);
    }
    assert!(gateway.dropped("gateway", "idle") >= 1.0);
    clients.abort_all();
    while clients.join_next().await.is_some() {}
}

#[tokio::test]
async fn connections_to_the_port_for_operators_are_limited_too() {
    let gateway = TestGateway::start(config()).await;
    let mut idle = Vec::new();
    for _ in 0..80 {
        idle.push(Caller::to(gateway.admin_address()).await);
    }
    let answer = gateway.http().get(gateway.admin("/metrics")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(gateway.dropped("admin", "idle") >= 1.0);
    assert!(gateway.metric("headrace_connections{listener=\"admin\"}") <= 64.0);
}

#[tokio::test]
async fn a_sender_that_closes_its_side_gets_the_answer() {
    let gateway = TestGateway::start(config()).await;
    let mut caller = Caller::begin(&gateway, BODY.len(), "").await;
    caller.write(BODY.as_bytes()).await;
    caller.close_writing().await;
    assert_eq!(caller.answer().await.0, 202);
    // A sender that closes its side within the body is answered too, and nothing is stored.
    let mut caller = Caller::begin(&gateway, BODY.len(), "").await;
    caller.write(&BODY.as_bytes()[..10]).await;
    caller.close_writing().await;
    until("the request is given up", || gateway.counted("body_broken") == 1.0).await;
    assert_eq!(gateway.nats().messages(Stream::Raw).await.len(), 1);
}
