//! The work of a replay: read deliveries, compute their events (`compute.rs`), write their rows (`write.rs`), note the
//! progress.
//!
//! Memory is bounded whatever the window. There is one page of RAW (16 MiB), one batch of deliveries (at most 8,000 of them or
//! 64 MiB, fewer with a small `memory.budget_mb`), and the ids of at most 32 unproven batches. Each batch is written before the next one is computed. So after
//! an interruption, the same command repeats only what was not noted yet.

use std::collections::VecDeque;
use std::mem::take;
use std::time::Duration;

use headrace_runtime::broker::Broker;
use headrace_runtime::component::batch::Item;
use headrace_runtime::component::stage::BoxedStage;
use headrace_runtime::consume::stream_reader::{StreamReader, Window};
use headrace_runtime::crash::{self, Point};
use headrace_runtime::fault::Fault;
use headrace_runtime::message::Delivered;
use headrace_runtime::message::payload::{Payload as _, RawDelivery};
use headrace_runtime::retry::RetryPolicy;
use headrace_schemas::event::Event;
use headrace_schemas::header;
use headrace_schemas::subject;
use headrace_sinks::clickhouse::{Rewrite, Unproven};
use tokio::time::{Instant, sleep_until};

use super::compute::compute;
use super::known::KnownDead;
use super::record::{Journal, Record, Totals};
use super::retry::Retry;
use super::status_line::StatusLine;
use super::write::{item, write_all};
use crate::config::memory::ReplayBatch;

/// How many unproven batches may wait, with at most some 16,000 ids each.
const UNPROVEN_MAX: usize = 32;

/// Where the rows go.
pub(super) struct Target {
    /// Events.
    pub(super) events: Rewrite<Event>,
    /// What else is needed because the sinks write to the same tables. `None` for a table of our own.
    pub(super) shared: Option<Shared>,
}

/// For tables that the sinks write too.
pub(super) struct Shared {
    /// The table `raw`, to which absent bodies are added.
    pub(super) bodies: Rewrite<RawDelivery>,
    /// How long a sink may still add the same row after we have added one.
    pub(super) proven_after: Duration,
}

/// A running replay.
pub(super) struct Work<'a> {
    pub(super) broker: &'a Broker,
    pub(super) window: Window,
    pub(super) stage: BoxedStage<RawDelivery, Event>,
    pub(super) target: Target,
    /// How large a batch may be.
    pub(super) batch_max: ReplayBatch,
    pub(super) policy: RetryPolicy,
    /// What was given up before the replay began.
    pub(super) known: KnownDead,
    pub(super) journal: Journal,
    pub(super) record: Record,
    pub(super) status_line: &'a mut StatusLine,
    /// Batches with unproven rows, the oldest first.
    pub(super) added: VecDeque<UnprovenBatch>,
}

/// A batch with rows that we added and a sink may have added too. They are checked once more at `due`.
pub(super) struct UnprovenBatch {
    due: Instant,
    events: Vec<Unproven>,
    bodies: Vec<Unproven>,
    /// The progress before this batch.
    before: Record,
}

/// Deliveries that are processed together.
#[derive(Default)]
struct Batch {
    deliveries: Vec<RawDelivery>,
    bytes: usize,
    /// The sequence of its last message, even if that could not be read.
    through: Option<u64>,
    totals: Totals,
}

impl Batch {
    /// How many deliveries there are, including those that cannot be read.
    const fn len(&self) -> usize {
        self.deliveries.len() + self.totals.failures.len()
    }
}

