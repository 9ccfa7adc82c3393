//! Shows the proofs where dashboards can ask for them.
//!
//! A copy, never asked by this role: what is proven stays in the KV bucket, and an exporter that is away hinders nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use headrace_runtime::fault::Fault;
use headrace_runtime::observe::metrics::RECOVERY_SHOWN;
use headrace_schemas::time::Timestamp;
use metrics::counter;
use tokio::time::timeout;

use super::report::{Counts, HookReport, HourReport};

/// Where proofs are shown.
#[async_trait]
pub trait Exporter: Send + Sync {
    /// Replaces what is shown of these hours of `hook` by what the run that began at `checked_at` found, unless a
    /// later run has done so.
    ///
    /// # Errors
    /// When it does not answer, or refuses.
    async fn export(&self, hook: &str, hours: &[HourReport], checked_at: Timestamp) -> Result<(), Fault>;
}

/// What of one hook the exporter is known to show.
#[derive(Default)]
pub(super) struct Exported(BTreeMap<Timestamp, Counts>);

impl Exported {
    /// Shows the hours that changed; what cannot be shown now is left to the next run. A process that begins shows
    /// every hour once, because it does not know what its predecessor did.
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
                "cannot write the proofs to ClickHouse; the next run does, `headrace gaps` has them"
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

    /// Takes what it is shown, or fails.
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
