//! The objects of a bucket, as a source that is asked: S3 and what is compatible with it, Google Cloud Storage, Azure.
//!
//! It knows where lines are, and nothing of what is in them: a source gives it [`Records`]. An object never changes once it
//! is listed. With another tag it is another object, so its content is read anew. `list` finds what to read, `read` reads
//! it, `trouble` decides what follows when one cannot be read, `position` is the cursor and tells how each object is read
//! once. `service` makes the requests, `answers` tells what their failures mean.
//!
//! It must never take an object for read that was not, and one object that cannot be read must not stop the others.

mod answers;
pub mod config;
mod content;
mod list;
mod position;
mod read;
mod service;
mod trouble;
mod wait;
mod warnings;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use async_trait::async_trait;
use headrace_runtime::fault::Fault;
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use self::config::{Bucket, Config};
use self::content::PIECES_BYTES_MAX;
use self::position::Position;
use self::read::Reader;
use self::service::{Client, Start};
use crate::lines::{Limits, Records};
use crate::source::pull::{Cursor, Pace, Page, Pull};

/// The longest page. It ends by itself after the time in [`crate::lines::Limits`] and three requests: one for an object, and two
/// to find out whose trouble it is when that fails.
const TIMEOUT: Duration = Duration::from_secs(90);

/// What is read, and how.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) bucket: Bucket,
    pub(crate) config: Config,
    /// The ends of the names of those objects that are read.
    pub(crate) suffixes: Vec<String>,
    /// The pause between two looks.
    pub(crate) interval: Duration,
    /// The longest line that becomes a record.
    pub(crate) line_bytes_max: usize,
}

impl Settings {
    /// Whose position it is: another bucket, folder or suffix has another.
    fn id(&self) -> String {
        let endpoint = self.config.endpoint.as_deref().unwrap_or_default();
        let bucket = self.bucket.told();
        let mut hash = Sha256::new();
        let suffixes: BTreeSet<&str> = self.suffixes.iter().map(String::as_str).collect();
        for part in ["bucket", endpoint, &bucket].into_iter().chain(suffixes) {
            hash.update(part);
            hash.update(b"\0");
        }
        hex::encode(&hash.finalize()[..8])
    }
}

/// The objects of a bucket.
pub(crate) struct Objects {
    source: &'static str,
    name: &'static str,
    of: String,
    settings: Settings,
    client: Client,
    /// One look at a time.
    reader: Arc<Mutex<Reader>>,
}

impl Objects {
    /// The objects that `settings` mean, as `name` of `source`. `records` makes their lines records.
    ///
    /// # Errors
    /// When no client can be made of the settings, such as with a key that is none.
    pub(crate) fn new(
        source: &'static str,
        name: &'static str,
        settings: Settings,
        records: Arc<dyn Records>,
    ) -> anyhow::Result<Self> {
        let client = Client::new(&settings.bucket, &settings.config)?;
        let reader = Reader::new(format!("{source}.{name}"), settings.clone(), records, client.clone());
        Ok(Self { source, name, of: settings.id(), settings, client, reader: Arc::new(Mutex::new(reader)) })
    }
}

#[async_trait]
impl Pull for Objects {
    fn source(&self) -> &'static str {
        self.source
    }

    fn name(&self) -> &str {
        self.name
    }

    fn pace(&self) -> Pace {
        Pace { interval: self.settings.interval, pages_per_hour: None, timeout: TIMEOUT }
    }

    fn page_bytes_max(&self) -> usize {
        Limits::default().page_bytes_max(self.settings.line_bytes_max) + PIECES_BYTES_MAX
    }

    async fn check(&self) -> Result<(), Fault> {
        let operation = || format!("list the bucket {}", self.settings.bucket.told());
        let listed = self.client.list(Start::Beginning, 1).await;
        listed.map(|_| ()).map_err(|failure| failure.fault(&operation()))
    }

    async fn page(&self, cursor: Option<&Cursor>) -> Result<Page, Fault> {
        let position = match cursor.filter(|cursor| cursor.get("of").is_some_and(|of| *of == self.of)) {
            None => Position::of(&self.of),
            Some(cursor) => serde_json::from_value(cursor.clone())
                .with_context(|| {
                    let name = format!("{}.{}", self.source, self.name);
                    format!("expected a cursor of a bucket, found another; run `headrace sources rewind {name}`")
                })
                .map_err(Fault::broken)?,
        };
        let Ok(mut reader) = Arc::clone(&self.reader).try_lock_owned() else {
            return Err(Fault::transient(anyhow!("the last look into {} has not ended", self.settings.bucket.told())));
        };
        // When this future is dropped, the thread below need not wait for its request.
        let _wanted = reader.begin();
        let looked = spawn_blocking(move || reader.page(position)).await;
        let page = looked.context("the look into the bucket was cut off").map_err(Fault::transient)??;
        let cursor = serde_json::to_value(page.position);
        let cursor = cursor.context("cannot write a position as JSON").map_err(Fault::broken)?;
        Ok(Page { records: page.records, cursor: Some(cursor), has_more: page.has_more })
    }
}

#[cfg(test)]
mod tests;
