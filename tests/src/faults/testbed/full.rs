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
/// The gateway's code while RAW has no room.
const STREAM_FULL: &str = "stream_full";
/// Its code while NATS stores nothing. On a full disk, NATS may also be silent, or be started again.
const BROKER_AWAY: &str = "broker_away";
/// What an answer of ClickHouse without room has, in lower case.
const NO_ROOM: [&str; 2] = ["no space left", "not enough space"];

impl Testbed {
    /// Keeps the sinks away until a stream is full, and then for `time`.
    pub(super) async fn fill_streams(&mut self, time: Duration, load: &Load) -> anyhow::Result<()> {
        for sink in &self.sinks {
            sink.end().await;
        }
        let before = load.refused_as(&[STREAM_FULL]);
        let refused = async || (load.refused_as(&[STREAM_FULL]) > before).then_some(());
        poll::until("the gateway refuses what has no room", FULL_WITHIN, refused).await?;
        sleep(time).await;
        for sink in &mut self.sinks {
            sink.start_again().await?;
        }
        Ok(())
    }

    /// Fills the disk of NATS until the gateway refuses deliveries because of NATS.
    pub(super) async fn fill_nats(&self, plan: &mut Plan, load: &Load) -> anyhow::Result<()> {
        let Some(Disks { nats, full_ms, .. }) = &self.disks else { return Ok(()) };
        let refused = || load.refused_as(&[STREAM_FULL, BROKER_AWAY]);
        let before = refused();
        fill(nats, plan.millis(full_ms.0, full_ms.1), async || refused() > before).await
    }

    /// Fills the disk of ClickHouse until it refuses a row for want of room, in a table that took one before.
    pub(super) async fn fill_clickhouse(&self, plan: &mut Plan) -> anyhow::Result<()> {
        let Some(Disks { clickhouse, full_ms, .. }) = &self.disks else { return Ok(()) };
        let table = "CREATE TABLE IF NOT EXISTS refused (number UInt8) ENGINE = MergeTree ORDER BY number";
        let insert = "INSERT INTO refused SELECT 1";
        let taken = async || {
            self.execute(table).await.ok()?;
            self.execute(insert).await.ok()
        };
        poll::until("ClickHouse takes a row while there is room", FULL_WITHIN, taken).await?;
        let refused = async || self.execute(insert).await.is_err_and(|error| is_for_want_of_room(&error));
        fill(clickhouse, plan.millis(full_ms.0, full_ms.1), refused).await
    }
}

/// Whether ClickHouse said that it has no room, or ended at the write, as the embedded one does.
fn is_for_want_of_room(error: &anyhow::Error) -> bool {
    if let Some(error) = error.downcast_ref::<reqwest::Error>() {
        return !error.is_timeout();
    }
    let text = error.to_string().to_lowercase();
    let is_told = NO_ROOM.iter().any(|words| text.contains(words));
    if !is_told {
        tracing::warn!(%error, "ClickHouse refused a row for another reason than a full disk");
    }
    is_told
}
