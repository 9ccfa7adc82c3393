//! The whole configuration. Each part of the product defines its own settings.

pub(crate) mod memory;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use headrace_ingest::source::Common;
use headrace_ingest::sources;
use headrace_local::nats::SyncInterval;
use headrace_runtime::config::{Invalid, Nats, Retry, Streams};
use headrace_runtime::memory::config::Config as MemoryConfig;
use headrace_settings::{Document, Loaded, Problems, Variables};
use headrace_sinks::instances::Sinks;
use headrace_sinks::{clickhouse, file};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

/// Environment variables with this prefix are settings.
pub const PREFIX: &str = "HEADRACE__";

/// The least value of `local.sync_interval_ms` besides 0. With less, one sync would follow the other without a pause.
const SYNC_INTERVAL_MIN_MS: u64 = 100;

/// The users of NATS. A consumer of a user's name may be that user's.
const USERS: [&str; 8] = ["admin", "ingest", "collect", "pipeline", "retention", "sinks", "recover", "subscriber"];

/// Headrace's configuration. Every setting has a default. A secret `x` may be given as `x_file`, the path of a file
/// that holds it. `HEADRACE__A__B` in the environment overrides `a.b`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What is logged, and how.
    pub log: Log,
    /// Health and metrics, for operators.
    pub admin: Admin,
    /// The message broker.
    pub nats: Nats,
    /// The streams in it.
    pub streams: Streams,
    /// How work that failed is tried again.
    pub retry: Retry,
    /// The gateway.
    pub ingest: headrace_ingest::config::Config,
    /// Which tenant an organization's events belong to.
    pub tenants: headrace_ingest::tenant::Tenants,
    /// How processes share the sources that must be asked.
    pub collect: headrace_ingest::collect::config::Config,
    /// The recovery of missed deliveries.
    pub recover: Option<headrace_ingest::github::recovery::config::Config>,
    /// The stages.
    pub pipeline: headrace_stages::chains::Config,
    /// Where events and alerts go. A sink runs if its table is present. `[sinks.splunk]` is a sink of the kind splunk.
    /// Any number of others may be of the same kind: `[sinks.splunk_dr]` with `kind = "splunk"`. Such a name has at most
    /// 32 lower case letters, digits and `_`, and its consumers in NATS have it too. The installation's own store is
    /// `[sinks.clickhouse]`.
    pub sinks: Sinks,
    /// The command `replay`.
    pub replay: Replay,
    /// How processes stop.
    pub shutdown: Shutdown,
    /// What a process may hold in memory.
    pub memory: MemoryConfig,
    /// The servers that `up` starts.
    pub local: Local,
}

/// What is logged, and how.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `json`, `text`, or `auto`: text on a terminal, JSON elsewhere.
    pub format: LogFormat,
    /// Which messages are logged, in the syntax of the crate tracing-subscriber. Example: `info,headrace_ingest=debug`.
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Auto, filter: "info".to_owned() }
    }
}

impl Log {
    /// The wrong values.
    fn validate(&self, prefix: &str) -> Option<Invalid> {
        let error = EnvFilter::try_new(&self.filter).err()?;
        let message =
            format!("expected a filter such as `info,headrace_ingest=debug`, found `{}`: {error}", self.filter);
        Some(Invalid::new(format!("{prefix}.filter"), message))
    }
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One JSON object for each line.
    Json,
    /// For people.
    Text,
}

/// Health and metrics, for operators.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Where `/healthz`, `/readyz` and `/metrics` are served. Port 0 takes any free one.
    pub listen: SocketAddr,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9_464)) }
    }
}

/// The command `replay`.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Replay {
    /// How long the next replay waits after one was killed, in seconds. Example: 30.
    #[schemars(range(min = 1, max = 600))]
    pub lease_s: u64,
}

impl Default for Replay {
    fn default() -> Self {
        Self { lease_s: 10 }
    }
}

impl Replay {
    /// `lease_s` as a duration.
    #[must_use]
    pub const fn lease(self) -> Duration {
        Duration::from_secs(self.lease_s)
    }
}

/// How processes stop.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// How long a process that stops may take to finish its work, in seconds. The next process does the rest again.
    #[schemars(range(min = 1, max = 300))]
    pub grace_s: u64,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { grace_s: 6 }
    }
}

impl Shutdown {
    /// `grace_s` as a duration.
    #[must_use]
    pub const fn grace(self) -> Duration {
        Duration::from_secs(self.grace_s)
    }
}

