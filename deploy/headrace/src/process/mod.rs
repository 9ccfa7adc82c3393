//! A process: the tasks of its roles, under one supervisor.

mod catch_up;
mod earlier;
pub(crate) mod listeners;
mod recover;
mod sinks;
pub(crate) mod started;
pub(crate) mod stop;
pub(crate) mod telemetry;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use headrace_ingest as ingest;
use headrace_ingest::collect::Collector;
use headrace_ingest::gateway::Gateway;
use headrace_ingest::sources::{self, StoredCheck};
use headrace_runtime::aside::retention;
use headrace_runtime::broker::Broker;
use headrace_runtime::broker::measure::Measure;
use headrace_runtime::broker::recreate;
use headrace_runtime::component::stage::BoxedStage;
use headrace_runtime::component::subscription::Subscription;
use headrace_runtime::consume::chain::{ChainLoop, Pace};
use headrace_runtime::http::admin::{self, Admin};
use headrace_runtime::memory::{Share, show_budget};
use headrace_runtime::message::payload::{Payload, Product};
use headrace_runtime::observe::health::Health;
use headrace_runtime::observe::metrics;
use headrace_runtime::publish::store_health::{self, StoreHealth};
use headrace_runtime::retry::RetryPolicy;
use headrace_runtime::retry::retry_within;
use headrace_runtime::settle::settler::Settler;
use headrace_runtime::state::StateStore;
use headrace_runtime::supervisor::{Group, Supervisor};
use headrace_schemas::alert::Alert;
use headrace_schemas::event::Event;
use headrace_stages::alert::Alerts;
use headrace_stages::chains::{self, Stages};
use headrace_stages::normalize::Verify;
use tokio::net::TcpListener;

use crate::config::Config;
use crate::config::memory::{Beside, Memory, Takes};
use crate::nats::connections::Brokers;
use crate::nats::users::User;
use crate::process::listeners::Listeners;
use crate::role::Role;

/// The commit that this program was built from.
const COMMIT: &str = env!("HEADRACE_COMMIT");
/// How long the state's bucket may take to answer. A cluster may be choosing its leader.
const STATE_WITHIN: Duration = Duration::from_secs(60);
/// How long the stage alert gathers events. It adds this time to an alert's latency.
const ALERT_LINGER: Duration = Duration::from_millis(200);

/// A running process.
pub(crate) struct Process {
    supervisor: Supervisor,
    /// Where the gateway listens, if it is one of the roles.
    pub(crate) gateway: Option<SocketAddr>,
    /// Where health and metrics are served.
    pub(crate) admin: SocketAddr,
    /// The health of its components.
    pub(crate) health: Health,
    /// The components that are sinks.
    pub(crate) sinks: BTreeSet<String>,
}

/// What is needed to make the tasks.
struct Builder<'a> {
    brokers: &'a Brokers,
    memory: Memory<'a>,
    policy: RetryPolicy,
    health: Health,
    supervisor: Supervisor,
    subscriptions: Vec<(Broker, Subscription)>,
    sinks: BTreeSet<String>,
}

