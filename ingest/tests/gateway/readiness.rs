//! `/readyz` tells whether the next delivery can be stored.

use async_nats::jetstream::stream;
use headrace_local::poll;
use headrace_runtime::broker::Stream;
use headrace_tests::harness::CEILING;
use headrace_tests::product::admin::get;
use headrace_tests::product::hook::guid;
use headrace_tests::product::process::{freeze, signal};
use rustix::process::Signal;
use serde_json::Value;

use crate::BODY;
use crate::support::{TestGateway, config};

/// Status and body of `/readyz`.
async fn ready(gateway: &TestGateway) -> (u16, Value) {
    let (status, text) = get(&gateway.admin("/readyz")).await;
    (status, serde_json::from_str(&text).unwrap())
}

/// Waits until `/readyz` answers with `status`, and its text for the gateway contains `why`.
async fn until_ready(gateway: &TestGateway, status: u16, why: &str) {
    let answers = async || {
        let (found, body) = ready(gateway).await;
        (found == status && body["gateway"].as_str().unwrap_or_default().contains(why)).then_some(())
    };
    poll::until("readiness", CEILING, answers).await.unwrap_or_else(|_| panic!("expected {status} {why}"));
}

async fn set_messages_max(gateway: &TestGateway, max_messages: i64) {
    let raw = gateway.nats().jetstream().get_stream(Stream::Raw.name()).await.unwrap();
    let config = stream::Config { max_messages, ..raw.cached_info().config.clone() };
    gateway.nats().jetstream().update_stream(config).await.unwrap();
}

#[tokio::test]
async fn a_full_stream_makes_the_gateway_unready() {
    let gateway = TestGateway::start(config()).await;
    set_messages_max(&gateway, 1).await;
    assert_eq!(gateway.hook().send("ping", &guid(), BODY).await.status, 202);
    assert_eq!(gateway.hook().send("ping", &guid(), BODY).await.status, 503);
    let (status, body) = ready(&gateway).await;
    assert_eq!((status, body["ready"].as_bool()), (503, Some(false)), "{body}");
    assert_eq!(body["gateway"], "the last delivery was not stored (stream_full)");
    assert_eq!(body["components"]["ingest"]["state"], "degraded");
    assert!(body["broker"].is_null(), "the broker answers: {body}");
    // A gateway that is not ready gets no deliveries. So after a while it asks the stream itself.
    until_ready(&gateway, 503, "the stream RAW is full").await;
    set_messages_max(&gateway, -1).await;
    until_ready(&gateway, 200, "").await;
    assert_eq!(ready(&gateway).await.1["components"]["ingest"]["state"], "healthy");
}

#[tokio::test]
async fn a_stored_delivery_makes_the_gateway_ready_at_once() {
    let gateway = TestGateway::start(config()).await;
    assert_eq!(ready(&gateway).await.0, 200);
    set_messages_max(&gateway, 1).await;
    assert_eq!(gateway.hook().send("ping", &guid(), BODY).await.status, 202);
    assert_eq!(gateway.hook().send("ping", &guid(), BODY).await.status, 503);
    assert_eq!(ready(&gateway).await.0, 503);
    set_messages_max(&gateway, -1).await;
    assert_eq!(gateway.hook().send("ping", &guid(), BODY).await.status, 202);
    assert_eq!(ready(&gateway).await.0, 200);
}

#[tokio::test]
async fn a_suspended_broker_makes_the_gateway_unready() {
    let gateway = TestGateway::start(config()).await;
    assert_eq!(ready(&gateway).await.0, 200);
    let pid = gateway.nats().server().pid().unwrap();
    freeze(pid).await;
    let (status, body) = ready(&gateway).await;
    assert_eq!((status, body["broker"].as_str()), (503, Some("NATS does not answer")), "{body}");
    signal(pid, Signal::CONT);
    until_ready(&gateway, 200, "").await;
}

#[tokio::test]
async fn readiness_and_metrics_are_served_only_on_the_operators_port() {
    let gateway = TestGateway::start(config()).await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(get(&gateway.admin(path)).await.0, 200, "{path}");
        let public = if path == "/healthz" { 200 } else { 404 };
        assert_eq!(get(&gateway.url(path)).await.0, public, "{path}");
    }
    assert_eq!(gateway.counted("unknown_path"), 2.0);
}
