//! What the feeder asks of the installation's store: the events that a sink has missed, a slice at a time.

use async_trait::async_trait;
use headrace_schemas::event::Event;
use headrace_schemas::time::Timestamp;

use crate::fault::Fault;

/// What the store has kept of EVENTS.
#[async_trait]
pub trait History: Send + Sync {
    /// The finished events of `slice`, by their times and then by their [`Order`].
    ///
    /// # Errors
    /// Transient when the store is away, broken when a person must act.
    async fn events(&self, slice: &Slice<'_>) -> Result<Page, Fault>;

    /// When the first of its events was received, without reading any. `None` when the store has none.
    ///
    /// # Errors
    /// As above.
    async fn begins_at(&self) -> Result<Option<Timestamp>, Fault>;

    /// Whether it has an event that EVENTS stored before `at`.
    ///
    /// # Errors
    /// As above.
    async fn has_before(&self, at: Timestamp) -> Result<bool, Fault>;
}

/// What is asked of the store.
#[derive(Clone, Copy, Debug)]
pub struct Slice<'a> {
    /// Of that time or a later one.
    pub since: Timestamp,
    /// Of a time before that.
    pub until: Timestamp,
    /// Of the moment `since`, only what comes after this.
    pub after: Option<&'a Order>,
    /// With a subject that one of these filters takes. Empty means all.
    pub filters: &'a [String],
    /// Which rows are meant.
    pub wanted: Wanted,
    /// The most events to return.
    pub events_max: usize,
    /// No further event is returned when they take more bytes than this.
    pub bytes_max: usize,
}

/// Which rows are meant, and which of their times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Those that were made from EVENTS, by the time at which EVENTS stored them.
    Streamed,
    /// Also those that a replay or an earlier release made, by the time at which their delivery was received.
    All,
}

/// The place of an event among those of one moment. A request with many records gives all of them one time of reception.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The tenant.
    pub tenant: String,
    /// The id.
    pub id: String,
    /// The event time as the store has it.
    pub event_time: Timestamp,
}

/// What the store has of a slice.
#[derive(Debug, Default)]
pub struct Page {
    /// The rows, in order.
    pub rows: Vec<Row>,
    /// Whether the slice has more.
    pub is_cut: bool,
}

/// A row of the store.
#[derive(Debug)]
pub struct Row {
    /// The time by which it was asked for.
    pub at: Timestamp,
    /// Its place among those of that moment.
    pub order: Order,
    /// The event that it was made of, or why it makes none.
    pub event: Result<Event, anyhow::Error>,
}
