//! How a sink of events catches up: a second loop of the same sink on CATCHUP, and who fills that from ClickHouse.

use std::sync::Arc;

use async_trait::async_trait;
use headrace_runtime::aside::consumer_of;
use headrace_runtime::aside::feeder::{Fed, Feeder, History, Page, Slice};
use headrace_runtime::broker::{Broker, Stream};
use headrace_runtime::component::sink::BoxedSink;
use headrace_runtime::component::subscription::{Owner, Start, Subscription, WhenBehind};
use headrace_runtime::consume::sink::SinkLoop;
use headrace_runtime::fault::Fault;
use headrace_runtime::observe::health::ComponentHealth;
use headrace_runtime::settle::settler::Settler;
use headrace_runtime::supervisor::Group;
use headrace_schemas::event::Event;
use headrace_schemas::subject;
use headrace_sinks::clickhouse;

use super::{Builder, Run};
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
}

impl Builder<'_> {
    /// Starts what lets `sink` catch up, if it is set aside when it is far behind.
    pub(super) fn catch_up(
        &mut self,
        broker: &Broker,
        run: Run,
        sink: BoxedSink<Event>,
        health: ComponentHealth,
        history: Option<&Arc<dyn History>>,
    ) {
        let Run { component, owner, options, gate, retry, limiter } = run;
        let Some(history) = history.filter(|_| owner.when_behind == WhenBehind::SetAside) else { return };
        let memory = self.memory.catch_up(&consumer_of(&component), &options);
        let subscription = Subscription {
            component: consumer_of(&component),
            stream: Stream::CatchUp,
            filters: vec![subject::catch_up_of(&component)],
            ack_wait: options.ack_wait,
            unsettled_max: options.batching.events_max * 4,
            // All that is there is for this sink, whenever it began.
            sink: Some(Owner { start: Start::Stored, when_behind: WhenBehind::Wait, ..owner }),
        };
        self.subscriptions.push((broker.clone(), subscription.clone()));
        let sink = Arc::new(SinkLoop {
            broker: broker.clone(),
            subscription,
            sink,
            batching: options.batching,
            call_timeout: options.call_timeout,
            limiter: limiter.clone(),
            // What it delivers counts as the component's, and it has the same receiver.
            settler: Settler::new(&component, broker, retry, health).within(memory),
            gate: gate.clone(),
        });
        // One worker, because live events go first.
        self.supervisor.spawn(Group::Sinks, format!("{component}/catch-up"), move |stop| {
            let sink = Arc::clone(&sink);
            async move { sink.run_worker(stop).await }
        });
        let (name, call_timeout) = (format!("{component}/missed"), options.call_timeout);
        let fed = Fed { component, filters: options.filters, call_timeout, gate, limiter };
        let feeder = Arc::new(Feeder::new(broker, Arc::clone(history), CLICKHOUSE, fed));
        self.supervisor.spawn(Group::Sinks, name, move |stop| {
            let feeder = Arc::clone(&feeder);
            async move { feeder.run(stop).await }
        });
    }
}
