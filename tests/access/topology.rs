//! Streams that an earlier release or an operator made.

use async_nats::jetstream::stream::{Config, DiscardPolicy};
use headrace_runtime::broker::Stream;
use headrace_runtime::config::Nats;
use headrace_tests::harness::streams;
use tempfile::TempDir;

use super::{User, broker, client, server, violations};
use async_nats::jetstream;

/// A stream as earlier releases made it.
fn earlier(stream: Stream) -> Config {
    Config {
        name: stream.name().to_owned(),
        subjects: vec![stream.subjects().to_owned()],
        max_bytes: 256 << 20,
        discard: DiscardPolicy::New,
        allow_direct: true,
        ..Config::default()
    }
}

#[tokio::test]
async fn streams_of_an_earlier_release_are_protected_from_now_on() {
    let dir = TempDir::new().unwrap();
    let server = server(dir.path()).await;
    let admin = jetstream::new(client(&server, User::Admin).await);
    for stream in Stream::ALL {
        admin.create_stream(earlier(stream)).await.unwrap();
    }
    let bodies = async_nats::jetstream::object_store::Config { bucket: "bodies".to_owned(), ..Default::default() };
    let bodies = admin.create_object_store(bodies).await.unwrap();
    bodies.put("github:1", &mut "body".as_bytes()).await.unwrap();
    // Stricter than we ask for, and it cannot be undone. That must stop nobody.
    admin.update_stream(Config { deny_purge: true, ..earlier(Stream::Alerts) }).await.unwrap();

    let broker = broker(&server, User::Admin).await;
    // Twice, as at every start.
    for _ in 0..2 {
        broker.ensure_topology(&streams()).await.unwrap();
    }
    let mut found = Vec::new();
    for name in Stream::ALL.map(Stream::name).into_iter().chain(["OBJ_bodies"]) {
        let config = admin.get_stream(name).await.unwrap().cached_info().config.clone();
        found.push((name, config.deny_delete, config.deny_purge, config.allow_rollup));
    }
    let expected = [
        ("RAW", true, false, false),
        ("EVENTS", true, false, false),
        ("ALERTS", true, true, false),
        ("DEAD", false, true, false),
        ("CATCHUP", true, false, false),
        ("OBJ_bodies", true, true, false),
    ];
    assert_eq!(found, expected);
    let mut body = String::new();
    let mut object = bodies.get("github:1").await.unwrap();
    tokio::io::AsyncReadExt::read_to_string(&mut object, &mut body).await.unwrap();
    assert_eq!(body, "body");
    server.stop().await;
}

#[tokio::test]
async fn a_user_without_the_right_to_change_streams_finds_them_as_configured() {
    let dir = TempDir::new().unwrap();
    let server = server(dir.path()).await;
    broker(&server, User::Admin).await.ensure_topology(&streams()).await.unwrap();
    for user in [User::Ingest, User::Collect, User::Pipeline, User::Sinks, User::Recover, User::Retention] {
        broker(&server, user).await.ensure_topology(&streams()).await.unwrap();
    }
    assert_eq!(violations(dir.path()), [""; 0]);

    let mut other = streams();
    other.raw.max_bytes = 128 << 20;
    let hasty = Nats { timeout_ms: 500, ..super::settings(&server, User::Ingest) };
    let broker = headrace_runtime::broker::Broker::connect(&hasty, &other, "test").await.unwrap();
    let refused = format!("{:#}", broker.ensure_topology(&other).await.unwrap_err());
    assert!(refused.contains("run `headrace check --migrate` as one who has it"), "{refused}");
    server.stop().await;
}
