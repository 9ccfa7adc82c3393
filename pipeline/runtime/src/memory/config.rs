//! Configuration of the budget.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The least that may be set, in MB. No role can work with less.
const BUDGET_MIN_MB: u64 = 16;
/// The most that may be set, in MB: a terabyte. It is far beyond what all parts together can use.
const BUDGET_MAX_MB: u64 = 1_000_000;

/// What a process may hold in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How much a process may hold of messages, bodies and what is made of them, in MB of 1,000,000 bytes. It is divided
    /// among the gateway, the chains and the sinks; with less, they work in smaller batches. The program itself comes on
    /// top: give the process 1.6 times as much. Unset means five eighths of what the machine, the control groups or
    /// `ulimit` allow, and no less than the process needs. `up` leaves room for the servers that it starts: it takes a
    /// quarter beside ClickHouse, and half beside NATS alone.
    #[schemars(range(min = BUDGET_MIN_MB, max = BUDGET_MAX_MB), example = &320)]
    pub budget_mb: Option<u64>,
}

impl Config {
    /// `budget_mb` in bytes.
    #[must_use]
    pub fn budget(&self) -> Option<usize> {
        let megabytes = usize::try_from(self.budget_mb?).unwrap_or(usize::MAX);
        Some(megabytes.saturating_mul(1_000_000))
    }
}
