//! Recovers deliveries that never reached us, or that were lost afterwards. GitHub repeats none by itself. But it lists
//! them for three days and sends one again when asked.
//!
//! Of several processes, only the one with the lease works ([`headrace_runtime::state::lease`]). A run (`worker.rs`)
//! lists a hook's deliveries (`api.rs`), asks the permanent record which of them arrived (`lookup.rs`), classifies each
//! (`classify.rs`), asks GitHub for what is missing within a budget, records the outcome (`proof.rs`) and shows it to
//! dashboards (`report.rs`). A run derives everything from GitHub's list and the record, so an interrupted run leaves
//! nothing to repair. A delivery that is sent twice is one event, so asking once too often does no harm.
//!
//! This role must never write to RAW: what it recovers comes in at the gateway, with its signature.

mod answer;
mod api;
mod classify;
pub mod config;
pub mod lookup;
mod proof;
pub mod report;
mod scan;
mod worker;

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::anyhow;
use async_trait::async_trait;
use futures::future::join_all;
use headrace_runtime::broker::Broker;
use headrace_runtime::memory::{Account, Held};
use headrace_runtime::observe::health::{ComponentHealth, Health};
use headrace_runtime::observe::metrics::RECOVERY_LEADER;
use headrace_runtime::state::StateStore;
use headrace_runtime::state::budget::Budget;
use headrace_runtime::state::lease::{Job, Lease, lead};
use metrics::gauge;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::answer::ApiError;
use self::api::{ANSWER_BYTES_MAX, Api};
use self::config::Config;
use self::config::HookName;
use self::lookup::DeliveryStore;
use self::report::{Exporter, Report};
use self::scan::{AGAIN_BYTES, AGAIN_MAX};
use self::worker::{ASKED_BYTES, ASKED_MAX, Shared, Worker};
use crate::tenant::{TenantMap, Tenants};

/// The first part of the name of each of this role's components; there is one per hook.
pub const COMPONENT: &str = "recover";
/// The lease's key in the bucket `recovery`.
const LEASE: &str = "lease";
/// The key of the budget of redeliveries in the bucket `recovery`.
const BUDGET: &str = "budget";

/// What a page of deliveries takes: the answer as it is gathered, the answer whole, and the rows in it.
const PAGE_COPIES: usize = 3;
/// What a delivery takes that is due.
const DUE_BYTES: usize = 192;

/// The most bytes of memory that looking after the configured hooks takes. A run for each may be under way at once.
#[must_use]
pub fn bytes_max(config: &Config) -> usize {
    config.hooks.len().saturating_mul(hook_bytes_max(config))
}

fn hook_bytes_max(config: &Config) -> usize {
    let remembered = AGAIN_MAX * AGAIN_BYTES + ASKED_MAX * ASKED_BYTES;
    ANSWER_BYTES_MAX * PAGE_COPIES + remembered + config.budget_per_run * DUE_BYTES
}

/// The role, ready to run.
pub struct Recover {
    config: Config,
    tenants: TenantMap,
    broker: Broker,
    deliveries: Arc<dyn DeliveryStore>,
    exporter: Arc<dyn Exporter>,
    /// The sink that fills the delivery store from RAW.
    filled_by: &'static str,
    hooks: Vec<ComponentHealth>,
    /// What the runs for each hook may hold, which is set aside while this process works.
    accounts: Vec<Account>,
}

/// The names of the configured hooks.
#[must_use]
pub fn hook_names(config: &Config) -> Vec<String> {
    config.hooks.iter().map(|own| HookName::new(own).name).collect()
}

/// Checks that GitHub lists a page of the hook's deliveries.
///
/// # Errors
/// What is wrong, for a person.
pub async fn check(config: &Config, own: &config::Hook) -> anyhow::Result<()> {
    match Api::new(config, own)?.page(None).await {
        Ok(_) => Ok(()),
        Err(ApiError::Refused(status, message)) => {
            Err(anyhow!("GitHub does not list its deliveries ({status}: {message})"))
        }
        Err(ApiError::Away(error) | ApiError::Broken(error)) => Err(error),
        Err(ApiError::Limited(wait)) => Err(anyhow!("GitHub's rate limit asks to wait for {wait:?}")),
    }
}

