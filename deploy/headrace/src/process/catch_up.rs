//! How a sink of events catches up: a second loop of the same sink on CATCHUP, and who fills that from ClickHouse.

use std::sync::Arc;

use async_trait::async_trait;
use headrace_runtime::aside::consumer_of;
use headrace_runtime::aside::feeder::{Fed, Feeder};
use headrace_runtime::aside::history::{History, Page, Slice};
use headrace_runtime::broker::{Broker, Stream};
use headrace_runtime::component::sink::BoxedSink;
use headrace_runtime::component::subscription::{Owner, Start, Subscription, WhenBehind};
use headrace_runtime::consume::stranded::Stranded;
use headrace_runtime::fault::Fault;
use headrace_runtime::observe::health::ComponentHealth;
use headrace_runtime::settle::settler::Settler;
use headrace_runtime::supervisor::Group;
use headrace_schemas::event::Event;
use headrace_schemas::subject;
use headrace_schemas::time::Timestamp;
use headrace_sinks::clickhouse;

use super::Builder;
use super::sinks::{Reading, Run};
use crate::config::Config;
use crate::role::CLICKHOUSE;

/// The installation's store, if it has one.
pub(super) fn history(config: &Config) -> Option<Arc<dyn History>> {
    let events = config.clickhouse()?.event_table();
    Some(Arc::new(Events(events)))
}

/// The table `events`.
struct Events(clickhouse::EventTable);

#[async_trait]
impl History for Events {
    async fn events(&self, slice: &Slice<'_>) -> Result<Page, Fault> {
        self.0.stored(slice).await
    }

    async fn begins_at(&self) -> Result<Option<Timestamp>, Fault> {
        self.0.begins_at().await
    }

    async fn has_before(&self, at: Timestamp) -> Result<bool, Fault> {
        self.0.has_before(at).await
    }
}

impl Builder<'_> {
    /// Starts what lets `sink` catch up, if it is set aside when it is far behind.
    pub(super) fn catch_up(
        &mut self,
        broker: &Broker,
        run: &Run,
        sink: BoxedSink<Event>,
        health: ComponentHealth,
        history: Option<&Arc<dyn History>>,
    ) {
        let Run { component, owner, options, gate, retry, limiter } = run;
        let Some(history) = history else { return self.stranded(broker, component) };
        if owner.when_behind != WhenBehind::SetAside {
            return;
        }
        let own = consumer_of(component);
        let memory = self.memory.catch_up(&own, options);
        let reading = Reading {
            subscription: Subscription {
                component: own.clone(),
                stream: Stream::CatchUp,
                filters: vec![subject::catch_up_of(component)],
                ack_wait: options.ack_wait,
                unsettled_max: options.batching.events_max * 4,
                // All that is there for this sink, whenever it began.
                sink: Some(Owner { start: Start::Stored, when_behind: WhenBehind::Wait, ..owner.clone() }),
            },
            // What it delivers counts as the component's, and it has the same receiver.
            settler: Settler::new(component, broker, *retry, health).within(memory),
            // One worker, because live events go first.
            tasks: vec![format!("{component}/catch-up")],
        };
        self.read(broker, run, sink, reading);
        // A sink may work while nothing is brought to it. Nobody waits for it at the start.
        self.sinks.insert(own.clone());
        let fed = Fed {
            component: component.clone(),
            filters: options.filters.clone(),
            call_timeout: options.call_timeout,
            gate: gate.clone(),
            limiter: limiter.clone(),
            health: self.health.register(&own),
        };
        let feeder = Arc::new(Feeder::new(broker, Arc::clone(history), CLICKHOUSE, fed));
        self.supervisor.spawn(Group::Sinks, format!("{component}/missed"), move |stop| {
            let feeder = Arc::clone(&feeder);
            async move { feeder.run(stop).await }
        });
    }

    /// Starts what tells when nobody brings `component` what it has missed.
    fn stranded(&mut self, broker: &Broker, component: &str) {
        let stranded = Arc::new(Stranded::new(broker, component, &self.health));
        self.supervisor.spawn(Group::Service, format!("{component}/stranded"), move |stop| {
            let stranded = Arc::clone(&stranded);
            async move { stranded.run(stop).await }
        });
    }
}
