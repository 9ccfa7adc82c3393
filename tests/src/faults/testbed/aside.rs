//! A Splunk that takes nothing for so long that its sink is set aside, and a death while the sink catches up.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream;
use headrace_local::poll;
use headrace_runtime::aside::record::Record;
use headrace_runtime::broker::{ASIDES, Stream};
use headrace_runtime::crash::Point;
use tokio::time::{Instant, sleep};

use super::Testbed;
use crate::faults::inject::kill;
use crate::faults::load::Load;
use crate::faults::plan::{Death, Plan};
use crate::faults::receivers::{Absence, Receivers};
use crate::faults::report::Report;
use crate::faults::{RECOVERY_MAX, probe};

/// How often to look whether a sink is being brought what it missed. That may take less than a second, and a death must
/// meet it.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What came of all these faults.
pub(super) struct SetAsides {
    /// Who dies each time, if the seed does not choose.
    death: Option<Death>,
    count: usize,
    brought: u64,
    deaths: BTreeMap<Death, usize>,
}

impl SetAsides {
    pub(super) const fn new(death: Option<Death>) -> Self {
        Self { death, count: 0, brought: 0, deaths: BTreeMap::new() }
    }
}

impl Testbed {
    /// Has a sink set aside. Meanwhile the others must go on, and afterwards it must catch up. Returns false if the process
    /// that was to die at a point had nothing to bring.
    pub(super) async fn set_aside(&mut self, plan: &mut Plan, load: &Load) -> anyhow::Result<bool> {
        let absence = Receivers::absence(plan);
        let death = self.set_asides.death.unwrap_or_else(|| Death::ALL[plan.below(Death::ALL.len())]);
        let component = absence.component;
        // Another fault may have set it aside before.
        self.until_caught_up(component).await?;
        tracing::info!(?absence, ?death, "a Splunk takes nothing");
        self.own_receivers()?.leave(absence);
        let is_behind = |record: &Record| record.is_behind();
        self.until_record(component, "its sink is set aside", is_behind).await?;
        probe(self, load).await.context("while a sink is set aside")?;
        sleep(plan.millis(0, 2_000)).await;
        let is_met = self.come_back_and_die(absence, death, plan).await?;
        let record = self.until_caught_up(component).await?;
        tracing::info!(component, brought = record.brought, "it has caught up");
        self.set_asides.count += 1;
        self.set_asides.brought += record.brought;
        if is_met {
            *self.set_asides.deaths.entry(death).or_default() += 1;
        }
        // The others die whatever the sink is doing.
        Ok(is_met || death != Death::Bringer)
    }

    /// Writes into `report` how often a sink was set aside, how many events were brought to these sinks, and who died
    /// meanwhile.
    pub(in crate::faults) fn report_set_asides(&self, report: &mut Report) {
        let SetAsides { count, brought, deaths, .. } = &self.set_asides;
        (report.set_aside, report.caught_up) = (*count, *brought);
        report.deaths.clone_from(deaths);
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

    /// The Splunk takes everything again, and its sink catches up. Meanwhile somebody dies. Returns false if that came too
    /// late.
    async fn come_back_and_die(&mut self, absence: Absence, death: Death, plan: &mut Plan) -> anyhow::Result<bool> {
        if death == Death::Bringer {
            self.arm_bringer().await?;
        }
        self.own_receivers()?.come_back(absence).await;
        let is_met = match death {
            Death::Bringer => self.until_bringer_died(absence.component).await?,
            Death::Sinks | Death::Pipeline | Death::Nats | Death::ClickHouse => {
                self.until_brought(absence.component).await?;
                sleep(plan.millis(0, 200)).await;
                self.is_catching_up(absence.component).await?
            }
        };
        match death {
            Death::Bringer => {
                for sink in &mut self.sinks {
                    sink.start_again().await?;
                }
            }
            Death::Sinks => {
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
        Ok(is_met)
    }

    /// Leaves a single sink process, which dies in the middle of bringing events. So no other can bring them before.
    async fn arm_bringer(&mut self) -> anyhow::Result<()> {
        for other in &self.sinks[1..] {
            other.end().await;
        }
        self.sinks[0].arm(Point::BeforeCaughtUp, 1).await
    }

    /// Waits until that process has died. Returns false if nothing was left to bring; then it is only killed.
    async fn until_bringer_died(&self, component: &str) -> anyhow::Result<bool> {
        let decided = async || {
            if self.sinks[0].is_killed() {
                return Some(true);
            }
            let record = self.record(component).await.ok()?;
            (!record.is_behind()).then_some(false)
        };
        let decided = poll::until("the process that brings events dies", RECOVERY_MAX, decided).await;
        let is_dead = decided.with_context(|| self.logs())?;
        if !is_dead {
            self.sinks[0].end().await;
        }
        Ok(is_dead)
    }

    /// Waits until `component` was brought something of what it missed.
    async fn until_brought(&self, component: &str) -> anyhow::Result<()> {
        let has_begun = |record: &Record| record.brought > 0 || !record.is_behind();
        self.until_record(component, "its sink is brought what it missed", has_begun).await?;
        Ok(())
    }

    /// Whether something that `component` missed is not brought, or not delivered.
    async fn is_catching_up(&self, component: &str) -> anyhow::Result<bool> {
        let is_behind = self.record(component).await?.is_behind();
        Ok(is_behind || self.waiting(Stream::CatchUp).await?.next().is_some())
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
