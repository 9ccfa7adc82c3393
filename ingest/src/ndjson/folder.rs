//! The files of a folder, as a source that is asked: one record a line.
//!
//! Files are read in the order in which they last changed, each from where it was read to: a file that grows is read on,
//! by whole lines. A line that can never be read becomes a record that says so, so it stops nothing. Records have ids, so
//! a file that has to be read again does no harm. `scan` finds what to read, `read` reads it, `position` is the cursor.
//!
//! Buckets are read by [`crate::objects`]. This reader stays, because that one cannot do its work: an object has no inode, so
//! one that is renamed would be read again; it never grows; and its name is text, while a file's may have any bytes.

pub mod config;
mod failing;
mod position;
mod read;
mod scan;
mod warnings;

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use async_trait::async_trait;
use headrace_runtime::fault::Fault;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use self::config::Config;
use self::position::Position;
use self::read::{Reader, folder_id};
use super::SOURCE;
use crate::lines::Records;
use crate::source::pull::{Cursor, Pace, Page, Pull};

/// The folder's name among what the source asks.
pub(super) const NAME: &str = "folder";
/// The longest look. A network's file system may hang.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A folder.
pub(super) struct Folder {
    path: PathBuf,
    interval: Duration,
    page_bytes_max: usize,
    /// One look at a time. One that hangs cannot be ended, and must not be followed by more of them.
    reader: Arc<Mutex<Reader>>,
}

impl Folder {
    /// A folder as configured. `records` makes its lines records.
    pub(super) fn new(config: &Config, records: Arc<dyn Records>) -> Self {
        let reader = Reader::new(config, records);
        let page_bytes_max = reader.limits.page_bytes_max(config.line_bytes_max);
        let reader = Arc::new(Mutex::new(reader));
        Self { path: config.path(), interval: config.interval(), page_bytes_max, reader }
    }

    fn fault(&self, error: io::Error) -> Fault {
        let needs_person =
            matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::NotADirectory);
        let path = self.path.display();
        let error = anyhow::Error::new(error);
        if needs_person {
            Fault::broken(error.context(format!(
                "expected a folder that this account may read at {path}; make it, or set `ingest.ndjson.folder.url`"
            )))
        } else {
            Fault::transient(error.context(format!("cannot look into the folder {path}")))
        }
    }
}

#[async_trait]
impl Pull for Folder {
    fn source(&self) -> &'static str {
        SOURCE
    }

    fn name(&self) -> &str {
        NAME
    }

    fn pace(&self) -> Pace {
        Pace { interval: self.interval, pages_per_hour: None, timeout: TIMEOUT }
    }

    fn page_bytes_max(&self) -> usize {
        self.page_bytes_max
    }

    async fn check(&self) -> Result<(), Fault> {
        let path = self.path.clone();
        let looked = spawn_blocking(move || std::fs::read_dir(path).map(|_| ())).await;
        let looked = looked.context("the look into the folder was cut off").map_err(Fault::transient)?;
        looked.map_err(|error| self.fault(error))
    }

    async fn page(&self, cursor: Option<&Cursor>) -> Result<Page, Fault> {
        let position: Position = match cursor {
            None => Position::default(),
            // Of another folder, or of a bucket.
            Some(cursor) if cursor.get("of").is_some_and(|of| *of != folder_id(&self.path)) => Position::default(),
            Some(cursor) => serde_json::from_value(cursor.clone())
                .context("expected a cursor of a folder, found another; run `headrace sources rewind ndjson.folder`")
                .map_err(Fault::broken)?,
        };
        let Ok(mut reader) = Arc::clone(&self.reader).try_lock_owned() else {
            return Err(Fault::transient(anyhow!("the last look into the folder {} hangs", self.path.display())));
        };
        let looked = spawn_blocking(move || reader.page(position)).await;
        let looked = looked.context("the look into the folder was cut off").map_err(Fault::transient)?;
        let page = looked.map_err(|error| self.fault(error))?;
        let cursor = serde_json::to_value(page.position);
        let cursor = cursor.context("cannot write a position as JSON").map_err(Fault::broken)?;
        Ok(Page { records: page.records, cursor: Some(cursor), has_more: page.has_more })
    }
}

#[cfg(test)]
mod tests;
