//! Two Splunks and Jira as strict stand-ins, and the check of what they must hold in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::sleep;

use super::history::{History, RECORDS};
use super::plan::Plan;
use super::report::Report;
use super::setup::RECEIVER_TIMEOUT_MS;
use crate::standin::jira::{self, Jira};
use crate::standin::server::{Failure, When, Which};
use crate::standin::splunk::{self, Splunk};

/// A Splunk that takes nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Absence {
    /// The component of its sink.
    pub(super) component: &'static str,
    is_down: bool,
}

/// The receivers besides ClickHouse.
pub(super) struct Receivers {
    splunk: Splunk,
    /// Another instance of the kind, with other events.
    archive: Splunk,
    jira: Jira,
}

impl Receivers {
    /// The components of the two Splunks. Those of Jira get alerts, which are kept nowhere.
    pub(super) const CATCHING_UP: [&str; 2] = ["splunk", "archive"];

    pub(super) async fn start() -> Self {
        Self { splunk: Splunk::start().await, archive: Splunk::start().await, jira: Jira::start().await }
    }

    /// The configuration of their sinks: one Splunk gets events that a rule matched, the other those of another source,
    /// and Jira gets alerts. One window of time covers the whole run, so there is one alert for each actor and repository. On a busy machine, a stand-in
    /// may still answer a request that its sink has given up, within the time that is left for Jira's index.
    pub(super) fn configuration(&self) -> String {
        format!(
            "pipeline.alert.window_minutes = 8640\n\
             sinks.splunk = {{ url = '{}', token = '{}', index = '{}', linger_ms = 100, \
             timeout_ms = {RECEIVER_TIMEOUT_MS}, min_severity = 'low' }}\n\
             sinks.archive = {{ kind = 'splunk', url = '{}', token = '{}', index = '{}', linger_ms = 100, \
             timeout_ms = {RECEIVER_TIMEOUT_MS}, min_severity = 'none', only = 'source == \"ndjson\"' }}\n\
             sinks.jira = {{ url = '{}', email = '{}', api_token = '{}', project = '{}', linger_ms = 100, \
             timeout_ms = {RECEIVER_TIMEOUT_MS}, index_lag_ms = 1500, start = 'stored' }}\n",
            self.splunk.url(),
            splunk::TOKEN,
            splunk::INDEX,
            self.archive.url(),
            splunk::TOKEN,
            splunk::INDEX,
            self.jira.url(),
            jira::EMAIL,
            jira::API_TOKEN,
            jira::PROJECT,
        )
    }

    /// Makes some of the next requests fail.
    pub(super) fn fail(&self, plan: &mut Plan) {
        let failures = [Failure::Status(503), Failure::StatusAfter(429, 1), Failure::Reset, Failure::Torn];
        for _ in 0..5 {
            let failure = failures[plan.below(failures.len())];
            let when = if plan.below(2) == 0 { When::Before } else { When::After };
            self.splunk.fail_next(1, failure, when, Which::Deliveries);
            self.archive.fail_next(1, failure, when, Which::Deliveries);
            self.jira.fail_next(1, failure, when, Which::Any);
        }
    }

    /// Makes all refuse connections for a while.
    pub(super) async fn away(&self, time: Duration) {
        self.splunk.down();
        self.archive.down();
        self.jira.down();
        sleep(time).await;
        tokio::join!(self.splunk.up(), self.archive.up(), self.jira.up());
    }

    /// Which Splunk is to take nothing, and how.
    pub(super) fn absence(plan: &mut Plan) -> Absence {
        Absence { component: Self::CATCHING_UP[plan.below(Self::CATCHING_UP.len())], is_down: plan.below(2) == 0 }
    }

    /// Makes a Splunk refuse connections or its sink's token, until [`Self::come_back`].
    pub(super) fn leave(&self, absence: Absence) {
        let splunk = self.splunk(absence);
        if absence.is_down {
            splunk.down();
        } else {
            splunk.index().disabled = true;
        }
    }

    pub(super) async fn come_back(&self, absence: Absence) {
        let splunk = self.splunk(absence);
        if absence.is_down {
            splunk.up().await;
        } else {
            splunk.index().disabled = false;
        }
    }

    fn splunk(&self, absence: Absence) -> &Splunk {
        if absence.component == Self::CATCHING_UP[0] { &self.splunk } else { &self.archive }
    }

    /// Checks that each Splunk has every delivery or record of its own that was answered 2xx, and that every alert has
    /// one ticket. A Splunk gets events at least once, so one that it has twice is counted and is no fault.
    pub(super) fn verify(&self, history: &History, report: &mut Report) {
        let (matched, archived) = (counts(&self.splunk), counts(&self.archive));
        report.repeated = matched.values().chain(archived.values()).filter(|count| **count > 1).count();
        for (id, entry) in history.entries().iter().filter(|(_, entry)| entry.is_stored()) {
            report.matching += usize::from(entry.matching);
            let is_record = id.starts_with(RECORDS);
            if entry.matching && !matched.contains_key(id) || is_record && !archived.contains_key(id) {
                report.lost += 1;
                report.example("not in Splunk", id);
            }
        }
        let tickets = self.jira.alerts();
        let alerts: BTreeSet<&String> = tickets.iter().collect();
        report.alerts = alerts.len();
        report.twice += tickets.len() - alerts.len();
        if tickets.len() > alerts.len() {
            report.example("tickets for fewer alerts", &tickets.len().to_string());
        }
    }
}

/// How often a Splunk has each event.
fn counts(splunk: &Splunk) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for id in splunk.ids() {
        *counts.entry(id).or_default() += 1;
    }
    counts
}
