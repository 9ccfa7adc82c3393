//! What each user may do and what it may not. A stranger may do nothing.

use std::path::Path;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::pull::Config;
use futures::StreamExt as _;
use headrace::nats::users::User;
use headrace_local::{nats, poll};
use headrace_runtime::broker::{Broker, Stream};
use headrace_runtime::config::Nats;
use headrace_runtime::message::payload::RawDelivery;
use headrace_runtime::publish::Publisher;
use headrace_schemas::alert::Alert;
use headrace_schemas::event::Event;
use headrace_tests::harness::samples::Sample;
use headrace_tests::harness::{CEILING, streams};
use tempfile::TempDir;

use super::wire::Wire;
use super::{broker, client, server, violations};

/// Requests that remove or change stored messages, or read them without a consumer of one's own.
const REQUESTS: [&str; 12] = [
    "$JS.API.STREAM.PURGE.RAW",
    "$JS.API.STREAM.PURGE.EVENTS",
    "$JS.API.STREAM.PURGE.DEAD",
    "$JS.API.STREAM.PURGE.OBJ_bodies",
    "$JS.API.STREAM.DELETE.RAW",
    "$JS.API.STREAM.UPDATE.RAW",
    "$JS.API.STREAM.CREATE.COPY",
    "$JS.API.STREAM.MSG.DELETE.DEAD",
    "$JS.API.STREAM.SNAPSHOT.RAW",
    "$JS.API.CONSUMER.DELETE.EVENTS.clickhouse",
    "$JS.API.DIRECT.GET.RAW",
    "$JS.API.CONSUMER.CREATE.RAW",
];
/// A subject of each stream.
const RAW: &str = "raw.acme.github.push";
const EVENT: &str = "events.scored.acme.code.high";
const ALERT: &str = "alerts.acme.high.rule";
const DEAD: &str = "dead.normalize.acme";
/// Everything. A subscriber may subscribe to some of it, and only the admin to all.
const ALL: [&str; 7] = ["raw.>", "events.>", "alerts.>", "dead.>", "$KV.>", "$O.>", "$JS.>"];
/// Subjects to which only the admin may subscribe.
const INBOXES: [&str; 3] = [">", "_INBOX.>", "_INBOX_admin.>"];

#[tokio::test]
async fn a_stranger_is_refused_and_sees_nothing() {
    let dir = TempDir::new().unwrap();
    let server = server(dir.path()).await;
    for login in [None, Some(("admin", "guessed")), Some(("stranger", "password of admin"))] {
        let refusal = Wire::connect(&server, login).await.err().unwrap();
        assert!(refusal.contains("Authorization Violation"), "{login:?}: {refusal}");
    }
    let nats = Nats { url: server.url().replace("://", "://admin:guessed@"), ..Nats::default() };
    let refused = format!("{:#}", Broker::connect(&nats, &streams(), "test").await.err().unwrap());
    assert!(refused.contains("***@") && refused.contains("as the user `admin`"), "{refused}");
    assert!(!refused.contains("guessed"), "{refused}");
    // The address may hold the user and the password. The client library alone would not read them.
    let nats = Nats { url: server.url().replace("://", "://admin:password%20of%20admin@"), ..Nats::default() };
    Broker::connect(&nats, &streams(), "test").await.unwrap().jetstream_answers().await.unwrap();
    server.stop().await;
}

/// Checks what `user` may publish to and what it may not. It may send none of [`REQUESTS`] that is not in `allowed`.
async fn publishes(server: &nats::Running, user: User, allowed: &[&str], refused: &[&str]) {
    let mut wire = Wire::of(server, user).await;
    for subject in allowed {
        assert!(wire.may_publish(subject).await, "{user:?} may publish to {subject}");
    }
    for subject in refused.iter().chain(&REQUESTS) {
        let is_own = allowed.contains(subject);
        assert!(is_own || !wire.may_publish(subject).await, "{user:?} may not publish to {subject}");
    }
}

async fn subscribes(server: &nats::Running, user: User, allowed: &[&str], refused: &[&str]) {
    let mut wire = Wire::of(server, user).await;
    for subject in allowed {
        assert!(wire.may_subscribe(subject).await, "{user:?} may subscribe to {subject}");
    }
    for subject in refused.iter().chain(&INBOXES) {
        assert!(!wire.may_subscribe(subject).await, "{user:?} may not subscribe to {subject}");
    }
}

