//! Recovers deliveries that GitHub could not hand over, or that were lost after it had: GitHub repeats none by
//! itself, but lists them for three days and sends one again when asked.
//!
//! One process of several works ([`headrace_runtime::state::lease`]). A run (`worker.rs`) lists a hook's deliveries
//! (`api.rs`), asks the permanent record which arrived (`lookup.rs`), classifies each (`classify.rs`), asks GitHub for
//! what is missing within a budget, and writes down what became of all (`proof.rs`), also where dashboards see it
//! (`export.rs`). A run derives everything
//! from GitHub's list and the record, so that one that is cut off leaves nothing to repair; and a delivery
//! that is sent twice is one event, so that asking once too often does no harm.
//!
//! It must never write to RAW: what is recovered comes in at the gateway, with its signature.

mod answer;
mod api;
mod classify;
pub mod config;
pub mod lookup;
mod proof;
pub mod report;
mod scan;
mod worker;

use std::sync::Arc;

use anyhow::Context as _;
use futures::future::join_all;
use headrace_runtime::broker::Broker;
use headrace_runtime::observe::health::{ComponentHealth, Health};
use headrace_runtime::observe::metrics::RECOVERY_LEADER;
use headrace_runtime::state::StateStore;
use headrace_runtime::state::lease::Lease;
use metrics::gauge;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::answer::ApiError;
use self::api::Api;
use self::config::Config;
use self::config::HookName;
use self::lookup::DeliveryStore;
use self::report::{Exporter, Report};
use self::worker::{Budget, Shared, Worker};
use crate::config::Tenants;
use crate::github::tenant::TenantMap;

/// How the components of this role begin; each hook is one.
pub const COMPONENT: &str = "recover";
/// The lease's key in the bucket `recovery`.
const LEASE: &str = "lease";

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
}

/// The names of the configured hooks.
#[must_use]
pub fn hook_names(config: &Config) -> Vec<String> {
    config.hooks.iter().map(|own| HookName::new(own).name).collect()
}

/// Lists a page of a hook's deliveries.
///
/// # Errors
/// What is wrong, for a person.
pub async fn check(config: &Config, own: &config::Hook) -> Result<(), String> {
    let mut api = Api::new(config, own).map_err(|error| format!("{error:#}"))?;
    match api.page(None).await {
        Ok(_) => Ok(()),
        Err(ApiError::Refused(status, message)) => {
            Err(format!("GitHub does not list its deliveries ({status}: {message})"))
        }
        Err(ApiError::Away(error) | ApiError::Broken(error)) => Err(format!("{error:#}")),
        Err(ApiError::Limited(wait)) => Err(format!("GitHub's rate limit asks to wait for {wait:?}")),
    }
}

impl Recover {
    /// The role as `config`, which has been validated, says, with the gateway's `tenants`; `filled_by` is the sink that
    /// fills `deliveries`, and `exporter` shows what comes of it.
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
        let (config, tenants) = (config.clone(), TenantMap::new(tenants));
        Self { config, tenants, broker: broker.clone(), deliveries, exporter, filled_by, hooks }
    }

    /// Works while it holds the lease, stands by otherwise, until `stop`.
    ///
    /// # Errors
    /// When the broker does not answer, or the system's certificates cannot be read.
    pub async fn run(&self, stop: CancellationToken) -> anyhow::Result<()> {
        let store = StateStore::open_recovery(&self.broker).await?;
        // A new name at each start: a lease that an earlier self held must run out, as anyone's.
        let holder = Uuid::from_u128(rand::random()).to_string();
        let mut lease = Lease::new(store.clone(), LEASE, &holder, self.config.lease());
        let mut told_at: Option<Instant> = None;
        while !stop.is_cancelled() {
            let is_leader = lease.claim().await.map_err(|fault| fault.source).context("cannot ask for the lease")?;
            gauge!(RECOVERY_LEADER).set(if is_leader { 1.0 } else { 0.0 });
            if is_leader {
                tracing::info!("looking for missed deliveries");
                tokio::select! {
                    failed = self.lead(&store) => return failed,
                    () = lease.keep() => tracing::warn!("lost the lease; another process looks for missed deliveries"),
                    () = stop.cancelled() => {}
                }
                gauge!(RECOVERY_LEADER).set(0.0);
                self.hooks.iter().for_each(ComponentHealth::healthy);
                continue;
            }
            // Those who stand by tell the same numbers, so that it does not matter whom one asks.
            if told_at.is_none_or(|at| at.elapsed() >= self.config.interval()) {
                told_at = Some(Instant::now());
                Report::load(&store, &hook_names(&self.config)).await?.publish();
            }
            tokio::select! {
                () = sleep(lease.period()) => {}
                () = stop.cancelled() => {}
            }
        }
        lease.release().await;
        Ok(())
    }

    /// Looks after every hook at once. Ends only by failing or being dropped.
    async fn lead(&self, store: &StateStore) -> anyhow::Result<()> {
        let shared = Shared {
            config: &self.config,
            broker: &self.broker,
            store: store.clone(),
            budget: Budget::new(store.clone(), self.config.budget_per_hour),
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
