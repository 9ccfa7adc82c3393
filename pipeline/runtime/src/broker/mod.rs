//! The connection to NATS, and what Headrace keeps there: five streams, the object store bucket `bodies`, and the KV
//! buckets `schemas`, `state`, `recovery`, `cursors` and `asides`.

pub(crate) mod changed;
pub mod measure;
pub mod progress;
pub mod recreate;
mod refusal;
mod topology;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use async_nats::connection::State as ConnectionState;
use async_nats::jetstream::{self, kv, object_store};
use async_nats::{ConnectOptions, Event};
use bytes::Bytes;
use headrace_schemas::subject;
use tokio::sync::watch;

use crate::broker::changed::Changed;
use crate::certificate::read_ca_file;
use crate::config::{Limits, Nats, Streams};
use crate::secret::redact_url;

/// The oldest NATS that we accept: major, minor and patch version. From this version on, NATS puts its consumers back
/// when it starts after losing messages. Consumers of older versions skip the new messages that get the lost sequences
/// (nats-server's pull request 7692).
const NATS_MIN: (i64, i64, i64) = (2, 14, 0);
/// Publishes that may wait for their confirmation at once, in one process.
const UNCONFIRMED_MAX: usize = 16_384;
/// Room for headers when a body is compared with the server's `max_payload`.
pub const HEADER_ROOM_BYTES: usize = 16 << 10;
/// Bucket of bodies that are too large for a message.
pub const BODIES: &str = "bodies";
/// Bucket that maps a schema's fingerprint (16 hex digits) to its text.
pub const SCHEMAS: &str = "schemas";
/// Bucket of what stages remember across events.
pub const STATE: &str = "state";
/// Bucket of what is known about missed deliveries.
pub const RECOVERY: &str = "recovery";
/// Bucket of how far each source that is asked was read.
pub const CURSORS: &str = "cursors";
/// Bucket of which sinks are paused, and what those that were set aside have missed.
pub const ASIDES: &str = "asides";

/// The limits of CATCHUP. It holds no more than what a sink takes next, and its messages are removed as they are
/// settled: never by age, because nobody would bring them again.
const CATCH_UP_LIMITS: Limits = Limits { max_age_hours: 0, max_bytes: 16 << 20 };

/// One of the five streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Bodies as they came.
    Raw,
    /// Events between stages and to the sinks.
    Events,
    /// Alerts.
    Alerts,
    /// Messages that were given up.
    Dead,
    /// Events that are brought once more to a sink that was set aside.
    CatchUp,
}

impl Stream {
    /// All streams.
    pub const ALL: [Self; 5] = [Self::Raw, Self::Events, Self::Alerts, Self::Dead, Self::CatchUp];

    /// The stream's name in NATS.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "RAW",
            Self::Events => "EVENTS",
            Self::Alerts => "ALERTS",
            Self::Dead => "DEAD",
            Self::CatchUp => "CATCHUP",
        }
    }

    /// The subjects of the stream's messages.
    #[must_use]
    pub const fn subjects(self) -> &'static str {
        match self {
            Self::Raw => subject::RAW,
            Self::Events => subject::EVENTS,
            Self::Alerts => subject::ALERTS,
            Self::Dead => subject::DEAD,
            Self::CatchUp => subject::CATCH_UP,
        }
    }

    pub(crate) const fn limits(self, streams: &Streams) -> Limits {
        match self {
            Self::Raw => streams.raw,
            Self::Events => streams.events,
            Self::Alerts => streams.alerts,
            Self::Dead => streams.dead,
            Self::CatchUp => CATCH_UP_LIMITS,
        }
    }
}

/// A connection to NATS. Cheap to clone.
#[derive(Clone)]
pub struct Broker {
    client: async_nats::Client,
    jetstream: jetstream::Context,
    duplicate_window: Duration,
    replicated: bool,
    timeout: Duration,
    clock_skew: Duration,
    disconnects: Disconnects,
    pub(crate) changed: Changed,
    /// The incarnation in which each consumer was last seen, so that a change is told once and not by every worker.
    incarnations: Arc<Mutex<HashMap<String, String>>>,
}

/// Tells [`Disconnects`] when a connection is lost.
#[derive(Clone)]
pub(crate) struct Connection(watch::Sender<u64>);

impl Connection {
    /// The connection was lost.
    pub(crate) fn lost(&self) {
        self.0.send_modify(|count| *count += 1);
    }
}

