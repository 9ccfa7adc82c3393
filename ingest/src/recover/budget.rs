//! How many redeliveries may be asked for in any hour, over all hooks and processes.
//!
//! Counted by minute in the KV bucket `recovery`, and taken before it is used: a process that dies wastes
//! what it had taken, and never spends it twice.

use std::collections::BTreeMap;

use anyhow::Context as _;
use headrace_runtime::state::StateStore;
use headrace_schemas::time::Timestamp;

const KEY: &str = "budget";
/// Hooks that take at the same time: each try succeeds for one of them.
const TRIES: usize = 50;

/// The budget of an hour. Cheap to clone.
#[derive(Clone)]
pub(super) struct Budget {
    store: StateStore,
    per_hour: usize,
}

/// Redeliveries asked for, by minutes since the epoch.
type Spent = BTreeMap<i64, usize>;

impl Budget {
    pub(super) const fn new(store: StateStore, per_hour: usize) -> Self {
        Self { store, per_hour }
    }

    /// Takes up to `wanted`; less when the hour's budget ends there.
    pub(super) async fn take(&self, wanted: usize) -> anyhow::Result<usize> {
        for _ in 0..TRIES {
            let entry = self.store.load(KEY).await.map_err(|fault| fault.source)?;
            let spent = entry.as_ref().map(|entry| serde_json::from_slice(&entry.value)).transpose();
            let mut spent: Spent = spent.context("the record `budget` cannot be read")?.unwrap_or_default();
            let granted = take(&mut spent, wanted, self.per_hour, Timestamp::now());
            if granted == 0 {
                return Ok(0);
            }
            let value = serde_json::to_vec(&spent).context("cannot write the budget as JSON")?;
            if self.store.save(KEY, value.into(), entry.as_ref()).await.map_err(|fault| fault.source)? {
                return Ok(granted);
            }
        }
        anyhow::bail!("the record `budget` changes all the time")
    }
}

fn take(spent: &mut Spent, wanted: usize, per_hour: usize, now: Timestamp) -> usize {
    let minute = now.as_micros().div_euclid(60_000_000);
    // A minute that the hour only partly covers counts in full.
    spent.retain(|own, _| *own >= minute - 60);
    let granted = wanted.min(per_hour.saturating_sub(spent.values().sum()));
    if granted > 0 {
        *spent.entry(minute).or_default() += granted;
    }
    granted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_hour_has_more_than_its_budget() {
        let mut spent = Spent::new();
        let mut take_at = |minute: i64, wanted| take(&mut spent, wanted, 10, Timestamp::from_seconds(minute * 60 + 59));
        assert_eq!([take_at(0, 4), take_at(30, 4), take_at(30, 4), take_at(59, 4)], [4, 4, 2, 0]);
        assert_eq!([take_at(60, 4), take_at(61, 9), take_at(91, 9)], [0, 4, 6]);
    }
}
