//! What a sink has missed, in a process that has no store from which it could be brought: somebody took the store out of the
//! configuration, or another process has it. When nobody brings it, the sink's health says so.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::aside::{Asides, consumer_of};
use crate::broker::Broker;
use crate::consume::leftover::{self, Found};
use crate::every::every;
use crate::observe::health::{ComponentHealth, Health};

/// How often to look. Who brings something may begin as late as this.
const PERIOD: Duration = Duration::from_secs(60);

/// A component and who can tell of it.
pub struct Stranded {
    broker: Broker,
    component: String,
    all: Health,
    /// How often to look.
    period: Duration,
}

/// What is missed or waits, while nobody brings it.
#[derive(Debug, PartialEq, Eq)]
struct Unbrought(String);

impl Stranded {
    /// That of `component`, which is told among `all`.
    #[must_use]
    pub fn new(broker: &Broker, component: &str, all: &Health) -> Self {
        Self { broker: broker.clone(), component: component.to_owned(), all: all.clone(), period: PERIOD }
    }

    /// The same, looking so often.
    #[must_use]
    pub fn looking_each(self, period: Duration) -> Self {
        Self { period, ..self }
    }

    /// Looks until `stop`.
    ///
    /// # Errors
    /// Never: when the broker does not answer, it looks again.
    pub async fn run(&self, stop: CancellationToken) -> anyhow::Result<()> {
        let (mut turns, mut health) = (every(self.period, &stop), None);
        let (mut was_unbrought, mut has_failed) = (false, false);
        while turns.next().await {
            match self.look().await {
                Ok(unbrought) => {
                    // Two looks, because the other processes may have begun with this one.
                    self.tell(&mut health, unbrought.as_ref().filter(|_| was_unbrought));
                    (was_unbrought, has_failed) = (unbrought.is_some(), false);
                }
                Err(error) if !has_failed => {
                    has_failed = true;
                    let (component, error) = (&self.component, format!("{error:#}"));
                    tracing::warn!(
                        component,
                        error,
                        "cannot look whether this sink has missed something; it is tried again"
                    );
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    async fn look(&self) -> anyhow::Result<Option<Unbrought>> {
        let record = Asides::open(&self.broker).await?.record(&self.component).await?;
        let found = leftover::catching_up(&self.broker, &self.component).await?;
        if found.as_ref().is_some_and(Found::is_read) {
            return Ok(None);
        }
        let waiting = found.map_or(0, |found| found.pending + found.unsettled);
        let mut told = Vec::new();
        let (from, until) = (record.all().map(|range| range.from).min(), record.all().map(|range| range.until).max());
        if let (Some(from), Some(until)) = (from, until) {
            told.push(format!("it has missed events of {from} to {until}"));
        }
        if waiting > 0 {
            told.push(format!("{waiting} wait for it in CATCHUP"));
        }
        Ok((!told.is_empty()).then(|| Unbrought(told.join(", and "))))
    }

    fn tell(&self, health: &mut Option<ComponentHealth>, unbrought: Option<&Unbrought>) {
        let Some(Unbrought(what)) = unbrought else {
            if let Some(health) = health.take() {
                health.healthy();
            }
            return;
        };
        let sink = &self.component;
        health.get_or_insert_with(|| self.all.register(&consumer_of(sink))).broken(format!(
            "expected that a process brings {sink} what it has missed, found none that does: {what}, and this process has no \
             `[sinks.clickhouse]` from which to take it. Configure that again, or run a process that has it; to give up what is \
             missed, use `headrace sinks skip` and `headrace sinks rewind --cancel`"
        ));
    }
}
