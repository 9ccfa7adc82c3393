//! Configuration of the role that asks sources.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How processes share the sources that must be asked. What is asked, and how often, is a setting of each source below
/// `ingest`.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// After this many seconds without a sign of life from the process that reads a source, another one takes over.
    /// Example: 60.
    #[schemars(range(min = 1, max = 600))]
    pub lease_s: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { lease_s: 15 }
    }
}

impl Config {
    /// `lease_s` as a duration.
    #[must_use]
    pub const fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_s)
    }
}