/// Waits until the connection is lost. The server then does not answer what it was asked over that connection, except
/// that in a cluster an answer may, rarely, come over the next connection.
#[derive(Clone)]
pub(crate) struct Disconnects(watch::Receiver<u64>);

impl Disconnects {
    pub(crate) fn of_connection() -> (Connection, Self) {
        let (sender, receiver) = watch::channel(0);
        (Connection(sender), Self(receiver))
    }

    /// Waits for the next loss since this was made or last forgot. Dropping the wait forgets nothing.
    pub(crate) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // The connection was closed for good, so no further loss will be reported. Whoever waits has a timeout of
            // its own.
            std::future::pending::<()>().await;
        }
    }

    /// Forgets the losses so far.
    pub(crate) fn forget(&mut self) {
        self.0.mark_unchanged();
    }
}

impl Broker {
    /// Connects. From then on the client keeps the connection up for ever.
    ///
    /// # Errors
    /// When no server answers within the configured time, it refuses us, or it is too old.
    pub async fn connect(nats: &Nats, streams: &Streams, name: &str) -> anyhow::Result<Self> {
        let shown = redact_url(&nats.url);
        let mut nats = nats.clone();
        let url = std::mem::take(&mut nats.url);
        nats.reach(&url);
        let servers: Vec<&str> = nats.url.split(',').collect();
        let (connection, disconnects) = Disconnects::of_connection();
        let client = connect_options(&nats, name, connection).await?.connect(servers).await;
        let client = client.map_err(|error| refusal::explained(error, &nats, &shown))?;
        let (major, minor, patch) = NATS_MIN;
        anyhow::ensure!(
            client.is_server_compatible(major, minor, patch),
            "expected NATS {major}.{minor} or later at {shown}, found {}; update the server: an older one skips messages \
             after it lost some",
            client.server_info().version
        );
        let jetstream = jetstream::context::ContextBuilder::new()
            .timeout(nats.timeout())
            .ack_timeout(nats.timeout())
            .max_ack_inflight(UNCONFIRMED_MAX)
            .backpressure_on_inflight(true)
            .build(client.clone());
        Ok(Self {
            client,
            jetstream,
            duplicate_window: streams.duplicate_window(),
            replicated: streams.replicas > 1,
            timeout: nats.timeout(),
            clock_skew: nats.clock_skew(),
            disconnects,
            changed: Changed::default(),
            incarnations: Arc::default(),
        })
    }

