//! Real servers, each for one test, and sample messages.
//!
//! [`Nats::start`] runs a nats-server of its own, on a free port and with its own directory. Tests read what it holds
//! with [`Nats::dead_letters`] and [`Nats::consumer`], which the runtime does not need. Two tests must never share a
//! server.

pub mod accounts;
pub mod certificates;
pub(crate) mod consumed;
pub mod samples;
pub(crate) mod servers;
pub mod tls_proxy;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::HeaderMap;
use async_nats::jetstream;
use bytes::Bytes;
use headrace_local::install::{Installer, Silent};
use headrace_local::{nats, poll};
use headrace_runtime::broker::{Broker, Stream};
use headrace_runtime::config;
use headrace_runtime::message::payload::Outgoing;
use headrace_runtime::publish::Publisher;
use headrace_schemas::header;
use tempfile::TempDir;

/// The ceiling of every wait, far beyond what a loaded machine ever needs.
pub const CEILING: Duration = Duration::from_secs(60);

/// A nats-server, or a cluster, with Headrace's streams. Dropping this kills it and removes its directory.
pub struct Nats {
    server: nats::Running,
    /// The other servers of its cluster.
    others: Vec<nats::Running>,
    jetstream: jetstream::Context,
    /// The settings of its streams.
    streams: config::Streams,
    // Drop this after the server, which writes into it.
    dir: TempDir,
}

/// A message of DEAD.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Its subject.
    pub subject: String,
    /// The reason's code.
    pub reason: String,
    /// The reason in words.
    pub detail: String,
    /// How often it had been tried.
    pub attempts: String,
    /// The event's id, from its own header.
    pub id: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The payload, unchanged.
    pub payload: Bytes,
}

/// What a consumer has left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consumed {
    /// Messages that were not delivered to it yet.
    pub waiting: u64,
    /// Messages delivered to it but not settled.
    pub unsettled: usize,
    /// Messages delivered to it more than once but not settled.
    pub redelivered: usize,
}

impl Nats {
    /// Starts a server and makes the streams.
    pub async fn start() -> Self {
        Self::with(streams()).await
    }

    /// Starts a server and makes the streams with these settings.
    pub async fn with(streams: config::Streams) -> Self {
        Self::try_start(streams).await.expect("nats-server starts; its log is in the error")
    }

    async fn try_start(streams: config::Streams) -> anyhow::Result<Self> {
        let dir = TempDir::new().context("cannot make a directory")?;
        let server = nats::start(server_config(&dir).await?).await?;
        let client = async_nats::connect(server.url()).await.context("cannot connect")?;
        let nats = Self { server, others: Vec::new(), jetstream: jetstream::new(client), streams, dir };
        nats.broker().await.ensure_topology(&nats.streams).await?;
        Ok(nats)
    }

    /// Starts a cluster of three servers and makes the streams, each with three replicas.
    pub async fn cluster() -> Self {
        let dir = TempDir::new().expect("a directory can be made");
        let program = server_program().await.expect("nats-server can be installed");
        let started = servers::start_nats(&program, &dir.path().join("nats"), 3).await;
        let mut others = started.expect("a cluster starts; a server's log is in the error");
        let server = others.remove(0);
        let client = async_nats::connect(server.url()).await.expect("it answers");
        let streams = config::Streams { replicas: 3, ..streams() };
        let nats = Self { server, others, jetstream: jetstream::new(client), streams, dir };
        let broker = nats.broker().await;
        // A cluster makes no streams before its servers have found each other and a leader.
        let made = async || broker.ensure_topology(&nats.streams).await.ok();
        poll::until("the cluster makes the streams", CEILING, made).await.expect("three servers agree");
        nats
    }

    /// Ends the server, lets `damage` change its data directory, and starts it again at the same address.
    pub async fn damaged(self, damage: impl FnOnce(&Path)) -> Self {
        let Self { server, others, streams, dir, .. } = self;
        let listen = server.address();
        server.stop().await;
        damage(dir.path());
        let config = server_config(&dir).await.expect("nats-server is installed by now");
        let config = nats::Config { listen, ..config };
        let server = nats::start(config).await.expect("nats-server starts with what is left; its log is in the error");
        let client = async_nats::connect(server.url()).await.expect("it answers");
        Self { server, others, jetstream: jetstream::new(client), streams, dir }
    }

    /// The server itself.
    #[must_use]
    pub const fn server(&self) -> &nats::Running {
        &self.server
    }

    /// A new connection, as a process would make one.
    pub async fn broker(&self) -> Broker {
        self.broker_with(config::Nats::default()).await
    }

    /// The same, with settings of its own except for the address.
    pub async fn broker_with(&self, settings: config::Nats) -> Broker {
        let urls: Vec<String> = [&self.server].into_iter().chain(&self.others).map(nats::Running::url).collect();
        // All servers use one machine's clock.
        let nats = config::Nats { url: urls.join(","), clock_skew_ms: 100, ..settings };
        Broker::connect(&nats, &self.streams, "test").await.expect("the server of this test runs")
    }

