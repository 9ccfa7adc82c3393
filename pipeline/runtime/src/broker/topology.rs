//! Makes the streams and buckets as configured.
//!
//! Whatever is already as configured is left alone, so that a user who may not change streams can start a process.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::{ErrorCode, stream};
use headrace_schemas::codec::all_schemas;

use crate::broker::{ASIDES, BODIES, Broker, CURSORS, RECOVERY, SCHEMAS, STATE, Stream};
use crate::config::Streams;

/// The advice for a request that NATS did not answer because our user may not make it.
const RIGHTS: &str = "NATS does not answer a user without the right to change streams: run `headrace check --migrate` \
                      as one who has it";

impl Broker {
    /// Creates or updates the streams and buckets that are not as configured, and publishes this release's schemas.
    /// Every process may call it at every start.
    ///
    /// # Errors
    /// When JetStream is off, lacks room for the configured limits, or refuses a change.
    pub async fn ensure_topology(&self, streams: &Streams) -> anyhow::Result<()> {
        for stream in Stream::ALL {
            let limits = stream.limits(streams);
            self.ensure_stream(stream_config(stream, streams)).await.with_context(|| {
                format!(
                    "cannot create the stream {} of {} bytes; NATS must run with JetStream and have that much disk{}. {RIGHTS}",
                    stream.name(),
                    limits.max_bytes,
                    lower(stream)
                )
            })?;
        }
        let bodies = self.ensure_stream(bodies_config(streams)).await;
        bodies.with_context(|| format!("cannot create the object store bucket `{BODIES}`. {RIGHTS}"))?;
        self.ensure_bucket(SCHEMAS, "Avro schemas by CRC-64-AVRO fingerprint", Duration::ZERO, streams.replicas)
            .await?;
        self.ensure_state(streams).await?;
        self.ensure_bucket(RECOVERY, "proofs of missed and recovered deliveries", hours(30 * 24), streams.replicas)
            .await?;
        // Kept for ever: a source may have nothing new for years.
        self.ensure_bucket(CURSORS, "how far sources were read", Duration::ZERO, streams.replicas).await?;
        // Kept for ever: a sink may be set aside for months.
        self.ensure_bucket(ASIDES, "paused sinks, and what sinks missed", Duration::ZERO, streams.replicas).await?;
        self.publish_schemas().await
    }

    /// Makes only the bucket of the stages' state. Streams that are made after it count as made anew.
    pub(crate) async fn ensure_state(&self, streams: &Streams) -> anyhow::Result<()> {
        self.ensure_bucket(STATE, "what stages remember across events", hours(7 * 24), streams.replicas).await
    }

    async fn ensure_stream(&self, wanted: stream::Config) -> anyhow::Result<()> {
        let wanted = match self.config_of(&wanted.name).await? {
            Some(found) => {
                let wanted = merged(&found, wanted);
                if wanted == found {
                    return Ok(());
                }
                wanted
            }
            None => wanted,
        };
        self.jetstream().create_or_update_stream(wanted).await?;
        Ok(())
    }

    async fn ensure_bucket(
        &self,
        name: &str,
        description: &str,
        max_age: Duration,
        replicas: usize,
    ) -> anyhow::Result<()> {
        let config = stream::Config {
            name: kv_stream(name),
            description: Some(description.to_owned()),
            subjects: vec![format!("$KV.{name}.>")],
            max_messages_per_subject: 1,
            max_age,
            num_replicas: replicas,
            ..bucket_config()
        };
        let made = self.ensure_stream(config).await;
        made.with_context(|| format!("cannot create the KV bucket `{name}`. {RIGHTS}"))
    }

    async fn publish_schemas(&self) -> anyhow::Result<()> {
        let schemas = self.jetstream().get_key_value(SCHEMAS).await.context("cannot open the bucket `schemas`")?;
        for (name, fingerprint, avsc) in all_schemas() {
            let key = format!("{fingerprint:016x}");
            let found = schemas.get(&key).await.with_context(|| format!("cannot look for the schema of {name}"))?;
            if found.is_none_or(|found| found != avsc.as_bytes()) {
                let put = schemas.put(&key, avsc.into()).await;
                put.with_context(|| format!("cannot publish the schema of {name}. {RIGHTS}"))?;
            }
        }
        Ok(())
    }

