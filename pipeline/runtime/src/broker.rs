//! The connection to NATS, and what Headrace keeps there: four streams, the object store bucket
//! `bodies`, the KV buckets `schemas`, `state` and `recovery`.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::ConnectOptions;
use async_nats::connection::State as ConnectionState;
use async_nats::jetstream::{self, kv, object_store, stream};
use headrace_schemas::codec::all_schemas;
use headrace_schemas::subject;

use crate::config::{Limits, Nats, Streams};

/// The oldest NATS whose consumers do not skip what is given the sequences of messages that it lost: it puts
/// them back when it starts (nats-server's pull request 7692). Major, minor and patch version.
const NATS_MIN: (i64, i64, i64) = (2, 14, 0);
/// Publishes that may wait for their confirmation at once, in one process.
const UNCONFIRMED_MAX: usize = 16_384;
/// Room for headers when a body is compared with the server's `max_payload`.
const HEADER_ROOM_BYTES: usize = 16 << 10;
/// Bucket of bodies that are too large for a message.
const BODIES: &str = "bodies";
/// Bucket that maps a schema's fingerprint (16 hex digits) to its text.
const SCHEMAS: &str = "schemas";
/// Bucket of what stages remember across events.
const STATE: &str = "state";
/// Bucket of what is known of missed deliveries.
const RECOVERY: &str = "recovery";

/// One of the four streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Bodies as they came.
    Raw,
    /// Events between stages and to the sinks.
    Events,
    /// Alerts.
    Alerts,
    /// What can never succeed.
    Dead,
}

impl Stream {
    /// All streams.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Events, Self::Alerts, Self::Dead];