impl Process {
    /// Starts the tasks of `roles`. Their ports are in `listeners`, `config` has been validated, and streams and
    /// buckets exist. `beside` is what shares this process's memory.
    pub(crate) async fn start(
        config: &Config,
        roles: &[Role],
        brokers: &Brokers,
        listeners: Listeners,
        beside: Beside,
    ) -> anyhow::Result<Self> {
        let handle = metrics::install().context("cannot set up metrics")?;
        metrics::tell_build(env!("CARGO_PKG_VERSION"), COMMIT);
        let memory = Memory::divide(config, roles, brokers.first().message_max(), beside)?;
        show_budget(memory.budget());
        let mut builder = Builder {
            brokers,
            memory,
            policy: config.retry.policy(),
            health: Health::new(),
            supervisor: Supervisor::new(),
            subscriptions: Vec::new(),
            sinks: BTreeSet::new(),
        };
        let gateway = listeners.gateway.map(|port| {
            let stores = StoreHealth::new(builder.health.register("ingest"), store_health::FAILURE_TTL);
            anyhow::Ok((port.listen()?, stores))
        });
        let gateway = gateway.transpose()?;
        let admin = Admin {
            metrics: handle.clone(),
            health: builder.health.clone(),
            broker: brokers.first().clone(),
            stores: gateway.as_ref().map(|(_, stores)| stores.clone()),
        };
        let mut gateway_address = None;
        if let Some(((listener, address), stores)) = gateway {
            builder.ingest(config, listener, stores)?;
            gateway_address = Some(address);
        }
        if roles.contains(&Role::Collect) {
            builder.collect(config)?;
        }
        if roles.contains(&Role::Pipeline) {
            builder.pipeline(config).await?;
            builder.recreate(config);
        }
        if roles.contains(&Role::Sinks) {
            builder.sinks(config).await?;
        }
        if roles.contains(&Role::Recover) {
            builder.recover(config)?;
        }
        // Let connections in only now that they are served. Before, a probe must be refused and not wait.
        let (admin_listener, admin_address) = listeners.admin.listen()?;
        builder
            .listen(Group::Service, "admin", admin_listener, move |listener, stop| admin.clone().serve(listener, stop));
        builder.tell_consumers();
        let subscriptions = builder.subscriptions.clone();
        builder
            .supervisor
            .spawn(Group::Service, "lag", move |stop| admin::measure_lag(subscriptions.clone(), handle.clone(), stop));
        Ok(Self {
            supervisor: builder.supervisor,
            gateway: gateway_address,
            admin: admin_address,
            health: builder.health,
            sinks: builder.sinks,
        })
    }

    /// Stops everything in order, within `grace`.
    pub(crate) async fn stop(self, grace: Duration) {
        tracing::info!(
            grace_s = grace.as_secs(),
            "stopping: first no new requests, then no new messages from the streams"
        );
        let clean = self.supervisor.shutdown(grace).await;
        tracing::info!(clean, "stopped");
    }
}

