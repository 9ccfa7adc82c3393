//! Files that could not be read, and since when. A disk or a network's file system may fail for a moment.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::scan::Found;

/// The most files that are remembered. Beyond that, their time begins anew.
const FILES_MAX: usize = 10_000;

/// The files that could not be read.
#[derive(Debug)]
pub(super) struct Failing {
    /// By their ids, and when they had last changed: one that changes gets its time anew.
    since: HashMap<(String, i64), Instant>,
    /// For how long other files wait for one.
    pub(super) time: Duration,
}

impl Default for Failing {
    fn default() -> Self {
        Self { since: HashMap::new(), time: Duration::from_secs(60) }
    }
}

impl Failing {
    /// Notes that `file` could not be read just now. Returns whether its time is over.
    pub(super) fn is_over(&mut self, file: &Found) -> bool {
        if self.since.len() >= FILES_MAX {
            self.since.clear();
        }
        let now = Instant::now();
        now - *self.since.entry((file.id.clone(), file.key.changed)).or_insert(now) >= self.time
    }

    /// Notes that `file` was read.
    pub(super) fn forget(&mut self, file: &Found) {
        if !self.since.is_empty() {
            self.since.remove(&(file.id.clone(), file.key.changed));
        }
    }
}