impl Work<'_> {
    /// Does what is left to do, and returns the totals of the whole replay.
    ///
    /// # Errors
    /// When a server is away for too long, or a person must act. The progress is kept.
    pub(super) async fn run(mut self) -> anyhow::Result<Totals> {
        let mut reader = StreamReader::open(self.broker, &self.window, self.record.through, self.record.last).await?;
        let (mut batch, mut failures) = (Batch::default(), 0);
        loop {
            let page = match reader.page().await {
                Ok(Some(page)) => page,
                Ok(None) => break,
                Err(error) => {
                    failures += 1;
                    self.retry().rest("read RAW", Fault::transient(error), failures).await?;
                    continue;
                }
            };
            failures = 0;
            for message in page {
                // Check the size before the message is read, because it may refer to a body of any size.
                if batch.bytes > 0 && batch.bytes.saturating_add(message.bytes_when_read()) > self.batch_max.bytes_max {
                    self.finish(take(&mut batch)).await?;
                }
                self.take(&message, &mut batch).await?;
                let ReplayBatch { deliveries_max, bytes_max } = self.batch_max;
                if batch.len() >= deliveries_max || batch.bytes >= bytes_max {
                    self.finish(take(&mut batch)).await?;
                }
            }
            let (done, at, last) = (self.record.totals.deliveries(), reader.position(), self.record.last);
            self.status_line
                .update(|| format!("{done} deliveries replayed; RAW is read up to {} of {last}", at.min(last)));
        }
        reader.close().await;
        self.finish(batch).await?;
        self.prove(0).await?;
        self.note(None).await?;
        Ok(self.record.totals)
    }

    const fn retry(&mut self) -> Retry<'_> {
        Retry { policy: self.policy, status_line: self.status_line }
    }

    /// Reads a message into the batch.
    async fn take(&mut self, message: &Delivered, batch: &mut Batch) -> anyhow::Result<()> {
        let broker = self.broker;
        batch.through = Some(message.sequence);
        match self.retry().attempt("read a body", async || RawDelivery::read(message, broker).await).await? {
            Ok(delivery) => {
                batch.bytes += delivery.size();
                batch.deliveries.push(delivery);
            }
            Err(poison) => {
                let id = message.header(header::ID).unwrap_or_default();
                batch.totals.fail(message.sequence, subject::tenant_of(message.subject()), id, &poison);
            }
        }
        Ok(())
    }

    /// Computes and writes a batch, and notes the progress.
    async fn finish(&mut self, batch: Batch) -> anyhow::Result<()> {
        let Batch { deliveries, through, mut totals, .. } = batch;
        let Some(through) = through else { return Ok(()) };
        let mut retry = Retry { policy: self.policy, status_line: self.status_line };
        let events = compute(&self.stage, &deliveries, &mut totals, &mut retry).await?;
        crash::pass(Point::BeforeReplace);
        let added = self.write(&events, deliveries, &mut totals).await?;
        crash::pass(Point::BeforeProgress);
        if let Some((due, events, bodies)) = added {
            self.added.push_back(UnprovenBatch { due, events, bodies, before: self.record.clone() });
        }
        self.record.through = Some(through);
        self.record.totals.add(totals, &self.known);
        self.prove(UNPROVEN_MAX).await?;
        let record = self.added.front().map_or(&self.record, |oldest| &oldest.before).clone();
        self.note(Some(&record)).await?;
        crash::pass(Point::AfterProgress);
        Ok(())
    }

    /// Writes rows and bodies. Returns those that are unproven, and when to check them.
    async fn write(
        &mut self,
        items: &[Item<Event>],
        deliveries: Vec<RawDelivery>,
        totals: &mut Totals,
    ) -> anyhow::Result<Option<(Instant, Vec<Unproven>, Vec<Unproven>)>> {
        let mut retry = Retry { policy: self.policy, status_line: self.status_line };
        let Target { events, shared } = &self.target;
        let written = write_all(&mut retry, items, totals, async |chunk| events.write(chunk).await).await?;
        totals.computed += written.fresh;
        totals.kept += written.kept;
        let Some(Shared { bodies, proven_after }) = shared else { return Ok(None) };
        let deliveries: Vec<Item<RawDelivery>> = deliveries
            .into_iter()
            .map(|value| {
                let sequence = value.sequence;
                item(value, sequence)
            })
            .collect();
        let stored = write_all(&mut retry, &deliveries, totals, async |chunk| bodies.write(chunk).await).await?;
        totals.bodies += stored.inserted;
        let due = Instant::now() + *proven_after;
        let is_added = !written.unproven.is_empty() || !stored.unproven.is_empty();
        Ok(is_added.then_some((due, written.unproven, stored.unproven)))
    }

    /// Checks the unproven batches that are due. While more than `left` batches wait, it waits for the oldest.
    async fn prove(&mut self, left: usize) -> anyhow::Result<()> {
        let Target { events, shared: Some(Shared { bodies, .. }) } = &self.target else { return Ok(()) };
        while let Some(oldest) = self.added.front() {
            if oldest.due > Instant::now() {
                if self.added.len() <= left {
                    break;
                }
                let waits = (oldest.due - Instant::now()).as_secs() + 1;
                self.status_line
                    .update(|| format!("rows were added; checking in {waits} s whether a sink added them too"));
                sleep_until(oldest.due).await;
            }
            let mut retry = Retry { policy: self.policy, status_line: self.status_line };
            for own in &oldest.events {
                retry.attempt("look at added rows", async || events.prove(own).await).await?.map_err(never)?;
            }
            for own in &oldest.bodies {
                retry.attempt("look at added bodies", async || bodies.prove(own).await).await?.map_err(never)?;
            }
            self.added.pop_front();
        }
        Ok(())
    }

    /// Notes the progress. `None` means that the replay is done.
    async fn note(&mut self, record: Option<&Record>) -> anyhow::Result<()> {
        let mut failures = 0;
        while let Err(fault) = self.journal.write(record).await {
            failures += 1;
            self.retry().rest("note how far the replay is", fault, failures).await?;
        }
        Ok(())
    }
}

/// A look-up concerns no single item, so its poison is an error of the whole replay.
fn never(poison: Fault) -> anyhow::Error {
    poison.source.context("ClickHouse refused a look-up")
}