    /// A stream's configuration; `None` when there is no such stream.
    async fn config_of(&self, name: &str) -> anyhow::Result<Option<stream::Config>> {
        match self.jetstream().get_stream(name).await {
            Ok(stream) => Ok(Some(stream.cached_info().config.clone())),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(refusal) if refusal.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                    Ok(None)
                }
                _ => Err(error).context("cannot see how it is made"),
            },
        }
    }
}

/// The setting that makes a stream smaller, as the end of a sentence.
fn lower(stream: Stream) -> String {
    match stream {
        // Its size is no setting.
        Stream::CatchUp => String::new(),
        _ => format!(", or set `streams.{}.max_bytes` lower", stream.name().to_ascii_lowercase()),
    }
}

/// The stream behind the KV bucket `name`, as NATS names it.
#[must_use]
pub(crate) fn kv_stream(name: &str) -> String {
    format!("KV_{name}")
}

fn stream_config(stream: Stream, streams: &Streams) -> stream::Config {
    let limits = stream.limits(streams);
    stream::Config {
        name: stream.name().to_owned(),
        subjects: vec![stream.subjects().to_owned()],
        max_age: hours(limits.max_age_hours),
        max_bytes: i64::try_from(limits.max_bytes).unwrap_or(i64::MAX),
        // What is in CATCHUP is for one consumer, and is removed when that has settled it.
        retention: match stream {
            Stream::CatchUp => stream::RetentionPolicy::WorkQueue,
            _ => stream::RetentionPolicy::Limits,
        },
        // A full stream refuses: dropping the oldest would lose what no consumer has read yet.
        // `retention` makes room by removing what all of them have settled.
        discard: stream::DiscardPolicy::New,
        storage: stream::StorageType::File,
        num_replicas: streams.replicas,
        // NATS refuses a window that is longer than messages are kept. An age of 0 is none.
        duplicate_window: match limits.max_age_hours {
            0 => streams.duplicate_window(),
            age => streams.duplicate_window().min(hours(age)),
        },
        allow_direct: true,
        // A person removes single dead letters from DEAD. Nobody has a reason to remove a single message from the
        // others.
        deny_delete: stream != Stream::Dead,
        // `retention` purges the others.
        deny_purge: stream == Stream::Dead,
        ..stream::Config::default()
    }
}

/// The object store bucket `bodies`, as NATS makes one.
fn bodies_config(streams: &Streams) -> stream::Config {
    stream::Config {
        name: format!("OBJ_{BODIES}"),
        description: Some("bodies over the server's max_payload; RAW holds the reference".to_owned()),
        subjects: vec![format!("$O.{BODIES}.C.>"), format!("$O.{BODIES}.M.>")],
        // A dead letter must keep its body for as long as it is kept itself.
        max_age: hours(streams.raw.max_age_hours.max(streams.dead.max_age_hours)),
        num_replicas: streams.replicas,
        ..bucket_config()
    }
}

/// What all buckets have in common: NATS' own settings for buckets, but without roll-ups. With roll-ups, whoever may
/// write one key or body could remove all of them.
fn bucket_config() -> stream::Config {
    stream::Config {
        discard: stream::DiscardPolicy::New,
        storage: stream::StorageType::File,
        allow_direct: true,
        allow_rollup: false,
        deny_delete: true,
        deny_purge: true,
        ..stream::Config::default()
    }
}

/// `found`, with the settings that we decide taken from `wanted`. The rest is the operator's.
fn merged(found: &stream::Config, wanted: stream::Config) -> stream::Config {
    stream::Config {
        subjects: wanted.subjects,
        max_age: wanted.max_age,
        // We set no size for buckets (0), which NATS may report as -1: keep what is there.
        max_bytes: if wanted.max_bytes == 0 { found.max_bytes } else { wanted.max_bytes },
        discard: wanted.discard,
        storage: wanted.storage,
        num_replicas: wanted.num_replicas,
        duplicate_window: if wanted.duplicate_window.is_zero() {
            found.duplicate_window
        } else {
            wanted.duplicate_window
        },
        allow_direct: wanted.allow_direct,
        allow_rollup: wanted.allow_rollup,
        // NATS never takes these two back, and refuses a change that tries to.
        deny_delete: wanted.deny_delete || found.deny_delete,
        deny_purge: wanted.deny_purge || found.deny_purge,
        ..found.clone()
    }
}

const fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3_600)
}
