//! How often something may be done in an hour, over all processes.
//!
//! A KV bucket counts by minute. A process takes before it uses: when it dies, the rest is wasted, but nothing is ever
//! spent twice.

use std::collections::BTreeMap;

use anyhow::Context as _;
use headrace_schemas::time::Timestamp;

use crate::state::StateStore;

/// Several may take at the same time. Each round of tries succeeds for one of them.
const TRIES: usize = 50;

/// What may be spent in any hour. Cheap to clone.
#[derive(Clone)]
pub struct Budget {
    store: StateStore,
    key: String,
    per_hour: usize,
}

/// What was taken, by minutes since the epoch.
type Spent = BTreeMap<i64, usize>;

impl Budget {
    /// A budget of `per_hour`, counted at `key`.
    #[must_use]
    pub fn new(store: StateStore, key: impl Into<String>, per_hour: usize) -> Self {
        Self { store, key: key.into(), per_hour }
    }

    /// Takes up to `wanted`, less when the hour's budget is used up.
    ///
    /// # Errors
    /// When the broker does not answer, or the record at the key cannot be read.
    pub async fn take(&self, wanted: usize) -> anyhow::Result<usize> {
        let key = &self.key;
        for _ in 0..TRIES {
            let entry = self.store.load(key).await.map_err(|fault| fault.source)?;
            let spent = entry.as_ref().map(|entry| serde_json::from_slice(&entry.value)).transpose();
            let mut spent: Spent =
                spent.with_context(|| format!("the record `{key}` cannot be read"))?.unwrap_or_default();
            let granted = take(&mut spent, wanted, self.per_hour, Timestamp::now());
            if granted == 0 {
                return Ok(0);
            }
            let value = serde_json::to_vec(&spent).context("cannot write the budget as JSON")?;
            if self.store.save(key, value.into(), entry.as_ref()).await.map_err(|fault| fault.source)? {
                return Ok(granted);
            }
        }
        anyhow::bail!("the record `{key}` changes all the time")
    }
}

fn take(spent: &mut Spent, wanted: usize, per_hour: usize, now: Timestamp) -> usize {
    let minute = now.as_micros().div_euclid(60_000_000);
    // The oldest minute counts in full, even though the hour covers only a part of it.
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
