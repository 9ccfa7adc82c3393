//! Items into a table, however many and whatever is refused.

use headrace_runtime::component::batch::Item;
use headrace_runtime::fault::Fault;
use headrace_runtime::message::payload::{Identity, Payload};
use headrace_sinks::clickhouse::{ITEMS_MAX, Unproven, Written};

use super::patience::Patience;
use super::record::Tally;

/// What became of several parts.
#[derive(Default)]
pub(super) struct AllWritten {
    /// Items whose event has a row of this replay.
    pub(super) fresh: u64,
    /// Rows that were inserted.
    pub(super) inserted: u64,
    /// Events that have a row of another delivery.
    pub(super) kept: u64,
    /// What to look at once more, later.
    pub(super) unproven: Vec<Unproven>,
}

/// Writes `items` part by part. Of a part that is refused, each half is a part, until the item that is to blame
/// stands alone: it fails, and its row, if it has one, stays.
///
/// # Errors
/// When ClickHouse is away for too long, or a person must act.
pub(super) async fn write_all<T: Payload>(
    patience: &mut Patience<'_>,
    items: &[Item<T>],
    tally: &mut Tally,
    write: impl AsyncFn(&[Item<T>]) -> Result<Written, Fault>,
) -> anyhow::Result<AllWritten> {
    let mut all = AllWritten::default();
    let mut parts: Vec<&[Item<T>]> = items.chunks(ITEMS_MAX).rev().collect();
    while let Some(part) = parts.pop() {
        match patience.attempt("write to ClickHouse", async || write(part).await).await? {
            Ok(Written { fresh, inserted, kept, unproven }) => {
                all.fresh += fresh;
                all.inserted += inserted;
                all.kept += kept;
                all.unproven.extend((!unproven.is_empty()).then_some(unproven));
            }
            Err(poison) => match part {
                [alone] => {
                    let Identity { tenant, id, .. } = alone.value.identity();
                    tally.fail(alone.sequence, tenant, id, &poison);
                }
                _ => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
            },
        }
    }
    Ok(all)
}

/// An item as a rewriting takes it.
pub(super) const fn item<T>(value: T, sequence: u64) -> Item<T> {
    Item { value, suspect: true, redelivered: true, sequence }
}
