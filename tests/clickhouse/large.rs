//! Large bodies. The bytes of a batch are bounded, and a batch that is still too large is cut.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use headrace_local::poll;
use headrace_runtime::broker::{STATE, Stream};
use headrace_runtime::message::payload::{Outgoing, RawDelivery};
use headrace_runtime::publish::Publisher;
use headrace_schemas::header;
use headrace_tests::conformance::receiver::Case as _;
use headrace_tests::harness::Nats;
use headrace_tests::harness::samples::Sample as _;
use headrace_tests::product::admin;
use headrace_tests::product::process::{Launch, Running};
use headrace_tests::standin::clickhouse::start_small;
use headrace_tests::standin::server::When;
use tempfile::TempDir;

use super::ClickHouseCase;

/// Bodies, of 288 MiB together: more than a process may hold.
const BODIES: u16 = 32;
const BODY_BYTES: usize = 9 << 20;
/// Room for two of these bodies.
const BATCH_BYTES: usize = 20 << 20;
/// The most memory that a process may have resident: itself and a few bodies, each several times on its way.
const RESIDENT_MAX_BYTES: u64 = 224 << 20;
/// What a body of unknown size is taken for, as often as a sink has a body in memory, and the messages beside it.
const UNKNOWN_BYTES: f64 = (3 * (25_u64 << 20) + (1 << 20)) as f64;
/// Far beyond what a few hundred megabytes take on a busy machine.
const CEILING: Duration = Duration::from_secs(300);

fn configuration(nats: &Nats, url: &str, dir: &Path, insert_timeout_s: u64) -> PathBuf {
    let limits = "{ max_age_hours = 24, max_bytes = 67108864 }";
    let text = format!(
        "nats = {{ url = '{}', clock_skew_ms = 100 }}\nadmin.listen = '127.0.0.1:0'\n\
         retry = {{ backoff_min_ms = 100, backoff_max_ms = 1000 }}\n\
         streams = {{ raw = {limits}, events = {limits}, alerts = {limits}, dead = {limits} }}\n\
         [sinks.clickhouse]\nurl = '{url}'\ncompress = false\nlinger_ms = 200\nbatch_bytes_max = {BATCH_BYTES}\n\
         insert_timeout_s = {insert_timeout_s}\nclock_skew_ms = 200\n",
        nats.server().url()
    );
    let config = dir.join("headrace.toml");
    std::fs::write(&config, text).unwrap();
    config
}