impl Recover {
    /// The role as `config` describes it, which must have been validated. `tenants` are the gateway's. The sink
    /// `filled_by` fills `deliveries`, and `exporter` shows the proofs.
    pub fn new(
        config: &Config,
        tenants: &Tenants,
        broker: &Broker,
        deliveries: Arc<dyn DeliveryStore>,
        exporter: Arc<dyn Exporter>,
        filled_by: &'static str,
        health: &Health,
    ) -> Self {
        let register = |own: &config::Hook| {
            let component = health.register(&format!("{COMPONENT}:{}", HookName::new(own).name));
            component.healthy();
            component
        };
        let hooks = config.hooks.iter().map(register).collect();
        let account = |own: &config::Hook| {
            Account::new(&format!("{COMPONENT}:{}", HookName::new(own).name), hook_bytes_max(config))
        };
        let accounts = config.hooks.iter().map(account).collect();
        let (config, tenants) = (config.clone(), TenantMap::new(tenants));
        Self { config, tenants, broker: broker.clone(), deliveries, exporter, filled_by, hooks, accounts }
    }

    /// Runs until `stop`. It works while it holds the lease, and stands by otherwise.
    ///
    /// # Errors
    /// When the broker does not answer, or the system's certificates cannot be read.
    pub async fn run(&self, stop: CancellationToken) -> anyhow::Result<()> {
        let store = StateStore::open_recovery(&self.broker).await?;
        // Take a new name at each start. A lease from before a restart must expire like anyone else's.
        let holder = Uuid::from_u128(rand::random()).to_string();
        let lease = Lease::new(store.clone(), LEASE, &holder, self.config.lease());
        lead(lease, &Looking { recover: self, store, told_at: Mutex::new(None) }, &stop).await
    }

    /// Looks after all hooks concurrently. Ends only by failing or being dropped.
    async fn lead(&self, store: &StateStore) -> anyhow::Result<()> {
        let bytes = hook_bytes_max(&self.config);
        let _held: Vec<Held> = self.accounts.iter().map(|account| account.note(bytes)).collect();
        let shared = Shared {
            config: &self.config,
            broker: &self.broker,
            store: store.clone(),
            budget: Budget::new(store.clone(), BUDGET, self.config.budget_per_hour),
            deliveries: &*self.deliveries,
            exporter: &*self.exporter,
            component: self.filled_by,
            tenants: &self.tenants,
        };
        let mut workers = Vec::new();
        for (own, health) in self.config.hooks.iter().zip(&self.hooks) {
            workers.push(Worker::new(Api::new(&self.config, own)?, health.clone()));
        }
        join_all(workers.into_iter().map(|worker| worker.work(&shared))).await;
        Ok(())
    }
}

/// The job of the process with the lease.
struct Looking<'a> {
    recover: &'a Recover,
    store: StateStore,
    /// When it last reported what another process found.
    told_at: Mutex<Option<Instant>>,
}

#[async_trait]
impl Job for Looking<'_> {
    fn leads(&self, leads: bool) {
        gauge!(RECOVERY_LEADER).set(if leads { 1.0 } else { 0.0 });
        if leads {
            tracing::info!("looking for missed deliveries");
        } else {
            self.recover.hooks.iter().for_each(ComponentHealth::healthy);
        }
    }

    async fn work(&self, stop: &CancellationToken) -> anyhow::Result<()> {
        tokio::select! {
            failed = self.recover.lead(&self.store) => failed,
            () = stop.cancelled() => Ok(()),
        }
    }

    /// A process that stands by reports the same numbers, so it does not matter which one is asked.
    async fn stand_by(&self) -> anyhow::Result<()> {
        let is_due = {
            let mut told_at = self.told_at.lock().unwrap_or_else(PoisonError::into_inner);
            let is_due = told_at.is_none_or(|at| at.elapsed() >= self.recover.config.interval());
            if is_due {
                *told_at = Some(Instant::now());
            }
            is_due
        };
        if is_due {
            Report::load(&self.store, &hook_names(&self.recover.config)).await?.publish();
        }
        Ok(())
    }
}
