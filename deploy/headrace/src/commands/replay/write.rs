//! Writes items to a table, in chunks, and finds those that ClickHouse refuses.

use headrace_runtime::component::batch::Item;
use headrace_runtime::fault::Fault;
use headrace_runtime::message::payload::{Identity, Payload};
use headrace_schemas::time::Timestamp;
use headrace_sinks::clickhouse::{ITEMS_MAX, Unproven, Written};

use super::record::Totals;
use super::retry::Retry;

/// The result of all chunks.
#[derive(Default)]
pub(super) struct AllWritten {
    /// Items whose event has a row of this replay.
    pub(super) fresh: u64,
    /// Rows that were inserted.
    pub(super) inserted: u64,
    /// Events that keep the row of another delivery.
    pub(super) kept: u64,
    /// Rows to check later.
    pub(super) unproven: Vec<Unproven>,
}

/// Writes `items` chunk by chunk. A refused chunk is cut into halves until the bad item is alone. That item fails, and
/// if it has a row already, the row stays.
///
/// # Errors
/// When ClickHouse is away for too long, or a person must act.
pub(super) async fn write_all<T: Payload>(
    retry: &mut Retry<'_>,
    items: &[Item<T>],
    totals: &mut Totals,
    write: impl AsyncFn(&[Item<T>]) -> Result<Written, Fault>,
) -> anyhow::Result<AllWritten> {
    let mut all = AllWritten::default();
    let mut chunks: Vec<&[Item<T>]> = items.chunks(ITEMS_MAX).rev().collect();
    while let Some(chunk) = chunks.pop() {
        match retry.attempt("write to ClickHouse", async || write(chunk).await).await? {
            Ok(Written { fresh, inserted, kept, unproven }) => {
                all.fresh += fresh;
                all.inserted += inserted;
                all.kept += kept;
                all.unproven.extend((!unproven.is_empty()).then_some(unproven));
            }
            Err(poison) => match chunk {
                [alone] => {
                    let Identity { tenant, id, .. } = alone.value.identity();
                    totals.fail(alone.sequence, tenant, id, &poison);
                }
                _ => {
                    let (first, second) = chunk.split_at(chunk.len() / 2);
                    chunks.extend([second, first]);
                }
            },
        }
    }
    Ok(all)
}

/// Wraps a value for a rewrite: every item is a suspect and is looked up first. Its message in EVENTS is not known, so the
/// rewriting takes over when that was stored from the row that it replaces.
pub(super) const fn item<T>(value: T, sequence: u64) -> Item<T> {
    Item { value, suspect: true, redelivered: true, sequence, stored_at: Timestamp::from_micros(0) }
}
