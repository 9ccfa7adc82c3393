//! The proofs in the form that people, metrics and dashboards want.
//!
//! The KV bucket keeps the proofs (`proof.rs`). What is shown here is a copy, and nothing is decided by it.

pub use super::proof::Counts;
use super::proof::{Proofs, Status};
use async_trait::async_trait;
use headrace_runtime::fault::Fault;
use headrace_runtime::observe::metrics::RECOVERY_SHOWN;
use headrace_runtime::observe::metrics::{RECOVERY_CHECKED, RECOVERY_DELIVERIES};
use headrace_runtime::state::StateStore;
use headrace_schemas::time::Timestamp;
use headrace_schemas::token;
use metrics::counter;
use metrics::gauge;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::timeout;

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
    /// When the last run that accounted for every delivery began.
    pub checked_at: Option<Timestamp>,
    /// By when another run should have accounted for every delivery. After that, the numbers say nothing about the
    /// present.
    pub current_until: Option<Timestamp>,
    /// Why the last run did not account for every delivery.
    pub problem: Option<String>,
    /// All hours together.
    pub total: Counts,
    /// Each hour with deliveries, oldest first.
    pub hours: Vec<HourReport>,
}

/// What became of the deliveries of one hour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HourReport {
    /// When it begins.
    pub hour: Timestamp,
    /// Its deliveries.
    #[serde(flatten)]
    pub counts: Counts,
}

impl Report {
    /// Reads the past week's proofs of the hooks named in `wanted`, even if they have none yet. If none is named, reads
    /// those of every hook that has any.
    ///
    /// # Errors
    /// When the broker does not answer, or a record cannot be read.
    pub async fn load(store: &StateStore, wanted: &[String]) -> anyhow::Result<Self> {
        let at = Timestamp::now();
        let mut hooks = BTreeMap::new();
        for name in wanted {
            hooks.insert(name.clone(), token::escaped(name));
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
            reports.push(HookReport::of(&Proofs::load(store, &key, &hook, at).await?));
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
    /// What `proofs` say.
    pub(super) fn of(proofs: &Proofs) -> Self {
        let mut total = Counts::default();
        let hours = proofs.counts_by_hour().map(|(hour, counts)| {
            total += counts;
            HourReport { hour, counts }
        });
        let hours = hours.collect();
        let Status { checked_at, current_until, problem, .. } = proofs.status().clone();
        Self { hook: proofs.hook().to_owned(), checked_at, current_until, problem, total, hours }
    }

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

/// A place where dashboards can read the proofs.
///
/// It holds a copy that this role never reads: the KV bucket keeps the proofs themselves. So an exporter that is away
/// stops nothing.
#[async_trait]
pub trait Exporter: Send + Sync {
    /// Replaces what is shown for these hours of `hook` by what the run that began at `checked_at` found. What a later
    /// run has shown stays.
    ///
    /// # Errors
    /// When it does not answer, or refuses.
    async fn export(&self, hook: &str, hours: &[HourReport], checked_at: Timestamp) -> Result<(), Fault>;
}

/// The counts that the exporter is known to show for one hook, by hour.
#[derive(Default)]
pub(super) struct Exported(BTreeMap<Timestamp, Counts>);

impl Exported {
    /// Shows the hours that changed. If that fails, the next run tries again. A new process shows every hour once,
    /// because it does not know what its predecessor showed.
    pub(super) async fn renew(
        &mut self,
        exporter: &dyn Exporter,
        report: &HookReport,
        checked_at: Timestamp,
        within: Duration,
    ) {
        let changed = self.changed(report);
        if changed.is_empty() {
            return;
        }
        let hook = &report.hook;
        let failure = match timeout(within, exporter.export(hook, &changed, checked_at)).await {
            Ok(Ok(())) => None,
            Ok(Err(fault)) => Some(fault.to_string()),
            Err(_) => Some("it did not answer in time".to_owned()),
        };
        let outcome = if failure.is_none() { "written" } else { "failed" };
        counter!(RECOVERY_SHOWN, "hook" => hook.clone(), "outcome" => outcome).increment(1);
        match failure {
            None => self.0 = report.hours.iter().map(|hour| (hour.hour, hour.counts)).collect(),
            Some(failure) => tracing::warn!(
                hook,
                failure,
                hours = changed.len(),
                "cannot write the proofs to ClickHouse; the next run tries again, and `headrace gaps` shows them now"
            ),
        }
    }

    fn changed(&self, report: &HookReport) -> Vec<HourReport> {
        report.hours.iter().filter(|hour| self.0.get(&hour.hour) != Some(&hour.counts)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use anyhow::anyhow;

    use super::*;

    /// Remembers the hours that it is shown, or fails while `away`.
    #[derive(Default)]
    struct FakeExporter {
        hours: Mutex<Vec<i64>>,
        away: bool,
    }

    #[async_trait]
    impl Exporter for FakeExporter {
        async fn export(&self, _: &str, hours: &[HourReport], _: Timestamp) -> Result<(), Fault> {
            if self.away {
                return Err(Fault::transient(anyhow!("away")));
            }
            self.hours.lock().unwrap().extend(hours.iter().map(|hour| hour.hour.as_micros() / 3_600_000_000));
            Ok(())
        }
    }

    fn report(seen: &[u64]) -> HookReport {
        let hour = |(number, seen): (usize, &u64)| HourReport {
            hour: Timestamp::from_seconds(number as i64 * 3_600),
            counts: Counts { delivered: *seen, seen: *seen, ..Counts::default() },
        };
        HookReport {
            hook: "app/1".to_owned(),
            checked_at: None,
            current_until: None,
            problem: None,
            total: Counts::default(),
            hours: seen.iter().enumerate().map(hour).collect(),
        }
    }

    #[tokio::test]
    async fn hours_that_changed_are_shown_until_it_succeeds() {
        let (mut exported, mut exporter, at, within) =
            (Exported::default(), FakeExporter::default(), Timestamp::now(), Duration::MAX);
        exported.renew(&exporter, &report(&[1, 2]), at, within).await;
        exporter.away = true;
        exported.renew(&exporter, &report(&[1, 3, 4]), at, within).await;
        exporter.away = false;
        exported.renew(&exporter, &report(&[1, 3, 4]), at, within).await;
        exported.renew(&exporter, &report(&[1, 3, 4]), at, within).await;
        assert_eq!(*exporter.hours.lock().unwrap(), [0, 1, 1, 2]);
    }
}
