//! A broker that loses messages that it had confirmed. A power cut loses the end of a file, a bad disk its middle.
//!
//! The broker then gives the newest sequences to other messages, although every consumer remembers that it had them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use async_nats::jetstream::consumer::PullConsumer;
use headrace_local::poll;
use headrace_runtime::broker::Stream;
use headrace_runtime::component::subscription::Subscription;
use headrace_runtime::consume::Subscriber;
use headrace_runtime::message::payload::RawDelivery;
use headrace_schemas::header;
use headrace_tests::harness::samples::unreadable;
use headrace_tests::harness::{CEILING, Nats};
use headrace_tests::product::process::{Running, command, complained, freeze, signal};
use headrace_tests::product::stored::Stored;
use headrace_tests::standin::github::APP_HOOK;
use rustix::process::Signal;

use super::PROGRAM;
use super::servers::{SECRET, Servers, role};
use super::testbed::{Gaps, NAMES, Testbed, holds_each_once};

/// The messages of a killed process are delivered again soon.
const CONFIG: &str = "pipeline.ack_wait_s = 2";
/// Deliveries after the damage.
const LATE: usize = 20;

#[tokio::test]
async fn deliveries_that_a_cut_file_lost_are_recovered() {
    let mut deployment = Deployment::start().await;
    deployment.run(&["ingest", "pipeline", "sinks"]).await;
    deployment.emit(10).await;
    deployment.stored().await.settled().await;
    // The pipeline settles these, and the sink holds all of them in one batch.
    let (clickhouse, sinks) = (deployment.servers.clickhouse.pid().unwrap(), deployment.roles["sinks"].pid());
    freeze(sinks).await;
    deployment.has_no_open_request("clickhouse-raw").await;
    deployment.emit(40).await;
    deployment.servers.nats.settled(Stream::Raw, "normalize").await;
    freeze(clickhouse).await;
    signal(sinks, Signal::CONT);
    let nats = &deployment.servers.nats;
    let given = async || nats.consumer(Stream::Raw, "clickhouse-raw").await.filter(|own| own.waiting == 0);
    poll::until("the sink has been given all", CEILING, given).await.unwrap();
    deployment.kill_all().await;
    let deployment = deployment.damaged(Stream::Raw, cut).await;
    signal(clickhouse, Signal::CONT);
    recovers_all(deployment).await;
}

#[tokio::test]
async fn deliveries_that_a_damaged_file_lost_are_recovered() {
    let mut deployment = Deployment::start().await;
    deployment.run(&["ingest", "pipeline", "sinks"]).await;
    deployment.emit(40).await;
    deployment.stored().await.settled().await;
    deployment.kill_all().await;
    // No consumer has read these. The broker loses older messages, which are stored already.
    deployment.run(&["ingest"]).await;
    deployment.emit(10).await;
    deployment.kill_all().await;
    let deployment = deployment.damaged(Stream::Raw, flip).await;
    recovers_all(deployment).await;
}

#[tokio::test]
async fn a_removed_consumer_makes_no_second_row() {
    let mut deployment = Deployment::start().await;
    deployment.run(&["ingest", "pipeline", "sinks"]).await;
    deployment.emit(20).await;
    deployment.holds_all().await;
    deployment.kill_all().await;
    let stored = deployment.stored().await;
    for (stream, component) in
        [(Stream::Raw, "normalize"), (Stream::Raw, "clickhouse-raw"), (Stream::Events, "clickhouse")]
    {
        stored.stream(stream).await.delete_consumer(component).await.unwrap();
    }
    deployment.run(&["ingest", "pipeline", "sinks"]).await;
    deployment.emit(LATE).await;
    deployment.holds_all().await;
    deployment.stop().await;
}

