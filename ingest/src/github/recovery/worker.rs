//! One hook's runs: list, classify, ask for what is missing within the budget, record the proof.
//!
//! A run must never spend more than the budget grants. `scan.rs` lists and classifies, `proof.rs` records.

use super::answer::ApiError;
use super::api::Api;
use super::classify::{RedeliveryRequest, Times, later, pause};
use super::config::Config;
use super::lookup::{DeliveryStore, Reader};
use super::proof::Proofs;
use super::report::{Exported, Exporter, HookReport};
use super::scan::{Criteria, MissingDelivery, Scan, scan};
use crate::tenant::TenantMap;
use headrace_runtime::broker::Broker;
use headrace_runtime::observe::health::ComponentHealth;
use headrace_runtime::observe::metrics::{RECOVERY_ASKED, RECOVERY_RUNS};
use headrace_runtime::state::StateStore;
use headrace_runtime::state::budget::Budget;
use headrace_schemas::time::Timestamp;
use headrace_schemas::token;
use metrics::counter;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::sleep;

/// How many redeliveries a worker takes from the hour's budget at a time. When the process dies, at most these are
/// wasted.
const BUDGET_STEP: usize = 20;
/// After this many refusals or failures in a row, a run leaves the other deliveries to the next run.
const FAILURES_MAX: usize = 20;
/// Most GUIDs remembered. The oldest are forgotten; each may cost one needless request.
pub(super) const ASKED_MAX: usize = 50_000;
/// What remembering one takes, in bytes: a GUID of 36 bytes, in a map that may be half empty.
pub(super) const ASKED_BYTES: usize = 192;

/// A run's proof counts as current for three intervals and this margin.
const CURRENT_MARGIN: Duration = Duration::from_secs(60);

/// What the workers of all hooks share.
pub(super) struct Shared<'a> {
    pub(super) config: &'a Config,
    pub(super) broker: &'a Broker,
    pub(super) store: StateStore,
    pub(super) budget: Budget,
    pub(super) deliveries: &'a dyn DeliveryStore,
    pub(super) exporter: &'a dyn Exporter,
    pub(super) component: &'a str,
    pub(super) tenants: &'a TenantMap,
}

/// Looks after one hook.
pub(super) struct Worker {
    api: Api,
    health: ComponentHealth,
    asked: HashMap<String, RedeliveryRequest>,
    exported: Exported,
}

/// Why a run did not account for everything, and whether a person must act.
enum Problem {
    Passing(String),
    Lasting(String),
}

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Limited(wait) => Self::Passing(format!("GitHub's rate limit asks to wait for {wait:?}")),
            ApiError::Away(error) => Self::Passing(format!("{error:#}")),
            ApiError::Refused(status, message) => Self::Passing(format!("GitHub refuses ({status}: {message})")),
            ApiError::Broken(error) => Self::Lasting(format!("{error:#}")),
        }
    }
}

impl Worker {
    pub(super) fn new(api: Api, health: ComponentHealth) -> Self {
        Self { api, health, asked: HashMap::new(), exported: Exported::default() }
    }

    /// Runs again and again. Ends only by being dropped.
    pub(super) async fn work(mut self, shared: &Shared<'_>) {
        loop {
            let (outcome, problem) = match self.run(shared).await {
                Ok(None) => ("complete", None),
                Ok(Some(problem)) => ("failed", Some(problem)),
                // NATS is away, or another process has taken over the work.
                Err(error) => ("failed", Some(Problem::Passing(format!("{error:#}")))),
            };
            match problem {
                None => self.health.healthy(),
                Some(Problem::Passing(why)) => self.health.degraded(why),
                Some(Problem::Lasting(why)) => self.health.broken(why),
            }
            counter!(RECOVERY_RUNS, "hook" => self.api.hook().name.clone(), "outcome" => outcome).increment(1);
            sleep(shared.config.interval()).await;
        }
    }

