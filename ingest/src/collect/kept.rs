//! What is kept of a source that is asked: its cursor, and how it was last found. Both are in the KV bucket `cursors`.
//!
//! `cursor.<source>.<name>` is the cursor. Only the process with the lease writes it, by compare-and-set, and only after
//! everything before it is stored. `status.<source>.<name>` is for people; nothing depends on it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use headrace_runtime::fault::Fault;
use headrace_runtime::state::{Entry, StateStore};
use headrace_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::source::pull::{CURSOR_BYTES_MAX, Cursor};

const CURSOR: &str = "cursor.";
const STATUS: &str = "status.";

/// A status is written after each change, and otherwise this often.
const WRITTEN_EVERY: Duration = Duration::from_secs(10);
/// A status counts as current for three waits and this margin.
const CURRENT_MARGIN: Duration = Duration::from_secs(60);

/// How a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It answers, and the broker takes what it gives.
    Healthy,
    /// It, or the broker, is away. It is asked again.
    Degraded,
    /// A person must act.
    Broken,
}

/// How a source was last found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// How it is.
    pub state: Standing,
    /// Why it is not healthy.
    pub why: Option<String>,
    /// When it had last been read completely.
    pub read_at: Option<Timestamp>,
    /// By when the process that reads it should have written again.
    pub current_until: Timestamp,
}

/// Everything that is kept of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// How far it was read. `None` when nothing was read, or everything is to be read again.
    pub cursor: Option<Cursor>,
    /// How it was last found.
    pub status: Option<Status>,
}

/// What is kept of each source, by `<source>.<name>`.
///
/// # Errors
/// When the broker does not answer, or something else stands where a cursor should.
pub async fn progress(store: &StateStore) -> anyhow::Result<BTreeMap<String, Progress>> {
    let mut all: BTreeMap<String, Progress> = BTreeMap::new();
    for key in store.keys("").await.map_err(|fault| fault.source)? {
        let Some(entry) = store.load(&key).await.map_err(|fault| fault.source)? else { continue };
        if let Some(name) = key.strip_prefix(CURSOR) {
            all.entry(name.to_owned()).or_default().cursor = Some(parsed(&key, &entry)?);
        } else if let Some(name) = key.strip_prefix(STATUS) {
            all.entry(name.to_owned()).or_default().status = Some(parsed(&key, &entry)?);
        }
    }
    Ok(all)
}

/// Forgets the cursor of the source `name`, `<source>.<name>`: everything is read again. False if there was none.
///
/// # Errors
/// When the broker does not answer, or the cursor changes all the time.
pub async fn forget(store: &StateStore, name: &str) -> anyhow::Result<bool> {
    /// A page takes far longer than a try.
    const TRIES: usize = 50;
    let key = format!("{CURSOR}{name}");
    for _ in 0..TRIES {
        let Some(entry) = store.load(&key).await.map_err(|fault| fault.source)? else { return Ok(false) };
        if store.remove(&key, &entry).await.map_err(|fault| fault.source)? {
            return Ok(true);
        }
    }
    anyhow::bail!("the cursor of {name} changes all the time; stop the role `collect` first")
}

/// Keeps the cursor and the status of one source.
pub(super) struct Kept {
    store: StateStore,
    name: String,
}

/// A cursor, as it was read.
pub(super) struct Read {
    pub(super) cursor: Option<Cursor>,
    entry: Option<Entry>,
}

impl Kept {
    pub(super) fn new(store: StateStore, name: &str) -> Self {
        Self { store, name: name.to_owned() }
    }

    pub(super) async fn cursor(&self) -> anyhow::Result<Read> {
        let key = format!("{CURSOR}{}", self.name);
        let entry = self.store.load(&key).await.map_err(|fault| fault.source)?;
        let cursor = entry.as_ref().map(|entry| parsed(&key, entry)).transpose()?;
        Ok(Read { cursor, entry })
    }

    /// Writes a cursor that [`encoded`] made, in place of `read`. False when somebody has written another one since.
    pub(super) async fn advance(&self, encoded: Vec<u8>, read: &Read) -> anyhow::Result<bool> {
        let key = format!("{CURSOR}{}", self.name);
        self.store.save(&key, encoded.into(), read.entry.as_ref()).await.map_err(|fault| fault.source)
    }

    pub(super) async fn status(&self) -> anyhow::Result<Option<Status>> {
        let key = format!("{STATUS}{}", self.name);
        let entry = self.store.load(&key).await.map_err(|fault| fault.source)?;
        entry.map(|entry| parsed(&key, &entry)).transpose()
    }

    /// Writes a status, in place of whatever there is.
    async fn tell(&self, status: &Status) -> anyhow::Result<()> {
        let key = format!("{STATUS}{}", self.name);
        let value = serde_json::to_vec(status).context("cannot write a status as JSON")?;
        let entry = self.store.load(&key).await.map_err(|fault| fault.source)?;
        self.store.save(&key, value.into(), entry.as_ref()).await.map_err(|fault| fault.source)?;
        Ok(())
    }
}

/// A cursor as it is kept.
///
/// # Errors
/// Broken when it is too large: nobody but the source's author can mend that.
pub(super) fn encoded(cursor: &Cursor, name: &str) -> Result<Vec<u8>, Fault> {
    let bytes = cursor.to_string().into_bytes();
    if bytes.len() > CURSOR_BYTES_MAX {
        return Err(Fault::broken(anyhow::anyhow!(
            "expected a cursor of at most {CURSOR_BYTES_MAX} bytes of the source {name}, found {}; this is a defect of \
             the source",
            bytes.len()
        )));
    }
    Ok(bytes)
}

fn parsed<T: serde::de::DeserializeOwned>(key: &str, entry: &Entry) -> anyhow::Result<T> {
    serde_json::from_slice(&entry.value).with_context(|| {
        format!("expected JSON at the key `{key}` of the bucket `cursors`, found something else; remove the key")
    })
}

/// Decides when the status is worth a write.
#[derive(Default)]
pub(super) struct Teller {
    told: Option<(Standing, tokio::time::Instant)>,
}

impl Teller {
    /// Writes the status if it changed or if the last one is old. `wait` is the time until the next one.
    pub(super) async fn tell(
        &mut self,
        kept: &Kept,
        state: Standing,
        why: Option<String>,
        read_at: Option<Timestamp>,
        wait: Duration,
    ) {
        if self.told.is_some_and(|(told, at)| told == state && at.elapsed() < WRITTEN_EVERY) {
            return;
        }
        let waits = wait.max(WRITTEN_EVERY) * 3 + CURRENT_MARGIN;
        let waits = i64::try_from(waits.as_micros()).unwrap_or(i64::MAX);
        let current_until = Timestamp::from_micros(Timestamp::now().as_micros().saturating_add(waits));
        // Nothing depends on it, and the next one makes up for it.
        match kept.tell(&Status { state, why, read_at, current_until }).await {
            Ok(()) => self.told = Some((state, tokio::time::Instant::now())),
            Err(error) => tracing::debug!(error = format!("{error:#}"), "cannot write the status of a source"),
        }
    }
}