/// The servers that `up` starts when the configuration names none.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Local {
    /// Where the NATS server listens. Port 0 takes any free one.
    pub nats_listen: SocketAddr,
    /// Where the embedded ClickHouse listens. Port 0 takes any free one.
    pub clickhouse_listen: SocketAddr,
    /// How often NATS syncs to disk what it has confirmed, in milliseconds, 100 or more. A power cut
    /// (not a crash) may lose what was confirmed since. 0 syncs each message before it is confirmed:
    /// nothing is lost, and a disk takes a few hundred to a few thousand messages a second.
    // The maximum is the server's own default. Nobody needs fewer syncs.
    #[schemars(range(max = 120_000))]
    pub sync_interval_ms: u64,
}

impl Local {
    /// `sync_interval_ms` as the server takes it.
    #[must_use]
    pub const fn sync_interval(self) -> SyncInterval {
        match self.sync_interval_ms {
            0 => SyncInterval::Always,
            millis => SyncInterval::Every(Duration::from_millis(millis)),
        }
    }
}

impl Default for Local {
    fn default() -> Self {
        let port = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self { nats_listen: port(4_222), clickhouse_listen: port(8_123), sync_interval_ms: 1_000 }
    }
}

/// Reads the configuration from `path` and the environment. `values` returns its wrong values.
///
/// # Errors
/// All problems at once.
pub fn load(path: Option<&Path>, values: impl Fn(&Config) -> Vec<Invalid>) -> Result<Loaded<Config>, Problems> {
    headrace_settings::read(path, &variables(), |config| told(values(config)))
}

/// The environment variables that are settings.
pub(crate) fn variables() -> Variables {
    Variables::of(PREFIX, std::env::vars_os())
}

/// The same as [`load`], for a text and variables that were read before.
pub(crate) fn load_text(
    document: Option<Document<'_>>,
    variables: &Variables,
    values: impl Fn(&Config) -> Vec<Invalid>,
) -> Result<Loaded<Config>, Problems> {
    headrace_settings::load(document, variables, |config| told(values(config)))
}

/// Converts the parts' findings for the settings library, which the parts do not know.
#[must_use]
pub fn told(invalid: Vec<Invalid>) -> Vec<headrace_settings::Invalid> {
    invalid.into_iter().map(|Invalid { path, message }| headrace_settings::Invalid { path, message }).collect()
}

impl Config {
    /// The installation's own ClickHouse.
    #[must_use]
    pub fn clickhouse(&self) -> Option<&clickhouse::Config> {
        self.sinks.first()
    }

