//! A source that is asked for what it has, page by page.

use std::time::Duration;

use async_trait::async_trait;
use headrace_runtime::fault::Fault;
use serde_json::Value;

use super::Record;

/// How far a source was read: what the source itself needs to go on from there, as JSON of at most
/// [`CURSOR_BYTES_MAX`] bytes.
pub type Cursor = Value;

/// The largest cursor, in bytes. It is one value in the broker, which is written after each page.
pub const CURSOR_BYTES_MAX: usize = 256 << 10;

/// What a source had to give.
#[derive(Debug)]
pub struct Page {
    /// Its records, in the source's order. They are stored before the cursor is kept.
    pub records: Vec<Record>,
    /// How far it is read with this page. The same as before if there was nothing.
    pub cursor: Option<Cursor>,
    /// There is more at this moment, so the next page is asked for at once.
    pub has_more: bool,
}

/// How often a source is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The time from one page to the next, when the source has no more.
    pub interval: Duration,
    /// The most pages in an hour, over all processes. `None` where asking costs nobody anything.
    pub pages_per_hour: Option<usize>,
    /// The longest time for a page.
    pub timeout: Duration,
}

/// A source that is asked. Of several processes, one asks at a time.
///
/// It classifies failures. It never publishes, retries, waits or keeps a cursor: [`crate::collect`] does. A page may be
/// asked for again with the same cursor, by another process too. Then it should give the same records; those that were
/// stored are recognized.
#[async_trait]
pub trait Pull: Send + Sync + 'static {
    /// The source's name.
    fn source(&self) -> &'static str;

    /// What it asks, among all that its source asks: within `[a-z0-9_-]`, and the same as long as its cursor has a
    /// meaning.
    fn name(&self) -> &str;

    /// How often it is asked.
    fn pace(&self) -> Pace;

    /// Whether it answers and lets us in.
    ///
    /// # Errors
    /// Transient when it is away, broken when a person must act.
    async fn check(&self) -> Result<(), Fault>;

    /// The most bytes of memory that a page and its making take.
    fn page_bytes_max(&self) -> usize {
        64 << 20
    }

    /// What comes after `cursor`; from the beginning if there is none.
    ///
    /// # Errors
    /// Transient when it is away or asks to wait, broken when a person must act. Never poison: what can never be read
    /// becomes a record that says so.
    async fn page(&self, cursor: Option<&Cursor>) -> Result<Page, Fault>;
}
