//! The records and pauses in the bucket `asides`, changed by compare-and-set.

use anyhow::Context as _;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::stream::ConsumerErrorKind;
use headrace_schemas::subject;
use headrace_schemas::time::Timestamp;

use crate::aside::consumer_of;
use crate::aside::record::Record;
use crate::broker::{Broker, Stream};
use crate::message::incarnation::epoch_key;
use crate::state::lease::Lease;
use crate::state::{Entry, StateStore};

/// How often to try a change while others make changes too.
const TRIES: usize = 32;

/// The bucket. Cheap to clone.
#[derive(Clone)]
pub struct Asides(StateStore);

impl Asides {
    /// Opens the bucket.
    ///
    /// # Errors
    /// When the broker does not answer or the bucket is missing.
    pub async fn open(broker: &Broker) -> anyhow::Result<Self> {
        StateStore::open_asides(broker).await.map(Self)
    }

    /// What `component` has missed.
    ///
    /// # Errors
    /// When the broker does not answer, or the record cannot be read.
    pub async fn record(&self, component: &str) -> anyhow::Result<Record> {
        Ok(self.read(component).await?.0)
    }

    /// Changes the record of `component` with `change`, which may be called several times. Returns what `change`
    /// returned the last time. A record that `change` leaves as it was is not written.
    ///
    /// # Errors
    /// When the broker does not answer, or the record cannot be read.
    pub async fn change<T>(&self, component: &str, mut change: impl FnMut(&mut Record) -> T) -> anyhow::Result<T> {
        for _ in 0..TRIES {
            let (before, entry) = self.read(component).await?;
            let mut record = before.clone();
            let outcome = change(&mut record);
            if record == before {
                return Ok(outcome);
            }
            let value = serde_json::to_vec(&record).context("cannot write the record as JSON")?;
            if self.0.save(&record_key(component), value.into(), entry.as_ref()).await.map_err(|fault| fault.source)? {
                return Ok(outcome);
            }
        }
        anyhow::bail!("the record of what {component} has missed changes all the time")
    }

    async fn read(&self, component: &str) -> anyhow::Result<(Record, Option<Entry>)> {
        let entry = self.0.load(&record_key(component)).await.map_err(|fault| fault.source)?;
        let record = entry.as_ref().map(|entry| serde_json::from_slice::<Record>(&entry.value)).transpose();
        // To begin with an empty record would forget what is missed.
        let record = record.with_context(|| {
            format!("expected the record of what {component} has missed, found something else in the bucket `asides`")
        })?;
        Ok((record.map(Record::parted).unwrap_or_default(), entry))
    }

    /// Since when a person has the sink `instance` paused; `None` when it runs.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn paused_since(&self, instance: &str) -> anyhow::Result<Option<Timestamp>> {
        let entry = self.0.load(&pause_key(instance)).await.map_err(|fault| fault.source)?;
        Ok(entry.map(|entry| entry.created))
    }

    /// Pauses the sink `instance`. False when it was paused already.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn pause(&self, instance: &str) -> anyhow::Result<bool> {
        self.0.save(&pause_key(instance), "paused".into(), None).await.map_err(|fault| fault.source)
    }

    /// Lets the sink `instance` go on. False when it was not paused.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn resume(&self, instance: &str) -> anyhow::Result<bool> {
        let is_paused = self.paused_since(instance).await?.is_some();
        if is_paused {
            self.0.forget(&pause_key(instance)).await.map_err(|fault| fault.source)?;
        }
        Ok(is_paused)
    }

    /// The lease of the process that brings `component` what it has missed.
    pub(crate) fn lease(&self, component: &str, holder: &str, ttl: std::time::Duration) -> Lease {
        Lease::new(self.0.clone(), format!("lease.{component}"), holder, ttl)
    }

    async fn forget(&self, component: &str) -> anyhow::Result<()> {
        for key in [record_key(component), format!("lease.{component}")] {
            self.0.forget(&key).await.map_err(|fault| fault.source)?;
        }
        Ok(())
    }
}

/// Removes what is kept for the catching up of `component`: its record, its consumer on CATCHUP and what waits there. The
/// record goes first, so that nothing more is brought, and once more at the end: who was bringing something noted it.
///
/// # Errors
/// When the broker does not answer or does not let us.
pub async fn remove(broker: &Broker, component: &str) -> anyhow::Result<()> {
    let asides = Asides::open(broker).await?;
    asides.forget(component).await?;
    let (name, stream) = (consumer_of(component), Stream::CatchUp.name());
    let handle = broker.jetstream().get_stream_no_info(stream).await.context("cannot open the stream CATCHUP")?;
    match handle.delete_consumer(&name).await {
        Ok(_) => {}
        Err(error) if is_absent(&error.kind()) => {}
        Err(error) => return Err(error).with_context(|| format!("cannot remove the consumer {name} of {stream}")),
    }
    let purged = handle.purge().filter(subject::catch_up_of(component)).await;
    purged.with_context(|| format!("cannot purge what waits for {component} in {stream}"))?;
    let state = StateStore::open(broker).await?;
    state.forget(&epoch_key(&name)).await.map_err(|fault| fault.source)?;
    asides.forget(component).await
}

fn is_absent(kind: &ConsumerErrorKind) -> bool {
    matches!(kind, ConsumerErrorKind::JetStream(error) if error.error_code() == ErrorCode::CONSUMER_NOT_FOUND)
}

fn record_key(component: &str) -> String {
    format!("missed.{component}")
}

fn pause_key(instance: &str) -> String {
    format!("paused.{instance}")
}