    /// What sources are given besides their own settings.
    #[must_use]
    pub fn for_sources(&self) -> Common<'_> {
        Common { tenants: &self.tenants, duplicate_window: self.streams.duplicate_window() }
    }

    /// The wrong values among those that `roles` use.
    #[must_use]
    pub fn validate(&self, roles: &[crate::role::Role]) -> Vec<Invalid> {
        use crate::role::Role;
        let mut problems = self.validate_shared();
        if roles.contains(&Role::Ingest) {
            problems.extend(self.ingest.validate("ingest"));
            problems.extend(sources::validate(&self.ingest, "ingest"));
            problems.extend(sources::missing(&self.ingest, "ingest"));
        }
        if roles.contains(&Role::Collect) {
            problems.extend(self.validate_collect(roles));
        }
        if roles.contains(&Role::Pipeline) {
            problems.extend(self.pipeline.validate("pipeline"));
            problems.extend(self.validate_verify(roles));
        }
        if roles.contains(&Role::Sinks) {
            problems.extend(self.sinks.validate("sinks", &taken_names()));
        }
        if roles.contains(&Role::Recover) {
            problems.extend(self.validate_recover(roles));
        }
        // Parts that cannot be built cannot tell what they need.
        if problems.is_empty() {
            problems.extend(memory::validate(self, roles));
        }
        problems
    }

    /// The wrong values among those that a replay uses.
    #[must_use]
    pub fn validate_replay(&self) -> Vec<Invalid> {
        let mut problems = self.validate(&[crate::role::Role::Pipeline]);
        problems.extend(self.sinks.validate_first::<clickhouse::Config>("sinks"));
        problems
    }

    /// If the role `ingest` runs here, the gateway's own check covers this.
    fn validate_verify(&self, roles: &[crate::role::Role]) -> Option<Invalid> {
        let is_missing = self.pipeline.verify && !sources::can_check_stored(&self.ingest);
        let message = "expected the webhook secrets, by which `pipeline.verify` checks stored signatures, found none; give \
                       those of the gateway, or turn `pipeline.verify` off";
        (is_missing && !roles.contains(&crate::role::Role::Ingest))
            .then(|| Invalid::new("ingest.github.secrets", message))
    }

    /// If the role `ingest` runs here, the gateway's own check covers the settings of the sources.
    fn validate_collect(&self, roles: &[crate::role::Role]) -> Vec<Invalid> {
        let mut problems = Vec::new();
        if !roles.contains(&crate::role::Role::Ingest) {
            problems.extend(sources::validate(&self.ingest, "ingest"));
        }
        // Beside other roles, this one may have nothing to do. Alone, there would be nothing to run. What cannot be set
        // up is told at the start.
        let is_idle = sources::pulls(&self.ingest, self.for_sources()).is_ok_and(|pulls| pulls.is_empty());
        if roles.len() == 1 && problems.is_empty() && is_idle {
            let message = "expected a source that must be asked for the role `collect`, such as `[ingest.ndjson.folder]`, \
                           found none";
            problems.push(Invalid::new("ingest", message));
        }
        problems
    }

    fn validate_recover(&self, roles: &[crate::role::Role]) -> Vec<Invalid> {
        let Some(recover) = &self.recover else {
            // Beside other roles, this one may have nothing to do. Alone, there would be nothing to run.
            let message = "expected the table `[recover]` for the role `recover`, found none";
            return (roles.len() == 1).then(|| Invalid::new("recover", message)).into_iter().collect();
        };
        let mut problems = recover.validate("recover");
        match self.clickhouse() {
            None => {
                let message =
                    "expected the table `[sinks.clickhouse]`, found none; recovery asks ClickHouse what arrived";
                problems.push(Invalid::new("sinks.clickhouse", message));
            }
            Some(_) if roles.contains(&crate::role::Role::Sinks) => {}
            Some(_) => problems.extend(self.sinks.validate_first::<clickhouse::Config>("sinks")),
        }
        problems
    }

    /// A folder in which a sink writes: each event would come again as a record.
    pub(crate) fn validate_folder(&self) -> Option<Invalid> {
        let folder = self.ingest.ndjson.as_ref()?.folder.as_ref()?;
        let is_read = |(_, sink): &(&str, &file::Config)| {
            let writes_below = !sink.folders.is_empty() && folder.is_in(&sink.dir);
            !sink.dir.as_os_str().is_empty() && (folder.reads(&sink.dir) || writes_below)
        };
        let (name, sink) = self.sinks.of_kind().find(is_read)?;
        let message = format!(
            "expected a folder in which nobody but senders write, found `{}`, which holds what `sinks.{name}` writes in its `dir` ({}): \
             each event would come again as a record",
            folder.url,
            sink.dir.display()
        );
        Some(Invalid::new("ingest.ndjson.folder.url", message))
    }

    fn validate_shared(&self) -> Vec<Invalid> {
        let mut problems = self.nats.validate("nats");
        problems.extend(self.retry.validate("retry"));
        problems.extend(self.sinks.validate_retry("sinks", &self.retry));
        problems.extend(self.tenants.validate("tenants"));
        problems.extend(self.validate_folder());
        problems.extend(self.log.validate("log"));
        // A message that is received or stored late by a quarter of the window is a suspect. What is left must cover the
        // difference between clocks. With a shorter window, a message that the broker no longer knows could look like a
        // first delivery.
        let (window_s, clock_skew_ms) = (self.streams.duplicate_window_s, self.nats.clock_skew_ms);
        if window_s.saturating_mul(1_000) < clock_skew_ms.saturating_mul(4) {
            let message =
                format!("expected at least four times `nats.clock_skew_ms` ({clock_skew_ms}), found {window_s} s");
            problems.push(Invalid::new("streams.duplicate_window_s", message));
        }
        let sync_interval_ms = self.local.sync_interval_ms;
        if (1..SYNC_INTERVAL_MIN_MS).contains(&sync_interval_ms) {
            let message = format!("expected 0, or {SYNC_INTERVAL_MIN_MS} or more, found {sync_interval_ms}");
            problems.push(Invalid::new("local.sync_interval_ms", message));
        }
        problems
    }
}

/// The names that are other consumers' or users', and no sink's components may have.
fn taken_names() -> Vec<&'static str> {
    let stages = headrace_stages::chains::ORDER.into_iter().chain([headrace_stages::chains::ALERT]);
    stages.chain(USERS).collect()
}

#[cfg(test)]
mod bad_input;

#[cfg(test)]
mod ranges;

#[cfg(test)]
mod tests;