/// The sample with this many bytes added to its body.
fn large(number: u16, bytes: usize) -> RawDelivery {
    let sample = RawDelivery::sample(number);
    let mut body = sample.body[..sample.body.len() - 1].to_vec();
    body.extend_from_slice(br#","padding":""#);
    body.resize(body.len() + bytes, b'x');
    body.extend_from_slice(br#""}"#);
    RawDelivery { body: body.into(), ..sample }
}

/// The reference that the gateway publishes for a body that is too large for a message. Half of them have no size, as in
/// an earlier release.
async fn reference(publisher: &Publisher, delivery: RawDelivery) -> Outgoing {
    let mut message = RawDelivery { body: Bytes::new(), ..delivery.clone() }.message();
    publisher.store_body(delivery.id.as_str(), &delivery.body).await.unwrap();
    message.headers.insert(header::BODY_OBJECT, delivery.id.as_str());
    if delivery.body.len().is_multiple_of(2) {
        message.headers.insert(header::BODY_BYTES, delivery.body.len().to_string());
    }
    message
}

/// The most memory that the process had resident at once.
fn peak_bytes(running: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

async fn held(running: &Running, component: &str) -> f64 {
    let (_, metrics) = admin::get(&format!("{}/metrics", running.ready().metrics)).await;
    admin::sample(&metrics, &format!("headrace_held_bytes{{component=\"{component}\"}}")).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_are_held_a_few_at_a_time() {
    let (case, nats, dir) = (ClickHouseCase::start().await, Nats::start().await, TempDir::new().unwrap());
    let config = configuration(&nats, &case.server.url(), dir.path(), 5);
    let sinks = || Launch::run(env!("CARGO_BIN_EXE_headrace"), "sinks", &config, dir.path());
    // Messages from before a sink first saw its consumer must wait for the time of a call. So let a sink see it, and stop
    // that sink before the backlog is published.
    let first = sinks().start().await;
    let state = nats.jetstream().get_key_value(STATE).await.unwrap();
    let seen = async || state.entry("epoch.clickhouse-raw").await.ok().flatten().map(|_| ());
    poll::until("the sink has seen its consumer", CEILING, seen).await.unwrap();
    first.stop().await;
    let publisher = Publisher::new(&nats.broker().await);
    let mut bytes = 0;
    for number in 0..BODIES {
        let delivery = large(number, BODY_BYTES + usize::from(number % 2));
        bytes += delivery.body.len();
        nats.publish(reference(&publisher, delivery).await).await;
    }
    let sinks = sinks().start().await;
    let pipeline = Launch::run(env!("CARGO_BIN_EXE_headrace"), "pipeline", &config, dir.path()).start().await;
    let held_max = Cell::new(0.0_f64);
    let all = async || {
        let now = held(&sinks, "clickhouse-raw").await;
        held_max.set(held_max.get().max(now));
        let rows = |table: &str| case.query(&format!("SELECT count() FROM headrace.{table}"));
        let count = BODIES.to_string();
        (rows("raw").trim() == count && rows("events").trim() == count).then_some(())
    };
    poll::until("every body and every event has its row", CEILING, all).await.unwrap();
    let sums = case.query("SELECT uniqExact(id), sum(length(body)) FROM headrace.raw");
    assert_eq!(sums.trim(), format!("{BODIES}\t{bytes}"));
    let held_max = held_max.get();
    assert!(held_max <= UNKNOWN_BYTES, "{held_max} bytes were held at once");
    for running in [&sinks, &pipeline] {
        let peak = peak_bytes(running);
        assert!(peak <= RESIDENT_MAX_BYTES, "{peak} bytes were resident at once: {}", running.log());
    }
    assert!(nats.dead_letters().await.is_empty());
    sinks.stop().await;
    pipeline.stop().await;
}

/// Sends bodies of 10 MiB in all to a server whose memory is enough for 4 MiB.
async fn is_cut(when: When) {
    const SMALL_BYTES: usize = 4 << 20;
    const SMALL_BODIES: u16 = 40;
    let (case, nats, dir) = (ClickHouseCase::start().await, Nats::start().await, TempDir::new().unwrap());
    let proxy = start_small(&case.server.url(), SMALL_BYTES, when).await;
    nats.publish_all((0..SMALL_BODIES).map(|number| large(number, 256 << 10).message())).await;
    // Before each cut, the time of a call must pass. Make it short.
    let config = configuration(&nats, &proxy.url(), dir.path(), 1);
    let sinks = Launch::run(env!("CARGO_BIN_EXE_headrace"), "sinks", &config, dir.path()).start().await;
    let settled = async || {
        let consumer = nats.consumer(Stream::Raw, "clickhouse-raw").await?;
        (consumer.waiting == 0 && consumer.unsettled == 0).then_some(())
    };
    poll::until("every body is settled", CEILING, settled)
        .await
        .unwrap_or_else(|error| panic!("{error}: {}", sinks.log()));
    let counts = case.query("SELECT count(), uniqExact(id) FROM headrace.raw");
    assert_eq!(counts.trim(), format!("{SMALL_BODIES}\t{SMALL_BODIES}"));
    assert!(proxy.recorded().iter().any(|request| request.body.len() > SMALL_BYTES), "one insert was too large");
    assert!(nats.dead_letters().await.is_empty());
    sinks.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_too_large_is_cut() {
    is_cut(When::Before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_was_stored_and_refused_as_too_large_is_stored_once() {
    is_cut(When::After).await;
}
