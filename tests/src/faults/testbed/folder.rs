//! The folder that is read, and the processes that read it.

use std::path::Path;
use std::time::Duration;

use headrace_local::poll;
use headrace_runtime::crash::Point;

use super::Testbed;
use crate::faults::history::LINES;
use crate::faults::inject::crash;
use crate::faults::plan::Plan;

impl Testbed {
    /// Where lines are written.
    pub(in crate::faults) fn folder(&self) -> &Path {
        &self.folder
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

    /// Waits until all lines have their rows. What is missing after `within` is found by the comparison.
    pub(in crate::faults) async fn folder_read(&self, lines: u64, within: Duration) {
        let sql = format!("SELECT uniqExact(id) FROM events WHERE startsWith(id, '{LINES}')");
        let read = async || {
            let rows: Vec<(u64,)> = self.rows(&sql).await.ok()?;
            (rows == [(lines,)]).then_some(())
        };
        if let Err(error) = poll::until("all lines have rows", within, read).await {
            tracing::error!(%error, lines, "not everything in the folder was read");
        }
    }
}
