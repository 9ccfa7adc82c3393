//! How much of a range the store has. What somebody emptied or made anew since must not be struck out as brought.

use std::time::Duration;

use anyhow::Context as _;
use headrace_schemas::time::Timestamp;
use tokio::time::timeout;

use crate::aside::history::History;
use crate::aside::record::{Cause, Range};
use crate::fault::Fault;

/// The longest time for one question to the store.
const READ_MAX: Duration = Duration::from_secs(120);
/// How exactly the beginning of what the store has is looked for.
const EXACT: Duration = Duration::from_millis(1);

/// What the store has of the rest of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// Something as old as its beginning.
    All,
    /// Nothing before this time, and something after it.
    Since(Timestamp),
    /// Nothing.
    Nothing,
}

/// What `history` has of `range` before `until`, when clocks differ by `skew` at most.
pub(super) async fn kept(
    history: &dyn History,
    range: &Range,
    until: Timestamp,
    skew: Duration,
) -> anyhow::Result<Kept> {
    // A person may ask for all there is, since long before there was anything.
    if range.cause == Cause::Rewound {
        return Ok(Kept::All);
    }
    // A range begins with a message, less what clocks differ by. The store got that message, too. If it begins with a note of a
    // stream that was still empty, the store may have nothing as old, and nothing is lacking.
    let mut low = range.from.plus(skew * 2);
    let has_before = async |at| read(history.has_before(at)).await;
    if has_before(low).await? {
        return Ok(Kept::All);
    }
    if low >= until || !has_before(until).await? {
        return Ok(Kept::Nothing);
    }
    let mut high = until;
    while high.since(low) > EXACT {
        let middle = low.plus(high.since(low) / 2);
        *if has_before(middle).await? { &mut high } else { &mut low } = middle;
    }
    Ok(Kept::Since(low))
}

/// What to say of a range that the store has nothing of.
pub(super) fn lacks(Range { from, until, .. }: &Range) -> String {
    format!(
        "expected in the table `events` what this sink missed from {from} to {until}, found no row that EVENTS stored then or \
         before; if the rows are elsewhere, take them into this table, and they are brought; `headrace replay` makes those that \
         are lost anew, and `headrace sinks rewind` brings these; `headrace sinks skip NAME --until {until}` gives up what \
         cannot be had; other times are brought meanwhile"
    )
}

/// What the store answers, within a time.
pub(super) async fn read<T>(asked: impl Future<Output = Result<T, Fault>>) -> anyhow::Result<T> {
    let read = timeout(READ_MAX, asked).await;
    let read = read.with_context(|| format!("the store did not answer within {READ_MAX:?}"))?;
    read.map_err(|fault| fault.source).context("cannot read what was missed")
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::aside::history::{Page, Slice};

    /// A store whose first event EVENTS stored at this second, if it has any.
    struct Begins(Option<i64>);

    #[async_trait]
    impl History for Begins {
        async fn events(&self, _: &Slice<'_>) -> Result<Page, Fault> {
            Ok(Page::default())
        }

        async fn begins_at(&self) -> Result<Option<Timestamp>, Fault> {
            Ok(self.0.map(Timestamp::from_seconds))
        }

        async fn has_before(&self, at: Timestamp) -> Result<bool, Fault> {
            Ok(self.0.is_some_and(|first| Timestamp::from_seconds(first) < at))
        }
    }

    #[tokio::test]
    async fn what_a_store_has_of_a_range_is_found_to_a_millisecond() {
        let at = Timestamp::from_seconds;
        let of = async |first: Option<i64>, cause: Cause| {
            let range =
                Range { since: at(1_000), until: at(200_000), from: at(2_000), sequences: None, made_at: at(9), cause };
            kept(&Begins(first), &range, at(100_000), Duration::from_secs(1)).await.unwrap()
        };
        for (first, expected) in [
            (Some(0), Kept::All),
            (Some(2_001), Kept::All),
            (Some(100_000), Kept::Nothing),
            (Some(150_000), Kept::Nothing),
            (None, Kept::Nothing),
        ] {
            assert_eq!(of(first, Cause::Age).await, expected, "{first:?}");
        }
        assert_eq!(of(None, Cause::Rewound).await, Kept::All);
        for first in [2_003, 50_000, 99_999] {
            let Kept::Since(found) = of(Some(first), Cause::Full).await else { panic!("it begins within the range") };
            assert!(found <= at(first) && at(first).since(found) <= EXACT, "{first}: {found}");
        }
    }
}