    /// The stream's name in NATS.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "RAW",
            Self::Events => "EVENTS",
            Self::Alerts => "ALERTS",
            Self::Dead => "DEAD",
        }
    }

    pub(crate) const fn subjects(self) -> &'static str {
        match self {
            Self::Raw => subject::RAW,
            Self::Events => subject::EVENTS,
            Self::Alerts => subject::ALERTS,
            Self::Dead => subject::DEAD,
        }
    }

    const fn limits(self, streams: &Streams) -> Limits {
        match self {
            Self::Raw => streams.raw,
            Self::Events => streams.events,
            Self::Alerts => streams.alerts,
            Self::Dead => streams.dead,
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
}

impl Broker {
    /// Connects; afterwards the connection is kept up for ever.
    ///
    /// # Errors
    /// When no server answers within the configured time, it refuses us, or it is too old.
    pub async fn connect(nats: &Nats, streams: &Streams, name: &str) -> anyhow::Result<Self> {
        let servers: Vec<&str> = nats.url.split(',').map(str::trim).collect();
        let client = connect_options(nats, name).await?.connect(servers).await.with_context(|| {
            format!("cannot connect to NATS at {}; is it running, and is `nats.url` right?", nats.url)
        })?;
        let (major, minor, patch) = NATS_MIN;
        anyhow::ensure!(
            client.is_server_compatible(major, minor, patch),
            "expected NATS {major}.{minor} or later at {}, found {}; update the server: an older one skips messages after \
             it lost some",
            nats.url,
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
        })
    }

    /// Creates or updates the streams and buckets and publishes this release's schemas. Safe to call
    /// from every process at every start.
    ///
    /// # Errors
    /// When JetStream is off, lacks room for the configured limits, or refuses a change.
    pub async fn ensure_topology(&self, streams: &Streams) -> anyhow::Result<()> {
        for stream in Stream::ALL {
            let limits = stream.limits(streams);
            let config = stream_config(stream, streams);
            self.jetstream.create_or_update_stream(config).await.with_context(|| {
                format!(
                    "cannot create the stream {} of {} bytes; NATS must run with JetStream and have that much disk, or set \
                     `streams.{}.max_bytes` lower",
                    stream.name(),
                    limits.max_bytes,
                    stream.name().to_ascii_lowercase()
                )
            })?;
        }
        if self.jetstream.get_object_store(BODIES).await.is_err() {
            let config = object_store::Config {
                bucket: BODIES.to_owned(),
                description: Some("bodies over the server's max_payload; RAW holds the reference".to_owned()),
                // A dead letter must keep its body for as long as it is kept itself.
                max_age: hours(streams.raw.max_age_hours.max(streams.dead.max_age_hours)),
                num_replicas: streams.replicas,
                ..object_store::Config::default()
            };
            self.jetstream
                .create_object_store(config)
                .await
                .context("cannot create the object store bucket `bodies`")?;
        }
        self.bucket(SCHEMAS, "Avro schemas by CRC-64-AVRO fingerprint", Duration::ZERO, streams.replicas).await?;
        self.bucket(STATE, "what stages remember across events", hours(7 * 24), streams.replicas).await?;
        self.bucket(RECOVERY, "proofs of missed and recovered deliveries", hours(30 * 24), streams.replicas).await?;
        let schemas = self.jetstream.get_key_value(SCHEMAS).await.context("cannot open the bucket `schemas`")?;
        for (name, fingerprint, avsc) in all_schemas() {
            let key = format!("{fingerprint:016x}");
            schemas.put(&key, avsc.into()).await.with_context(|| format!("cannot publish the schema of {name}"))?;
        }
        Ok(())
    }

    async fn bucket(&self, name: &str, description: &str, max_age: Duration, replicas: usize) -> anyhow::Result<()> {
        let config = kv::Config {
            bucket: name.to_owned(),
            description: description.to_owned(),
            history: 1,
            max_age,
            num_replicas: replicas,
            ..kv::Config::default()
        };
        let created = self.jetstream.create_or_update_key_value(config).await;
        created.map(|_| ()).with_context(|| format!("cannot create the KV bucket `{name}`"))
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

    /// Whether the streams have replicas, so that each consumer has a leader among several servers.
    pub(crate) const fn is_replicated(&self) -> bool {
        self.replicated
    }

    /// The id of the server that we are connected to; it has a new one in each of its lives.
    pub(crate) fn server_id(&self) -> String {
        self.client.server_info().server_id
    }

    /// The largest body that travels as a message; a larger one goes to the bucket `bodies`.
    #[must_use]
    pub fn payload_max(&self) -> usize {
        self.client.server_info().max_payload.saturating_sub(HEADER_ROOM_BYTES)
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

    /// Writes everything that is buffered to the server, as far as it goes within the timeout.
    pub async fn flush(&self) {
        if let Ok(Err(error)) = tokio::time::timeout(self.timeout, self.client.flush()).await {
            tracing::warn!(%error, "the connection to NATS closed with unsent messages; they come again by redelivery");
        }
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
}

async fn connect_options(nats: &Nats, name: &str) -> anyhow::Result<ConnectOptions> {
    let mut options = ConnectOptions::new()
        .name(name)
        .connection_timeout(nats.timeout())
        .request_timeout(Some(nats.timeout()))
        .ping_interval(Duration::from_secs(10))
        .client_capacity(UNCONFIRMED_MAX)
        // Subjects are built from escaped tokens only.
        .skip_subject_validation(true)
        .reconnect_delay_callback(|attempts| Duration::from_millis((attempts as u64 * 50).min(2_000)))
        .event_callback(|event| async move { tracing::debug!(%event, "NATS connection event") });
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
        options = options.add_root_certificates(path.clone());
    }
    Ok(options)
}

fn stream_config(stream: Stream, streams: &Streams) -> stream::Config {
    let limits = stream.limits(streams);
    stream::Config {
        name: stream.name().to_owned(),
        subjects: vec![stream.subjects().to_owned()],
        max_age: hours(limits.max_age_hours),
        max_bytes: i64::try_from(limits.max_bytes).unwrap_or(i64::MAX),
        // A full stream refuses: dropping the oldest would lose what no consumer has read yet.
        // `retention` makes room by removing what all of them have settled.
        discard: stream::DiscardPolicy::New,
        storage: stream::StorageType::File,
        num_replicas: streams.replicas,
        duplicate_window: streams.duplicate_window().min(hours(limits.max_age_hours)),
        allow_direct: true,
        ..stream::Config::default()
    }
}

const fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3_600)
}