#[tokio::test]
async fn each_user_may_do_its_work_and_no_more() {
    let dir = TempDir::new().unwrap();
    let server = server(dir.path()).await;
    those_who_take_deliveries_in(&server).await;
    those_who_make_events(&server).await;
    those_who_deliver(&server).await;
    those_who_look_after_the_rest(&server).await;
    server.stop().await;
}

async fn those_who_take_deliveries_in(server: &nats::Running) {
    let own = [RAW, "$O.bodies.C.a", "$O.bodies.M.a"];
    let refused = [EVENT, ALERT, DEAD, "$KV.state.a", "$KV.cursors.a", "$JS.API.STREAM.MSG.GET.RAW"];
    publishes(server, User::Ingest, &own, &refused).await;
    subscribes(server, User::Ingest, &["_INBOX_ingest.a"], &ALL).await;

    let own = [RAW, "$O.bodies.C.a", "$O.bodies.M.a", "$KV.cursors.a"];
    let refused = [EVENT, ALERT, DEAD, "$KV.state.a", "$KV.recovery.a", "$JS.API.STREAM.MSG.GET.RAW"];
    publishes(server, User::Collect, &own, &refused).await;
    subscribes(server, User::Collect, &["_INBOX_collect.a"], &ALL).await;
}

async fn those_who_make_events(server: &nats::Running) {
    let own = [EVENT, "events.normalized.acme.code", ALERT, DEAD, "dead.alert.acme", "$KV.state.a"];
    let refused = [RAW, "dead.clickhouse.acme", "$O.bodies.M.a", "$KV.recovery.a", "$KV.schemas.a"];
    publishes(server, User::Pipeline, &own, &refused).await;
    subscribes(server, User::Pipeline, &["_INBOX_pipeline.a"], &ALL).await;
}

async fn those_who_deliver(server: &nats::Running) {
    let own = [
        "dead.clickhouse.acme",
        "dead.file-alerts.acme",
        "$KV.state.epoch.splunk",
        "$KV.state.epoch.splunk-catchup",
        "$KV.asides.a",
        "$JS.ACK.RAW.clickhouse-raw.1",
        "$JS.ACK.CATCHUP.splunk-catchup.1",
        "catchup.file-events.events.scored.acme.code.high",
    ];
    let refused = [
        RAW,
        EVENT,
        ALERT,
        DEAD,
        "$KV.state.alert.a",
        "$O.bodies.M.a",
        "$JS.ACK.RAW.normalize.1",
        "catchup.clickhouse.events.scored.acme.code.high",
        "$JS.API.STREAM.PURGE.CATCHUP",
    ];
    publishes(server, User::Sinks, &own, &refused).await;
    subscribes(server, User::Sinks, &["_INBOX_sinks.a"], &ALL).await;

    let own = ["$JS.API.CONSUMER.CREATE.EVENTS.subscriber.events.scored.>", "$JS.ACK.ALERTS.subscriber.1"];
    let refused = [
        RAW,
        EVENT,
        ALERT,
        DEAD,
        "$KV.schemas.a",
        "$JS.API.STREAM.MSG.GET.RAW",
        "$JS.API.CONSUMER.MSG.NEXT.RAW.subscriber",
        "$JS.API.CONSUMER.MSG.NEXT.EVENTS.clickhouse",
        "$JS.API.CONSUMER.CREATE.EVENTS.clickhouse",
        "$JS.API.CONSUMER.CREATE.RAW.subscriber",
        "$JS.ACK.EVENTS.clickhouse.1",
    ];
    publishes(server, User::Subscriber, &own, &refused).await;
    let refused = ["raw.>", "dead.>", "$KV.>", "$O.>", "$JS.>"];
    subscribes(server, User::Subscriber, &["events.>", "alerts.>", "_INBOX_subscriber.a"], &refused).await;
}

