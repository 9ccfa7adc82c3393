//! The folder or bucket that is read, and the processes that read it.

use std::time::Duration;

use anyhow::Context as _;
use headrace_local::poll;
use headrace_runtime::crash::Point;
use tokio::time::sleep;

use super::Testbed;
use crate::faults::history::LINES;
use crate::faults::inject::crash;
use crate::faults::lines::Place;
use crate::faults::plan::Plan;

/// How long it may take until requests to the bucket have failed. It only ends a run in which nobody reads it.
const FAILED_WITHIN: Duration = Duration::from_secs(120);

impl Testbed {
    /// Where lines are written.
    pub(in crate::faults) const fn place(&self) -> &Place {
        &self.place
    }

    /// Makes the process `collect` crash while it reads. Returns false if it never came to the point.
    pub(super) async fn crash_collect(&mut self, collect: usize, plan: &mut Plan) -> anyhow::Result<bool> {
        let points = [Point::BeforeCursor, Point::AfterCursor, Point::BeforeStoreAck, Point::AfterStoreAck];
        // Only one process reads. It is this one when the other ends.
        let other = self.collects.len() - 1 - collect;
        self.collects[other].end().await;
        let crashed = crash(&mut self.collects[collect], &points, 3, plan).await;
        self.collects[other].start_again().await?;
        crashed
    }

    /// Makes requests to the bucket fail, and holds one for a while.
    pub(super) async fn fail_bucket(&self, plan: &mut Plan) -> anyhow::Result<()> {
        let bucket = self.place.bucket().context("expected a bucket for this fault, found a folder")?;
        bucket.fail(plan);
        let failed = async || (bucket.failures_left() == 0).then_some(());
        let waited = poll::until("requests to the bucket fail", FAILED_WITHIN, failed).await;
        sleep(plan.lasting(500, 5_000)).await;
        bucket.release();
        Ok(waited?)
    }

    /// Waits until all lines have their rows. What is missing after `within` is found by the comparison.
    pub(in crate::faults) async fn lines_read(&self, lines: u64, within: Duration) {
        let sql = format!("SELECT uniqExact(id) FROM events WHERE startsWith(id, '{LINES}')");
        let read = async || {
            let rows: Vec<(u64,)> = self.rows(&sql).await.ok()?;
            (rows == [(lines,)]).then_some(())
        };
        if let Err(error) = poll::until("all lines have rows", within, read).await {
            tracing::error!(%error, lines, "not everything that was written was read");
        }
    }
}