impl Builder<'_> {
    /// Logs one line for all consumers. Their health and their lag show the rest.
    fn tell_consumers(&self) {
        let told = |(_, Subscription { component, stream, .. }): &(Broker, Subscription)| {
            format!("{component} on {}", stream.name())
        };
        let consumers: Vec<String> = self.subscriptions.iter().map(told).collect();
        if !consumers.is_empty() {
            let (count, consumers) = (consumers.len(), consumers.join(", "));
            tracing::info!(count, consumers, "reading the streams; each consumer goes on where it stopped");
        }
    }

    fn listen<F, Fut>(&mut self, group: Group, name: &str, listener: std::net::TcpListener, serve: F)
    where
        F: Fn(TcpListener, tokio_util::sync::CancellationToken) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let listener = Arc::new(listener);
        self.supervisor.spawn(group, name, move |stop| {
            let (serve, listener) = (serve.clone(), Arc::clone(&listener));
            async move {
                let listener = TcpListener::from_std(listener.try_clone()?)?;
                serve(listener, stop).await
            }
        });
    }

    /// Starts the gateway. It tells `stores` what came of its attempts to store.
    fn ingest(&mut self, config: &Config, listener: std::net::TcpListener, stores: StoreHealth) -> anyhow::Result<()> {
        for respelt in config.tenants.respelt() {
            tracing::warn!(tenant = respelt.tenant, token = respelt.token, "{respelt}");
        }
        let ingest = ingest::config::Config { in_flight_max_bytes: self.memory.gateway(), ..config.ingest.clone() };
        let gateway = Gateway::new(&ingest, &config.tenants, self.brokers.need(User::Ingest)?, stores);
        self.listen(Group::Ingest, "gateway", listener, move |listener, stop| gateway.clone().serve(listener, stop));
        Ok(())
    }

    /// Starts a task for each source that must be asked.
    fn collect(&mut self, config: &Config) -> anyhow::Result<()> {
        for pull in sources::pulls(&config.ingest, config.for_sources())? {
            let broker = self.brokers.need(User::Collect)?;
            let collector = Collector::new(pull, broker, self.policy, config.collect.lease(), &self.health);
            let collector = Arc::new(collector);
            self.supervisor.spawn(Group::Ingest, collector.component().to_owned(), move |stop| {
                let collector = Arc::clone(&collector);
                async move { collector.run(stop).await }
            });
        }
        Ok(())
    }

    async fn pipeline(&mut self, config: &Config) -> anyhow::Result<()> {
        let verify = verify(config);
        let config = &config.pipeline;
        for chain in chains::build(config, verify.as_ref())? {
            let (subscription, lanes) = (chain.subscription, config.lanes);
            let share = |takes| self.memory.chain(&subscription.component, takes, lanes);
            match chain.stages {
                Stages::FromRaw(stage) => {
                    let share = share(Takes::Bodies);
                    self.chain(subscription, Pace::Prompt, stage, lanes, share)?;
                }
                Stages::FromEvents(stage) => {
                    let share = share(Takes::Events);
                    self.chain(subscription, Pace::Prompt, stage, lanes, share)?;
                }
            }
        }
        let broker = self.brokers.need(User::Pipeline)?;
        let state = retry_within(STATE_WITHIN, async || StateStore::open(broker).await).await?;
        let alerts = Alerts::new(config.alert, state);
        let alerts: BoxedStage<Event, Alert> = Box::new(alerts);
        // Each alert is one write to the state, however many events it has. So gather a burst of events first.
        let share = self.memory.chain(chains::ALERT, Takes::Events, 1);
        self.chain(config.alert_subscription(), Pace::Gathered { linger: ALERT_LINGER }, alerts, 1, share)?;
        match self.brokers.of(User::Retention).cloned() {
            Some(broker) => {
                let measure = Arc::new(Measure::new(&broker));
                self.supervisor.spawn(Group::Service, "measure", move |stop| {
                    let measure = Arc::clone(&measure);
                    async move { measure.run(stop).await }
                });
                self.supervisor.spawn(Group::Service, "retention", move |stop| retention::run(broker.clone(), stop));
            }
            None => tracing::warn!(
                file = User::Retention.password_file(),
                "this process neither measures the streams nor makes room in full ones, because the password of the NATS user `retention` is not here; another process must"
            ),
        }
        Ok(())
    }

    /// Starts the task that makes deleted streams again, if this process has the right to.
    fn recreate(&mut self, config: &Config) {
        let Some(broker) = self.brokers.of(User::Admin).cloned() else {
            tracing::warn!(
                file = User::Admin.password_file(),
                "this process makes no deleted stream again, because the password of the NATS user `admin` is not here; another process must"
            );
            return;
        };
        let streams = config.streams.clone();
        self.supervisor
            .spawn(Group::Service, "recreate", move |stop| recreate::run(broker.clone(), streams.clone(), stop));
    }

    fn chain<In: Payload, Out: Product>(
        &mut self,
        subscription: Subscription,
        pace: Pace,
        stage: BoxedStage<In, Out>,
        workers: usize,
        memory: Share,
    ) -> anyhow::Result<()> {
        let broker = self.brokers.need(User::Pipeline)?.clone();
        let settler = self.settler(&subscription.component, &broker).within(memory);
        self.subscriptions.push((broker.clone(), subscription.clone()));
        let component = subscription.component.clone();
        let chain = Arc::new(ChainLoop { broker, subscription, pace, stage, settler });
        for worker in 0..workers {
            let chain = Arc::clone(&chain);
            self.supervisor.spawn(Group::Pipeline, format!("{component}/{worker}"), move |stop| {
                let chain = Arc::clone(&chain);
                async move { chain.run_worker(stop).await }
            });
        }
        Ok(())
    }

    fn recover(&mut self, config: &Config) -> anyhow::Result<()> {
        if config.recover.is_none() {
            return Ok(());
        }
        let broker = self.brokers.need(User::Recover)?;
        let Some(recover) = recover::build(config, broker, &self.health) else { return Ok(()) };
        // Recovery brings events in through the gateway, so it stops together with it.
        self.supervisor.spawn(Group::Ingest, "recover", move |stop| {
            let recover = Arc::clone(&recover);
            async move { recover.run(stop).await }
        });
        Ok(())
    }

    fn settler(&self, component: &str, broker: &Broker) -> Settler {
        Settler::new(component, broker, self.policy, self.health.register(component))
    }
}

/// The second check of stored records, if it is configured. It is the gateway's own check.
pub(crate) fn verify(config: &Config) -> Option<Verify> {
    config.pipeline.verify.then(|| {
        let check = StoredCheck::new(&config.ingest, &config.tenants);
        let verify: Verify = Arc::new(move |raw| check.check(raw));
        verify
    })
}