    /// Whether the broker answers and has all streams.
    ///
    /// # Errors
    /// What is missing.
    pub async fn ready(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.is_connected(), "no connection to NATS");
        for stream in Stream::ALL {
            let name = stream.name();
            self.jetstream.get_stream(name).await.with_context(|| format!("the stream {name} does not answer"))?;
        }
        Ok(())
    }

    /// Whether JetStream is on, for a check before there are streams.
    ///
    /// # Errors
    /// When it is off, or our account may not use it.
    pub async fn jetstream_answers(&self) -> anyhow::Result<()> {
        self.jetstream
            .query_account()
            .await
            .context("JetStream does not answer; start nats-server with --jetstream")?;
        Ok(())
    }

    /// Whether the connection is up at this moment.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == ConnectionState::Connected
    }

    /// Notes that `consumer` was seen in `incarnation`. True when this process has seen it in another before.
    pub(crate) fn is_reborn(&self, consumer: &str, incarnation: &str) -> bool {
        let mut incarnations = self.incarnations.lock().unwrap_or_else(PoisonError::into_inner);
        let before = incarnations.insert(consumer.to_owned(), incarnation.to_owned());
        before.is_some_and(|before| before != incarnation)
    }

    /// The disconnects of the connection from now on.
    pub(crate) fn disconnects(&self) -> Disconnects {
        let mut disconnects = self.disconnects.clone();
        disconnects.forget();
        disconnects
    }

    /// Whether the streams have replicas, so that each consumer has a leader among several servers.
    pub(crate) const fn is_replicated(&self) -> bool {
        self.replicated
    }

    /// The id of the server that we are connected to. A server has a new one after each start.
    pub(crate) fn server_id(&self) -> String {
        self.client.server_info().server_id
    }

    /// The largest body that travels as a message; a larger one goes to the bucket `bodies`.
    #[must_use]
    pub fn payload_max(&self) -> usize {
        self.client.max_payload().saturating_sub(HEADER_ROOM_BYTES)
    }

    /// The most bytes that a message can have, as a request for messages counts them: with headers and subjects.
    #[must_use]
    pub fn message_max(&self) -> usize {
        self.client.max_payload().saturating_add(HEADER_ROOM_BYTES)
    }

    /// How long the broker recognizes a repeated message.
    #[must_use]
    pub const fn duplicate_window(&self) -> Duration {
        self.duplicate_window
    }

    /// How long to wait for one confirmation.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How much the clocks of the broker's servers and ours may differ.
    #[must_use]
    pub const fn clock_skew(&self) -> Duration {
        self.clock_skew
    }

    /// The payload of a message of `stream`, as the stream's leader has it.
    ///
    /// # Errors
    /// When the broker does not answer or has no such message any more.
    pub(crate) async fn payload_at(&self, stream: Stream, sequence: u64) -> anyhow::Result<Bytes> {
        let name = stream.name();
        let stream = self.jetstream.get_stream_no_info(name).await.with_context(|| format!("cannot open {name}"))?;
        let message = stream.get_raw_message(sequence).await;
        Ok(message.with_context(|| format!("cannot read message {sequence} of {name}"))?.payload)
    }

    /// Writes everything that is buffered to the server, as far as that is possible within the timeout.
    pub async fn flush(&self) {
        if let Ok(Err(error)) = tokio::time::timeout(self.timeout, self.client.flush()).await {
            tracing::warn!(%error, "the connection to NATS closed with unsent messages; they come again by redelivery");
        }
    }

    pub(crate) const fn client(&self) -> &async_nats::Client {
        &self.client
    }

    pub(crate) const fn jetstream(&self) -> &jetstream::Context {
        &self.jetstream
    }

    pub(crate) async fn bodies(&self) -> anyhow::Result<object_store::ObjectStore> {
        self.jetstream.get_object_store(BODIES).await.context("cannot open the object store bucket `bodies`")
    }

    pub(crate) async fn state_bucket(&self) -> anyhow::Result<kv::Store> {
        self.jetstream.get_key_value(STATE).await.context("cannot open the KV bucket `state`")
    }

    pub(crate) async fn recovery_bucket(&self) -> anyhow::Result<kv::Store> {
        self.jetstream.get_key_value(RECOVERY).await.context("cannot open the KV bucket `recovery`")
    }

    pub(crate) async fn cursors_bucket(&self) -> anyhow::Result<kv::Store> {
        self.jetstream.get_key_value(CURSORS).await.context("cannot open the KV bucket `cursors`")
    }

    pub(crate) async fn asides_bucket(&self) -> anyhow::Result<kv::Store> {
        self.jetstream.get_key_value(ASIDES).await.context("cannot open the KV bucket `asides`")
    }
}

async fn connect_options(nats: &Nats, name: &str, connection: Connection) -> anyhow::Result<ConnectOptions> {
    let mut options = ConnectOptions::new()
        .name(name)
        .connection_timeout(nats.timeout())
        .request_timeout(Some(nats.timeout()))
        .ping_interval(Duration::from_secs(10))
        .client_capacity(UNCONFIRMED_MAX)
        // Subjects are built from escaped tokens only.
        .skip_subject_validation(true)
        .reconnect_delay_callback(|attempts| Duration::from_millis((attempts as u64 * 50).min(2_000)))
        .custom_inbox_prefix(&nats.inbox_prefix)
        .event_callback(move |event| {
            if matches!(event, Event::Disconnected) {
                connection.lost();
            }
            async move {
                match event {
                    // For example, our user lacks a right. NATS then does not answer the request itself.
                    Event::ServerError(error) => tracing::warn!(%error, "NATS refused what was asked"),
                    event => tracing::debug!(%event, "NATS connection event"),
                }
            }
        });
    if let Some(path) = &nats.credentials_path {
        options = options
            .credentials_file(path)
            .await
            .with_context(|| format!("cannot read the NATS credentials in {}", path.display()))?;
    }
    if let Some(user) = &nats.user {
        options = options.user_and_password(user.clone(), nats.password.expose().to_owned());
    }
    if !nats.token.is_empty() {
        options = options.token(nats.token.expose().to_owned());
    }
    if let Some(path) = &nats.ca_path {
        // The client library reads the file at each connection, and names neither the file nor what it lacks.
        read_ca_file(path)?;
        options = options.add_root_certificates(path.clone());
    }
    Ok(options)
}