#[tokio::test]
async fn a_consumer_beyond_the_end_of_its_stream_is_refused() {
    let nats = Nats::start().await;
    let broker = nats.broker().await;
    let subscription = Subscription {
        component: "late".to_owned(),
        stream: Stream::Raw,
        filters: Vec::new(),
        ack_wait: CEILING,
        unsettled_max: 1,
        sink: None,
    };
    Subscriber::open(&broker, &subscription).await.unwrap();
    // A NATS that lost a consumer's messages may leave the consumer like this.
    let client = nats.jetstream().client();
    client.request("$JS.API.CONSUMER.RESET.RAW.late", r#"{"seq":8}"#.into()).await.unwrap();
    let error = Subscriber::open(&broker, &subscription).await.err().unwrap().to_string();
    assert!(
        error.contains("found it at 7 and the stream's end at 0") && error.contains("consumer rm RAW late"),
        "{error}"
    );
    nats.jetstream().get_stream("RAW").await.unwrap().delete_consumer("late").await.unwrap();
    Subscriber::open(&broker, &subscription).await.unwrap();
}

#[tokio::test]
async fn a_replay_restores_lost_events() {
    let mut deployment = Deployment::start().await;
    deployment.run(&["ingest", "pipeline", "sinks"]).await;
    deployment.emit(10).await;
    deployment.stored().await.settled().await;
    deployment.kill_all().await;
    // Each delivery gets an event, and no sink takes it.
    deployment.run(&["ingest", "pipeline"]).await;
    deployment.emit(20).await;
    deployment.servers.nats.settled(Stream::Raw, "normalize").await;
    deployment.kill_all().await;
    let mut deployment = deployment.damaged(Stream::Events, cut).await;
    deployment.run(&["ingest", "pipeline", "sinks", "recover"]).await;
    deployment.emit(LATE).await;
    let stored = deployment.stored().await;
    stored.settled().await;
    holds_each_once(&stored, &["raw"], 30 + LATE as u64).await;
    let events = stored.rows::<(u64,)>("SELECT count() FROM events").await;
    assert!(events[0].0 < 30 + LATE as u64, "the broker lost no event: {events:?}");
    // Every delivery is stored, so no redelivery is asked for.
    deployment.until_whole(30 + LATE).await;
    assert_eq!(deployment.testbed.github.asked(), 0);

    let config = deployment.config.to_str().unwrap();
    let replay = command(PROGRAM, ["replay", "--since", "1h", "--config", config]).await;
    assert!(replay.status.success(), "{}", complained(&replay));
    deployment.holds_all().await;
    deployment.stop().await;
}

#[tokio::test]
async fn a_second_message_of_the_same_sequence_is_dead_lettered_too() {
    let mut deployment = Deployment::start().await;
    let stored = deployment.stored().await;
    for number in [1, 2] {
        deployment.run(&["pipeline"]).await;
        deployment.servers.nats.publish(unreadable::<RawDelivery>(number)).await;
        let is_dead = async || (stored.count(Stream::Dead).await == u64::from(number)).then_some(());
        poll::until("it is in DEAD", CEILING, is_dead).await.unwrap();
        deployment.kill_all().await;
        stored.jetstream().delete_stream(Stream::Raw.name()).await.unwrap();
    }
    let dead_letters = deployment.servers.nats.dead_letters().await;
    assert!(
        dead_letters
            .iter()
            .all(|dead_letter| dead_letter.headers.get(header::DEAD_ORIGIN).unwrap().as_str() == "RAW:1"),
        "{dead_letters:#?}"
    );
    assert_ne!(dead_letters[0].id, dead_letters[1].id);
}

/// Starts everything on a broker that has lost deliveries of RAW. In the end, none may be missing.
async fn recovers_all(mut deployment: Deployment) {
    let raw = deployment.stored().await.stream(Stream::Raw).await.cached_info().state.clone();
    let taken = deployment.testbed.github.taken(APP_HOOK).len() as u64;
    assert!(
        raw.messages < taken && raw.last_sequence < taken,
        "the broker lost nothing: {raw:?}, {taken} were accepted"
    );
    deployment.run(&["ingest", "pipeline", "sinks", "recover"]).await;
    // These get sequences that other messages had before.
    deployment.emit(LATE).await;
    let gaps = deployment.until_whole(taken as usize + LATE).await;
    assert!(gaps.count(NAMES[0], "recovered") > 0, "{gaps:#?}");
    deployment.emit(LATE).await;
    deployment.until_whole(taken as usize + 2 * LATE).await;
    deployment.holds_all().await;
    deployment.stop().await;
}

/// GitHub, the servers, and the roles that run.
struct Deployment {
    testbed: Testbed,
    servers: Servers,
    config: PathBuf,
    roles: BTreeMap<String, Running>,
}

impl Deployment {
    async fn start() -> Self {
        let testbed = Testbed::start().await;
        let servers = Servers::start(&testbed).await;
        let config = servers.configure(&testbed, CONFIG);
        Self { testbed, servers, config, roles: BTreeMap::new() }
    }

    async fn run(&mut self, names: &[&str]) {
        for name in names {
            let running = role(name, name, &self.config, &self.testbed).await;
            if let Some(gateway) = &running.ready().gateway {
                self.testbed.github.deliver_to(gateway, SECRET);
            }
            self.roles.insert((*name).to_owned(), running);
        }
    }

    async fn emit(&self, times: usize) {
        self.testbed.emit(APP_HOOK, times, 202).await;
    }

    /// Waits until a consumer of RAW has no request open at the broker. Later messages then go into the next request.
    async fn has_no_open_request(&self, consumer: &str) {
        let stream = self.stored().await.stream(Stream::Raw).await;
        let none_open = async || {
            let consumer: PullConsumer = stream.get_consumer(consumer).await.unwrap();
            (consumer.cached_info().num_waiting == 0).then_some(())
        };
        poll::until("no request is open", CEILING, none_open).await.unwrap();
    }

    async fn kill_all(&mut self) {
        for running in std::mem::take(&mut self.roles).into_values() {
            running.kill().await;
        }
    }

    async fn stop(self) {
        for running in self.roles.into_values() {
            running.stop().await;
        }
    }

    /// Ends the broker, damages the newest file of a stream and the stream's index, and starts the broker again.
    async fn damaged(self, stream: Stream, damage: fn(&Path)) -> Self {
        let nats = self.servers.nats.damaged(|dir| {
            let files = dir.join("jetstream/$G/streams").join(stream.name()).join("msgs");
            let blocks = fs::read_dir(&files).unwrap().map(|file| file.unwrap().path());
            let blocks = blocks.filter(|path| path.extension().is_some_and(|extension| extension == "blk"));
            // The files are named 1.blk, 2.blk and so on.
            let number = |path: &PathBuf| path.file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap();
            damage(&blocks.max_by_key(number).unwrap());
            damage(&files.join("index.db"));
        });
        let servers = Servers { nats: nats.await, ..self.servers };
        Self { servers, ..self }
    }

    /// Waits until `headrace gaps` reports this many deliveries, all of them stored.
    async fn until_whole(&self, count: usize) -> Gaps {
        let whole = |gaps: &Gaps| {
            let [delivered, seen, recovered, missing] = gaps.counts(NAMES[0]);
            gaps.code == Some(0) && (delivered, missing) == (count as u64, 0) && seen + recovered == delivered
        };
        self.testbed.until_gaps("nothing is missing", &self.config, whole).await
    }

    /// What the servers hold.
    async fn stored(&self) -> Stored {
        Stored::at(&self.servers.nats.server().url(), &self.servers.clickhouse.url()).await
    }

    /// Waits until everything is settled. Then both tables must hold every accepted delivery once, byte for byte.
    async fn holds_all(&self) {
        let stored = self.stored().await;
        stored.settled().await;
        let dead = stored.messages(Stream::Dead).await;
        assert!(dead.is_empty(), "{dead:#?}");
        let taken: Vec<(String, String)> = self.testbed.github.taken(APP_HOOK).into_iter().collect();
        for (table, sum) in [("raw", "lower(hex(SHA256(body)))"), ("events", "raw_sha256")] {
            let rows: Vec<(String, String)> = stored.rows(&format!("SELECT id, {sum} FROM {table} ORDER BY id")).await;
            assert_eq!(rows, taken, "{table}");
        }
    }
}

/// A power cut: the end of the file is lost.
fn cut(path: &Path) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

/// A bad disk: the middle of the file has other bytes than were written.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..][..8].iter_mut().for_each(|byte| *byte = !*byte);
    fs::write(path, bytes).unwrap();
}
