//! The proofs, as people and metrics want them.

use std::collections::BTreeMap;

use headrace_runtime::observe::metrics::{RECOVERY_CHECKED, RECOVERY_DELIVERIES};
use headrace_runtime::state::StateStore;
use headrace_schemas::subject;
use headrace_schemas::time::Timestamp;
use metrics::gauge;
use serde::Serialize;

pub use super::proof::Counts;
use super::proof::{Proofs, Status};

/// What is known of all hooks, for people and metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// When it was read.
    pub at: Timestamp,
    /// Each hook, by name.
    pub hooks: Vec<HookReport>,
}

/// What is known of one hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HookReport {
    /// Its name: `organization/acme/42`.
    pub hook: String,
    /// The beginning of the last run that accounted for every delivery.
    pub checked_at: Option<Timestamp>,
    /// Until when another run should have done so: afterwards the numbers say nothing of the present.
    pub current_until: Option<Timestamp>,
    /// Why the last run did not, or could not tell of all.
    pub problem: Option<String>,
    /// All hours together.
    pub total: Counts,
    /// Each hour with deliveries, oldest first.
    pub hours: Vec<HourReport>,
}

/// What became of the deliveries of one hour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HourReport {
    /// Its beginning.
    pub hour: Timestamp,
    /// Its deliveries.
    #[serde(flatten)]
    pub counts: Counts,
}

impl Report {
    /// Reads the proofs of the past week of the hooks `wanted`, by name, which may have none yet; of every
    /// hook that has any, when none is named.
    ///
    /// # Errors
    /// When the broker does not answer, or a record cannot be read.
    pub async fn load(store: &StateStore, wanted: &[String]) -> anyhow::Result<Self> {
        let at = Timestamp::now();
        let mut hooks = BTreeMap::new();
        for name in wanted {
            hooks.insert(name.clone(), subject::token(name));
        }
        if wanted.is_empty() {
            for key in store.keys("hook.").await.map_err(|fault| fault.source)? {
                if let Some(status) = Status::load(store, &key).await? {
                    hooks.insert(status.hook, key["hook.".len()..].to_owned());
                }
            }
        }
        let mut reports = Vec::new();
        for (hook, key) in hooks {
            reports.push(Proofs::load(store, &key, &hook, at).await?.report());
        }
        Ok(Self { at, hooks: reports })
    }

    /// Leaves out the hours that began before `oldest`.
    pub fn keep_since(&mut self, oldest: Timestamp) {
        for hook in &mut self.hooks {
            hook.hours.retain(|hour| hour.hour >= oldest);
            hook.total = Counts::default();
            hook.hours.iter().for_each(|hour| hook.total += hour.counts);
        }
    }

    /// Sets the gauges of all hooks.
    pub(super) fn publish(&self) {
        self.hooks.iter().for_each(HookReport::publish);
    }
}

impl HookReport {
    /// Sets the hook's gauges.
    pub(super) fn publish(&self) {
        let Counts { delivered, seen, recovered, waiting, missing, refused, too_old } = self.total;
        let states = [
            ("delivered", delivered),
            ("seen", seen),
            ("recovered", recovered),
            ("waiting", waiting),
            ("missing", missing),
            ("refused", refused),
            ("too_old", too_old),
        ];
        for (state, count) in states {
            gauge!(RECOVERY_DELIVERIES, "hook" => self.hook.clone(), "state" => state).set(count as f64);
        }
        if let Some(checked_at) = self.checked_at {
            gauge!(RECOVERY_CHECKED, "hook" => self.hook.clone()).set(checked_at.as_micros() as f64 / 1e6);
        }
    }
}