async fn those_who_look_after_the_rest(server: &nats::Running) {
    let own = ["$JS.API.STREAM.PURGE.RAW", "$JS.API.STREAM.PURGE.EVENTS", "$JS.API.STREAM.PURGE.ALERTS"];
    let own = [&own[..], &["$KV.asides.a"]].concat();
    let refused = [RAW, EVENT, ALERT, DEAD, "catchup.splunk.a", "$JS.API.STREAM.PURGE.CATCHUP", "$KV.state.a"];
    publishes(server, User::Retention, &own, &refused).await;
    subscribes(server, User::Retention, &["_INBOX_retention.a"], &ALL).await;

    let own = ["$KV.recovery.a", "$JS.API.CONSUMER.INFO.RAW.clickhouse-raw"];
    publishes(server, User::Recover, &own, &[RAW, EVENT, ALERT, DEAD, "$KV.state.a"]).await;
    subscribes(server, User::Recover, &["_INBOX_recover.a"], &ALL).await;

    let mut admin = Wire::of(server, User::Admin).await;
    assert!(admin.may_publish("$JS.API.STREAM.PURGE.RAW").await && admin.may_subscribe(">").await);
}

#[tokio::test]
async fn a_subscriber_reads_events_and_alerts_by_a_consumer_of_its_own() {
    let dir = TempDir::new().unwrap();
    let server = server(dir.path()).await;
    broker(&server, User::Admin).await.ensure_topology(&streams()).await.unwrap();
    let pipeline = Publisher::new(&broker(&server, User::Pipeline).await);
    for outgoing in [Event::sample(1).message(), Alert::sample(1).message()] {
        pipeline.send(outgoing, None).await.unwrap().confirmed().await.unwrap();
    }
    let subscriber = jetstream::new(client(&server, User::Subscriber).await);
    for stream in [Stream::Events, Stream::Alerts] {
        let handle = subscriber.get_stream(stream.name()).await.unwrap();
        let own = User::Subscriber.name().to_owned();
        let config = Config { durable_name: Some(own.clone()), ..Config::default() };
        let consumer = handle.create_consumer(config).await.unwrap();
        let mut messages = consumer.fetch().max_messages(1).messages().await.unwrap();
        let message = messages.next().await.unwrap().unwrap();
        message.double_ack().await.unwrap();
        handle.delete_consumer(&own).await.unwrap();
    }
    assert_eq!(violations(dir.path()), [""; 0]);

    // A request that is not allowed gets no answer.
    let mut hasty = jetstream::new(client(&server, User::Subscriber).await);
    hasty.set_timeout(Duration::from_millis(200));
    assert!(hasty.get_stream(Stream::Raw.name()).await.is_err());
    let events = hasty.get_stream_no_info(Stream::Events.name()).await.unwrap();
    assert!(events.purge().await.is_err() && events.delete_consumer("clickhouse").await.is_err());
    let logged = async || (violations(dir.path()).len() == 3).then_some(());
    poll::until("the server logs each of them", CEILING, logged).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn the_gateway_stores_a_large_body_and_cannot_remove_it() {
    let dir = TempDir::new().unwrap();
    let server = server(dir.path()).await;
    broker(&server, User::Admin).await.ensure_topology(&streams()).await.unwrap();
    let ingest = broker(&server, User::Ingest).await;
    let body: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let publisher = Publisher::new(&ingest);
    publisher.store_body("github:1", &body.clone().into()).await.unwrap();
    // It is stored again, as after a redelivery. A reader still finds it once.
    publisher.store_body("github:1", &body.clone().into()).await.unwrap();
    publisher.send(RawDelivery::sample(1).message(), None).await.unwrap().confirmed().await.unwrap();
    assert_eq!(violations(dir.path()), [""; 0]);

    for reader in [User::Pipeline, User::Sinks] {
        let reader = jetstream::new(client(&server, reader).await);
        let mut object = reader.get_object_store("bodies").await.unwrap().get("github:1").await.unwrap();
        let mut read = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut object, &mut read).await.unwrap();
        assert!(read == body, "{} of {} bytes", read.len(), body.len());
    }
    assert_eq!(violations(dir.path()), [""; 0]);
    is_not_rolled_up(&server, dir.path()).await;
    server.stop().await;
}

/// A message may ask JetStream to remove all messages before it. The buckets must refuse that.
async fn is_not_rolled_up(server: &nats::Running, dir: &Path) {
    let ingest = jetstream::new(client(server, User::Ingest).await);
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Rollup", "all");
    for subject in ["$O.bodies.M.a", "$KV.state.readiness"] {
        let sent = ingest.publish_with_headers(subject, headers.clone(), "".into()).await.unwrap();
        let refused = sent.await.unwrap_err().to_string();
        assert!(refused.contains("rollup not permitted"), "{subject}: {refused}");
    }
    assert_eq!(violations(dir), [""; 0]);
}