    async fn run(&mut self, shared: &Shared<'_>) -> anyhow::Result<Option<Problem>> {
        let config = shared.config;
        let now = Timestamp::now();
        let hook = self.api.hook().clone();
        let mut proofs = Proofs::load(&shared.store, &hook.key, &hook.name, now).await?;
        let floor = proofs.floor(now, config.grace(), config.horizon());
        // Also accept the tenant without the map, because the map may be newer than a delivery, and the tenant as the
        // earlier release wrote it.
        let tenants = |owner| [shared.tenants.tenant(Some(owner)), token::of_tenant(owner), token::escaped(owner)];
        let tenants = hook.owner.iter().flat_map(|owner| tenants(owner)).collect();
        let mut reader = Reader::open(shared.deliveries, shared.broker, shared.component, tenants, config).await;
        let times = Times { now, grace: config.grace(), window: shared.broker.duplicate_window() };
        let criteria = Criteria { times, floor, budget: config.budget_per_run, asked: &self.asked };
        let scanned = scan(&mut self.api, &mut reader, &criteria).await;
        let mut found = match scanned {
            Ok(found) => found,
            Err(error) => {
                let problem = Problem::from(error);
                proofs.fail(problem.text().to_owned()).await?;
                HookReport::of(&proofs).publish();
                return Ok(Some(problem));
            }
        };
        let refused = self.ask(&mut found, shared, now).await?;
        let problem = refused.or(reader.problem.map(Problem::Passing));
        proofs.record(floor, &found.slots, now, config.horizon()).await?;
        let current_until = later(Timestamp::now(), config.interval() * 3 + CURRENT_MARGIN);
        proofs.conclude(now, current_until, problem.as_ref().map(|problem| problem.text().to_owned())).await?;
        let report = HookReport::of(&proofs);
        report.publish();
        // Last, and its outcome does not matter: the run is complete without it.
        self.exported.renew(shared.exporter, &report, now, config.timeout()).await;
        self.forget(now, config);
        Ok(problem)
    }

    /// Asks for the deliveries that are due, oldest first, and one after the other as GitHub recommends.
    async fn ask(&mut self, found: &mut Scan, shared: &Shared<'_>, now: Timestamp) -> anyhow::Result<Option<Problem>> {
        let (mut granted, mut failures, mut problem) = (0, 0, None);
        while let Some(due) = found.due.pop_front() {
            if granted == 0 && problem.is_none() && failures < FAILURES_MAX {
                granted = shared.budget.take(BUDGET_STEP.min(found.due.len() + 1)).await?;
            }
            if granted == 0 || problem.is_some() || failures >= FAILURES_MAX {
                found.leave(&due, now);
                continue;
            }
            granted -= 1;
            let answer = self.api.redeliver(due.id).await;
            let outcome = match &answer {
                Ok(()) => "accepted",
                Err(ApiError::Refused(status, message)) => {
                    let (hook, guid) = (&self.api.hook().name, &due.guid);
                    tracing::warn!(hook, guid, %status, message, "GitHub refuses to send a missing delivery again");
                    "refused"
                }
                Err(_) => "unanswered",
            };
            counter!(RECOVERY_ASKED, "hook" => self.api.hook().name.clone(), "outcome" => outcome).increment(1);
            failures = if answer.is_ok() { 0 } else { failures + 1 };
            match answer {
                Ok(()) | Err(ApiError::Refused(..)) => self.remember(&due, answer.is_err(), found, shared.config),
                // GitHub may have acted on the request. The next run sees whether it did.
                Err(ApiError::Away(error)) => {
                    tracing::debug!(error = format!("{error:#}"), guid = due.guid, "no answer to a redelivery");
                    self.remember(&due, false, found, shared.config);
                }
                Err(error) => {
                    found.leave(&due, now);
                    problem = Some(Problem::from(error));
                }
            }
        }
        Ok(problem)
    }

    fn remember(&mut self, due: &MissingDelivery, refused: bool, found: &mut Scan, config: &Config) {
        let at = Timestamp::now();
        let times = self.asked.get(&due.guid).map_or(0, |asked| asked.times) + 1;
        self.asked.insert(due.guid.clone(), RedeliveryRequest { at, times, refused });
        let wait = if refused { pause(times, config.grace()) } else { config.grace() };
        found.asked(due, refused, later(at, wait));
    }

    fn forget(&mut self, now: Timestamp, config: &Config) {
        let oldest = now.minus(config.horizon());
        self.asked.retain(|_, asked| asked.at > oldest);
        if self.asked.len() > ASKED_MAX {
            let mut times: Vec<Timestamp> = self.asked.values().map(|asked| asked.at).collect();
            times.sort_unstable();
            let middle = times[times.len() / 2];
            self.asked.retain(|_, asked| asked.at > middle);
        }
    }
}

impl Problem {
    fn text(&self) -> &str {
        match self {
            Self::Passing(text) | Self::Lasting(text) => text,
        }
    }
}
