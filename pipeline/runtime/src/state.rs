//! What a stage remembers across events: small values in JetStream KV, changed by compare-and-set.

use anyhow::Context as _;
use async_nats::jetstream::kv;
use bytes::Bytes;

use crate::broker::Broker;
use crate::fault::Fault;

/// A value with the revision it was read at.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// Pass it back to [`StateStore::save`].
    pub revision: u64,
}

/// The KV bucket `state`. Cheap to clone.
#[derive(Clone)]
pub struct StateStore(kv::Store);

impl StateStore {
    /// Opens the bucket.
    ///
    /// # Errors
    /// When the broker does not answer or the bucket is missing.
    pub async fn open(broker: &Broker) -> anyhow::Result<Self> {
        broker.state_bucket().await.map(Self)
    }

    /// Reads `key` (within `[a-z0-9_.-]`).
    ///
    /// # Errors
    /// Transient, when the broker does not answer.
    pub async fn load(&self, key: &str) -> Result<Option<Entry>, Fault> {
        let entry = self.0.entry(key).await.context("cannot read state").map_err(Fault::transient)?;
        Ok(entry
            .filter(|entry| entry.operation == kv::Operation::Put)
            .map(|entry| Entry { value: entry.value, revision: entry.revision }))
    }

    /// Writes `key`, provided that nobody wrote it since `read` (`None`: that it does not exist).
    /// False when somebody did: read again and decide anew.
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
}
