//! A Splunk that takes nothing for so long that its sink is set aside, and a death while the sink catches up.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream;
use headrace_runtime::aside::record::Record;
use headrace_runtime::broker::ASIDES;
use headrace_runtime::crash::Point;
use tokio::time::{Instant, sleep};

use super::Testbed;
use crate::faults::inject::{crash, kill};
use crate::faults::load::Load;
use crate::faults::plan::Plan;
use crate::faults::receivers::{Absence, Receivers};
use crate::faults::{RECOVERY_MAX, probe};

/// How often to look whether a sink is being brought what it missed. That may take less than a second, and a death must
/// meet it.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Who dies while a sink catches up.
#[derive(Clone, Copy, Debug)]
enum Death {
    /// The process that brings events, when they are in CATCHUP and that is not noted.
    Bringer,
    Sink,
    Pipeline,
    Nats,
    ClickHouse,
}

impl Death {
    const ALL: [Self; 5] = [Self::Bringer, Self::Sink, Self::Pipeline, Self::Nats, Self::ClickHouse];
}

/// What came of all these faults.
#[derive(Default)]
pub(super) struct SetAsides {
    count: usize,
    brought: u64,
}

impl Testbed {
    /// Has a sink set aside. Meanwhile the others must go on, and afterwards it must catch up.
    pub(super) async fn set_aside(&mut self, plan: &mut Plan, load: &Load) -> anyhow::Result<()> {
        let absence = Receivers::absence(plan);
        let death = Death::ALL[plan.below(Death::ALL.len())];
        let component = absence.component;
        // Another fault may have set it aside before.
        self.until_caught_up(component).await?;
        tracing::info!(?absence, ?death, "a Splunk takes nothing");
        self.own_receivers()?.leave(absence);
        let is_behind = |record: &Record| record.is_behind();
        self.until_record(component, "its sink is set aside", is_behind).await?;
        probe(self, load).await.context("while a sink is set aside")?;
        sleep(plan.millis(0, 2_000)).await;
        self.come_back_and_die(absence, death, plan).await?;
        let record = self.until_caught_up(component).await?;
        tracing::info!(component, brought = record.brought, "it has caught up");
        self.set_asides.count += 1;
        self.set_asides.brought += record.brought;
        Ok(())
    }

    /// How often a sink was set aside, and how many events were brought to these sinks.
    pub(in crate::faults) const fn set_asides(&self) -> (usize, u64) {
        (self.set_asides.count, self.set_asides.brought)
    }

    /// The components that still miss something, with what they miss.
    pub(super) async fn behind(&self) -> anyhow::Result<Vec<(&'static str, Record)>> {
        let mut behind = Vec::new();
        for component in self.receivers.iter().flat_map(|_| Receivers::CATCHING_UP) {
            let record = self.record(component).await?;
            if record.is_behind() {
                behind.push((component, record));
            }
        }
        Ok(behind)
    }

    /// The Splunk takes everything again, and its sink catches up. Meanwhile somebody dies.
    async fn come_back_and_die(&mut self, absence: Absence, death: Death, plan: &mut Plan) -> anyhow::Result<()> {
        let is_at_point = matches!(death, Death::Bringer);
        if is_at_point {
            // Only one process brings events. It is the first one when the others have ended.
            for other in &self.sinks[1..] {
                other.end().await;
            }
        }
        self.own_receivers()?.come_back(absence).await;
        if !is_at_point {
            let has_begun = |record: &Record| record.brought > 0 || !record.is_behind();
            self.until_record(absence.component, "its sink is brought what it missed", has_begun).await?;
            sleep(plan.millis(0, 200)).await;
        }
        match death {
            Death::Bringer => {
                // If it never comes to the point it is only killed, and the sink catches up all the same.
                crash(&mut self.sinks[0], &[Point::BeforeCaughtUp], 1, plan).await?;
                for other in &mut self.sinks[1..] {
                    other.start_again().await?;
                }
            }
            // One of them has what was brought.
            Death::Sink => {
                for sink in &mut self.sinks {
                    sink.kill().await?;
                }
            }
            Death::Pipeline => {
                let pipeline = plan.below(self.pipelines.len());
                self.pipelines[pipeline].kill().await?;
            }
            Death::Nats => kill(self.nats[plan.below(self.nats.len())].pid()),
            Death::ClickHouse => kill(self.clickhouse.pid()),
        }
        Ok(())
    }

    async fn until_caught_up(&self, component: &str) -> anyhow::Result<Record> {
        self.until_record(component, "its sink has caught up", |record| !record.is_behind()).await
    }

    /// Waits until the record of `component` is as `is_wanted` says.
    async fn until_record(
        &self,
        component: &str,
        what: &str,
        is_wanted: impl Fn(&Record) -> bool,
    ) -> anyhow::Result<Record> {
        let deadline = Instant::now() + RECOVERY_MAX;
        loop {
            self.ensure_all_run()?;
            // NATS may just be started again.
            let record = self.record(component).await;
            match record {
                Ok(record) if is_wanted(&record) => return Ok(record),
                found => anyhow::ensure!(
                    Instant::now() < deadline,
                    "{component}: {what}: not within {RECOVERY_MAX:?}; found {found:?}\n{}",
                    self.logs()
                ),
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// What `component` has missed.
    async fn record(&self, component: &str) -> anyhow::Result<Record> {
        let asides = jetstream::new(self.client.clone()).get_key_value(ASIDES).await?;
        let value = asides.get(format!("missed.{component}")).await?;
        Ok(value.map(|value| serde_json::from_slice(&value)).transpose()?.unwrap_or_default())
    }
}