    /// JetStream, without the runtime's rules.
    #[must_use]
    pub const fn jetstream(&self) -> &jetstream::Context {
        &self.jetstream
    }

    /// Publishes and waits for the PubAck.
    pub async fn publish(&self, outgoing: Outgoing) {
        let publisher = Publisher::new(&self.broker().await);
        let sent = publisher.send(outgoing, None).await.expect("connected");
        sent.confirmed().await.expect("the broker of this test runs");
    }

    /// Publishes all and waits for every PubAck.
    pub async fn publish_all(&self, messages: impl IntoIterator<Item = Outgoing>) {
        let publisher = Publisher::new(&self.broker().await);
        let mut unconfirmed = Vec::new();
        for outgoing in messages {
            unconfirmed.push(publisher.send(outgoing, None).await.expect("connected"));
        }
        for sent in unconfirmed {
            sent.confirmed().await.expect("the broker of this test runs");
        }
    }

    /// Every message of a stream, from the first.
    pub async fn messages(&self, stream: Stream) -> Vec<jetstream::message::StreamMessage> {
        let stream = self.jetstream.get_stream(stream.name()).await.expect("the stream exists");
        let state = &stream.cached_info().state;
        let mut messages = Vec::new();
        // An empty stream begins at 0 and ends at 0.
        for sequence in state.first_sequence.max(1)..=state.last_sequence {
            messages.push(stream.get_raw_message(sequence).await.expect("nothing is deleted in tests"));
        }
        messages
    }

    /// Every dead letter, in order.
    pub async fn dead_letters(&self) -> Vec<DeadLetter> {
        let dead_letters = self.messages(Stream::Dead).await.into_iter();
        dead_letters
            .map(|message| {
                let text = |name: &str| message.headers.get(name).map(|value| value.to_string()).unwrap_or_default();
                DeadLetter {
                    subject: message.subject.to_string(),
                    reason: text(header::DEAD_REASON),
                    detail: text(header::DEAD_DETAIL),
                    attempts: text(header::DEAD_ATTEMPTS),
                    id: text(header::ID),
                    payload: message.payload,
                    headers: message.headers,
                }
            })
            .collect()
    }

    /// What the consumer `component` on `stream` has left to do. `None` before it exists.
    pub async fn consumer(&self, stream: Stream, component: &str) -> Option<Consumed> {
        let stream = self.jetstream.get_stream(stream.name()).await.ok()?;
        let info = stream.consumer_info(component).await.ok()?;
        let waiting = consumed::waiting(&stream, &info).await.ok()?;
        Some(Consumed { waiting, unsettled: info.num_ack_pending, redelivered: info.num_redelivered })
    }

    /// Waits until `component` has settled every message of `stream`.
    pub async fn settled(&self, stream: Stream, component: &str) {
        let settled = Consumed { waiting: 0, unsettled: 0, redelivered: 0 };
        let what = format!("{component} settles all of {}", stream.name());
        let condition = async || (self.consumer(stream, component).await == Some(settled)).then_some(());
        if let Err(error) = poll::until(&what, CEILING, condition).await {
            let found = self.consumer(stream, component).await;
            panic!("{error}; found {found:?}, dead letters {:#?}", self.dead_letters().await);
        }
    }
}

/// Starts a server in `dir`, without streams, with the lines `more` at the end of its configuration file. For lines that
/// ask for TLS or a login, with which [`Nats`] would not get in.
pub async fn configured(dir: &Path, more: &str) -> nats::Running {
    let program = server_program().await.expect("nats-server can be installed");
    let config = nats::Config { more: more.to_owned(), ..nats::Config::new(program, dir) };
    nats::start(config).await.expect("nats-server starts; its log is in the error")
}

async fn server_config(dir: &TempDir) -> anyhow::Result<nats::Config> {
    Ok(nats::Config::new(server_program().await?, dir.path()))
}

async fn server_program() -> anyhow::Result<PathBuf> {
    // The installer blocks: the first test on a machine downloads the program.
    let install = || Installer::for_user(Arc::new(Silent))?.nats_server();
    Ok(tokio::task::spawn_blocking(install).await.context("installing nats-server was cut off")??)
}

/// Waits until `condition` holds.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let asked = poll::until(what, CEILING, || std::future::ready(condition().then_some(()))).await;
    asked.unwrap_or_else(|error| panic!("{error}"));
}

/// Settings for streams that are small enough for any disk.
#[must_use]
pub fn streams() -> config::Streams {
    let limits = config::Limits { max_age_hours: 24, max_bytes: 256 << 20 };
    config::Streams { raw: limits, events: limits, alerts: limits, dead: limits, ..config::Streams::default() }
}
