//! The role `sinks`: the loops of every configured sink, and what watches over them.

use std::sync::Arc;

use anyhow::Context as _;
use headrace_runtime::aside::pause;
use headrace_runtime::aside::pause::{Gate, Keeper};
use headrace_runtime::broker::Broker;
use headrace_runtime::component::sink::{BoxedSink, SinkOptions};
use headrace_runtime::component::subscription::{Owner, Subscription};
use headrace_runtime::consume::leftover;
use headrace_runtime::consume::sink::SinkLoop;
use headrace_runtime::limit::Limiter;
use headrace_runtime::message::payload::Payload;
use headrace_runtime::observe::health::ComponentHealth;
use headrace_runtime::retry::{RetryPolicy, retry_within};
use headrace_runtime::settle::settler::Settler;
use headrace_runtime::state::installation;
use headrace_runtime::supervisor::Group;
use headrace_sinks::instances::usual_components;
use headrace_sinks::kind::AnySink;

use super::earlier::EarlierTables;
use super::{Builder, STATE_WITHIN, catch_up};
use crate::config::Config;
use crate::config::memory::Takes;
use crate::nats::users::User;

/// How a sink's component is run.
pub(super) struct Run {
    pub(super) component: String,
    pub(super) owner: Owner,
    pub(super) options: SinkOptions,
    pub(super) gate: Gate,
    pub(super) retry: RetryPolicy,
    /// When its receiver may be called.
    pub(super) limiter: Limiter,
}

/// What a loop of a component reads, and how it settles that.
pub(super) struct Reading {
    pub(super) subscription: Subscription,
    pub(super) settler: Settler,
    /// The names of its tasks, one for each worker.
    pub(super) tasks: Vec<String>,
}

impl Builder<'_> {
    /// Starts every configured sink, and looks for what others have left behind.
    pub(super) async fn sinks(&mut self, config: &Config) -> anyhow::Result<()> {
        let broker = self.brokers.need(User::Sinks)?;
        let installation = retry_within(STATE_WITHIN, async || installation::id(broker).await).await?;
        let (history, mut keepers) = (catch_up::history(config), Vec::new());
        for instance in config.sinks.iter() {
            let parts = instance.parts(&installation);
            let parts = parts.with_context(|| format!("cannot set up the sink `{}`", instance.name()))?;
            let (keeper, gate) = Keeper::new(instance.name());
            keepers.push(keeper);
            for (component, part) in parts {
                let (component, owner) = (component.name, config.sinks.owner(instance, component.stream));
                let terms = instance.terms(&config.retry);
                let limiter = Limiter::new(&component, &terms.limits);
                let run =
                    Run { component, owner, options: part.options, gate: gate.clone(), retry: terms.retry, limiter };
                match part.sink {
                    AnySink::Raw(sink) => _ = self.sink(broker, &run, sink),
                    AnySink::Events(sink) => {
                        let health = self.sink(broker, &run, sink.clone());
                        self.catch_up(broker, &run, sink, health, history.as_ref());
                    }
                    AnySink::Alerts(sink) => _ = self.sink(broker, &run, sink),
                }
            }
        }
        let (paused, keepers) = (broker.clone(), Arc::new(keepers));
        self.supervisor.spawn(Group::Service, "paused", move |stop| {
            let (broker, keepers) = (paused.clone(), Arc::clone(&keepers));
            async move { pause::watch(broker, &keepers, stop).await }
        });
        let (keeper, id) = (broker.clone(), installation.clone());
        self.supervisor
            .spawn(Group::Service, "installation", move |stop| installation::keep(keeper.clone(), id.clone(), stop));
        let (broker, configured) = (broker.clone(), config.sinks.components());
        self.supervisor.spawn(Group::Service, "leftover", move |stop| {
            leftover::watch(broker.clone(), configured.clone(), usual_components(), stop)
        });
        self.earlier(config, &installation)?;
        Ok(())
    }

    /// Starts the tasks that move the rows of an earlier release, where this process may change tables. Each store has its own:
    /// one that is away stops no other.
    fn earlier(&mut self, config: &Config, installation: &str) -> anyhow::Result<()> {
        for tables in EarlierTables::of(config, installation, self.brokers.need(User::Sinks)?) {
            let tables = Arc::new(tables);
            self.supervisor.spawn(Group::Service, format!("earlier tables/{}", tables.store()), move |stop| {
                let tables = Arc::clone(&tables);
                async move { tables.run(stop).await }
            });
        }
        Ok(())
    }

    fn sink<T: Payload>(&mut self, broker: &Broker, run: &Run, sink: BoxedSink<T>) -> ComponentHealth {
        let Run { component, owner, options, retry, .. } = run;
        let health = self.health.register(component);
        let memory = self.memory.sink(component, Takes::of(T::STREAM), options);
        self.sinks.insert(component.clone());
        let reading = Reading {
            subscription: Subscription { sink: Some(owner.clone()), ..options.subscription(component, T::STREAM) },
            settler: Settler::new(component, broker, *retry, health.clone()).within(memory),
            tasks: (0..options.workers).map(|worker| format!("{component}/{worker}")).collect(),
        };
        self.read(broker, run, sink, reading);
        health
    }

    /// Starts the loop that brings `sink` what it reads.
    pub(super) fn read<T: Payload>(&mut self, broker: &Broker, run: &Run, sink: BoxedSink<T>, reading: Reading) {
        let Reading { subscription, settler, tasks } = reading;
        self.subscriptions.push((broker.clone(), subscription.clone()));
        let sink = Arc::new(SinkLoop {
            broker: broker.clone(),
            subscription,
            sink,
            batching: run.options.batching,
            call_timeout: run.options.call_timeout,
            limiter: run.limiter.clone(),
            settler,
            gate: run.gate.clone(),
        });
        for task in tasks {
            let sink = Arc::clone(&sink);
            self.supervisor.spawn(Group::Sinks, task, move |stop| {
                let sink = Arc::clone(&sink);
                async move { sink.run_worker(stop).await }
            });
        }
    }
}
