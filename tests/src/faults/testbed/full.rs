//! Faults that leave no room: full disks and full streams.

use std::time::Duration;

use headrace_local::poll;
use tokio::time::sleep;

use super::{Disks, Testbed};
use crate::faults::inject::fill;
use crate::faults::load::Load;
use crate::faults::plan::Plan;

/// How long it may take to fill a stream. It only ends a run in which nothing fills.
const FULL_WITHIN: Duration = Duration::from_secs(120);

impl Testbed {
    /// Keeps the sinks away until a stream is full, and then for `time`.
    pub(super) async fn fill_streams(&mut self, time: Duration, load: &Load) -> anyhow::Result<()> {
        for sink in &self.sinks {
            sink.end().await;
        }
        let before = load.refused();
        let refused = async || (load.refused() > before).then_some(());
        poll::until("the gateway refuses what has no room", FULL_WITHIN, refused).await?;
        sleep(time).await;
        for sink in &mut self.sinks {
            sink.start_again().await?;
        }
        Ok(())
    }

    /// Fills the disk of NATS until the gateway refuses deliveries.
    pub(super) async fn fill_nats(&self, plan: &mut Plan, load: &Load) -> anyhow::Result<()> {
        let Some(Disks { nats, full_ms, .. }) = &self.disks else { return Ok(()) };
        let before = load.refused();
        fill(nats, plan.millis(full_ms.0, full_ms.1), async || load.refused() > before).await
    }

    /// Fills the disk of ClickHouse until it refuses a row, in a table of its own.
    pub(super) async fn fill_clickhouse(&self, plan: &mut Plan) -> anyhow::Result<()> {
        let Some(Disks { clickhouse, full_ms, .. }) = &self.disks else { return Ok(()) };
        let table = "CREATE TABLE IF NOT EXISTS refused (number UInt8) ENGINE = MergeTree ORDER BY number";
        let refused =
            async || self.execute(table).await.is_err() || self.execute("INSERT INTO refused SELECT 1").await.is_err();
        fill(clickhouse, plan.millis(full_ms.0, full_ms.1), refused).await
    }
}
