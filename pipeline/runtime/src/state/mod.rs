//! What stages remember across events: small values in JetStream KV, changed by compare-and-set.

pub mod budget;
pub mod installation;
pub mod lease;

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::kv;
use bytes::Bytes;
use futures::TryStreamExt as _;
use headrace_schemas::time::Timestamp;
use tokio::time::timeout;

use crate::broker::Broker;
use crate::fault::Fault;

/// How long the list of all keys may take to come.
const LIST_WITHIN: Duration = Duration::from_secs(30);

/// A value with the revision it was read at.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// Pass it back to [`StateStore::save`].
    pub revision: u64,
    /// When it was written, by the broker's clock.
    pub created: Timestamp,
}

/// A KV bucket. Cheap to clone.
#[derive(Clone)]
pub struct StateStore(kv::Store);

impl StateStore {
    /// Opens the bucket `state`, of what stages remember.
    ///
    /// # Errors
    /// When the broker does not answer or the bucket is missing.
    pub async fn open(broker: &Broker) -> anyhow::Result<Self> {
        broker.state_bucket().await.map(Self)
    }

    /// Opens the bucket `recovery`, of what is known of missed deliveries.
    ///
    /// # Errors
    /// When the broker does not answer or the bucket is missing.
    pub async fn open_recovery(broker: &Broker) -> anyhow::Result<Self> {
        broker.recovery_bucket().await.map(Self)
    }

    /// Opens the bucket `cursors`, of how far sources were read.
    ///
    /// # Errors
    /// When the broker does not answer or the bucket is missing.
    pub async fn open_cursors(broker: &Broker) -> anyhow::Result<Self> {
        broker.cursors_bucket().await.map(Self)
    }

    /// Opens the bucket `asides`, of which sinks are paused, what sinks missed, and the id of the installation.
    ///
    /// # Errors
    /// When the broker does not answer or the bucket is missing.
    pub async fn open_asides(broker: &Broker) -> anyhow::Result<Self> {
        broker.asides_bucket().await.map(Self)
    }

    /// Every key that begins with `prefix`, in order.
    ///
    /// # Errors
    /// Transient, when the broker does not answer.
    pub async fn keys(&self, prefix: &str) -> Result<Vec<String>, Fault> {
        let list = async { anyhow::Ok(self.0.keys().await?.try_collect::<Vec<String>>().await?) };
        // The client library waits for the last key for ever, even when that key is removed meanwhile.
        let listed = timeout(LIST_WITHIN, list).await.context("the broker did not list all keys in time");
        let mut keys = listed.and_then(|listed| listed).context("cannot list state").map_err(Fault::transient)?;
        keys.retain(|key| key.starts_with(prefix));
        keys.sort();
        Ok(keys)
    }

    /// Reads `key` (within `[a-z0-9_.-]`).
    ///
    /// # Errors
    /// Transient, when the broker does not answer.
    pub async fn load(&self, key: &str) -> Result<Option<Entry>, Fault> {
        let entry = self.0.entry(key).await.context("cannot read state").map_err(Fault::transient)?;
        Ok(entry.filter(|entry| entry.operation == kv::Operation::Put).map(|entry| {
            let created = Timestamp::from_unix_nanos(entry.created.unix_timestamp_nanos());
            Entry { value: entry.value, revision: entry.revision, created }
        }))
    }

    /// Removes `key`. It need not exist.
    ///
    /// # Errors
    /// Transient, when the broker does not answer.
    pub async fn forget(&self, key: &str) -> Result<(), Fault> {
        self.0.delete(key).await.context("cannot remove state").map_err(Fault::transient)
    }

    /// Writes `key`, provided that nobody has written it since `read`; with `None`, provided that it does not exist.
    /// Returns false when somebody has: read again and decide anew.
    ///
    /// # Errors
    /// Transient, when the broker does not answer.
    pub async fn save(&self, key: &str, value: Bytes, read: Option<&Entry>) -> Result<bool, Fault> {
        use kv::{CreateErrorKind, UpdateErrorKind};
        match read {
            Some(entry) => match self.0.update(key, value, entry.revision).await {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(false),
                Err(error) => Err(Fault::transient(anyhow::Error::new(error).context("cannot write state"))),
            },
            None => match self.0.create(key, value).await {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == CreateErrorKind::AlreadyExists => Ok(false),
                Err(error) => Err(Fault::transient(anyhow::Error::new(error).context("cannot write state"))),
            },
        }
    }

    /// Removes `key`, provided that nobody has written it since `read`. Returns false when somebody has.
    ///
    /// # Errors
    /// Transient, when the broker does not answer.
    pub async fn remove(&self, key: &str, read: &Entry) -> Result<bool, Fault> {
        match self.0.delete_expect_revision(key, Some(read.revision)).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => Ok(false),
            Err(error) => Err(Fault::transient(anyhow::Error::new(error).context("cannot remove state"))),
        }
    }
}
