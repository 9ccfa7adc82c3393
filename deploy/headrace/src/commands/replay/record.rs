//! What a replay keeps across an interruption, in JetStream KV.

use std::collections::BTreeMap;

use anyhow::Context as _;
use bytes::Bytes;
use headrace_runtime::fault::{DeadReason, Fault, FaultClass};
use headrace_runtime::state::{Entry, StateStore};
use headrace_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::known::KnownDead;

/// How many failed deliveries are listed. Others are only counted.
const LISTED_MAX: usize = 100;
/// How much of a failure's text is kept.
const DETAIL_CHARS: usize = 300;

/// The progress of a replay.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// Deliveries that were received then or later.
    pub(super) from: Timestamp,
    /// Deliveries that were received before then.
    pub(super) to: Timestamp,
    /// When it began, by ClickHouse's clock. Rows that were inserted before are replaced.
    pub(super) since: Timestamp,
    /// The last sequence of RAW that it reads.
    pub(super) last: u64,
    /// The sequence of RAW up to which everything is done.
    pub(super) through: Option<u64>,
    /// What became of the deliveries so far.
    #[serde(rename = "tally")]
    pub(super) totals: Totals,
}

/// What became of the deliveries.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Totals {
    /// Deliveries whose event has a row of this replay.
    pub(super) computed: u64,
    /// Deliveries whose event keeps the row of another delivery.
    pub(super) kept: u64,
    /// Deliveries that a configured filter left out.
    pub(super) filtered: u64,
    /// Bodies that were added to `raw`.
    pub(super) bodies: u64,
    /// Deliveries that failed and were dead letters before.
    #[serde(default)]
    pub(super) dead_before: u64,
    /// Other deliveries that failed, by reason.
    pub(super) failed: BTreeMap<String, u64>,
    /// The first of those. For a batch, all of them.
    pub(super) failures: Vec<FailedDelivery>,
}

/// A delivery that failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct FailedDelivery {
    /// Where it is, as `RAW:42`.
    pub(super) origin: String,
    /// The tenant, as a subject token.
    #[serde(default)]
    pub(super) tenant: String,
    /// Its event's id, when it has one.
    pub(super) id: String,
    /// The reason's code.
    pub(super) reason: String,
    /// The reason in words.
    pub(super) detail: String,
}

impl Totals {
    /// Notes a delivery that can never succeed.
    pub(super) fn fail(&mut self, sequence: u64, tenant: &str, id: &str, fault: &Fault) {
        let reason = match fault.class {
            FaultClass::Poison(reason) => reason.code(),
            FaultClass::Transient { .. } | FaultClass::Broken => DeadReason::Exhausted.code(),
        };
        let detail = fault.to_string().chars().take(DETAIL_CHARS).collect();
        let (tenant, id, reason) = (tenant.to_owned(), id.to_owned(), reason.to_owned());
        self.failures.push(FailedDelivery { origin: format!("RAW:{sequence}"), tenant, id, reason, detail });
    }

    /// How many failed.
    pub(super) fn failed(&self) -> u64 {
        self.failed.values().sum()
    }

    /// How many deliveries were processed.
    pub(super) fn deliveries(&self) -> u64 {
        self.computed + self.kept + self.filtered + self.dead_before + self.failed()
    }

    /// Adds the totals of a batch. `known` are the events that were given up before.
    pub(super) fn add(&mut self, batch: Self, known: &KnownDead) {
        let Self { computed, kept, filtered, bodies, dead_before: _, failed: _, failures } = batch;
        self.computed += computed;
        self.kept += kept;
        self.filtered += filtered;
        self.bodies += bodies;
        for failure in failures {
            if known.contains(&failure.tenant, &failure.id) {
                self.dead_before += 1;
                continue;
            }
            *self.failed.entry(failure.reason.clone()).or_default() += 1;
            if self.failures.len() < LISTED_MAX {
                self.failures.push(failure);
            }
        }
    }
}

/// Reads and writes the record of one replay.
pub(super) struct Journal {
    store: StateStore,
    key: String,
    entry: Option<Entry>,
}

impl Journal {
    pub(super) const fn new(store: StateStore, key: String) -> Self {
        Self { store, key, entry: None }
    }

    /// The record of the same replay, if that was interrupted.
    pub(super) async fn read(&mut self) -> anyhow::Result<Option<Record>> {
        self.entry = self.store.load(&self.key).await.map_err(|fault| fault.source)?;
        let Some(entry) = self.entry.as_ref().filter(|entry| !entry.value.is_empty()) else { return Ok(None) };
        serde_json::from_slice(&entry.value).map(Some).context(
            "expected the progress of an interrupted replay, found what another release wrote; begin anew with --restart",
        )
    }

    /// Writes the record. `None` means that the replay is done.
    pub(super) async fn write(&mut self, record: Option<&Record>) -> Result<(), Fault> {
        let value = record.map(serde_json::to_vec).transpose().map_err(Fault::broken)?.unwrap_or_default();
        if !self.store.save(&self.key, Bytes::from(value.clone()), self.entry.as_ref()).await? {
            // Either our earlier write succeeded and its answer was lost, or another process wrote.
            let found = self.store.load(&self.key).await?;
            let is_ours = found.as_ref().is_some_and(|found| found.value == value);
            self.entry = found;
            if !is_ours {
                return Err(Fault::broken(anyhow::anyhow!("another process runs the same replay")));
            }
            return Ok(());
        }
        self.entry = self.store.load(&self.key).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn all_failures_are_counted_and_the_first_are_listed() {
        let fault = Fault::poison(DeadReason::Malformed, anyhow!("{}", "x".repeat(1_000)));
        let mut totals = Totals::default();
        let known = KnownDead::of([("acme", "github:2"), ("octo", "github:1")]);
        for sequence in 0..70 {
            let mut batch = Totals { computed: 2, ..Totals::default() };
            batch.fail(sequence * 2, "acme", "github:1", &fault);
            batch.fail(sequence * 2, "acme", "github:2", &fault);
            batch.fail(sequence * 2 + 1, "acme", "", &Fault::poison(DeadReason::BodyLost, anyhow!("gone")));
            totals.add(batch, &known);
        }
        assert_eq!((totals.deliveries(), totals.failed(), totals.failed["malformed"]), (350, 140, 70));
        assert_eq!(totals.dead_before, 70, "they were given up before");
        assert_eq!((totals.failures.len(), totals.failures[99].origin.as_str()), (LISTED_MAX, "RAW:99"));
        assert_eq!(totals.failures[0].detail.len(), DETAIL_CHARS);
    }
}
