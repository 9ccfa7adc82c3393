//! Configuration of the Splunk sink.

use std::path::PathBuf;
use std::time::Duration;

use headrace_runtime::config::{Invalid, TIMEOUT_MAX_MS};
use headrace_runtime::secret::Secret;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::kind::{BATCH_BYTES_MAX, BATCH_EVENTS_MAX, LINGER_MAX_MS};
use crate::shared::http::check_url;

/// Scored events to Splunk's HTTP Event Collector (HEC). Tried only against a stand-in that follows
/// the published protocol, not against a Splunk server.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The collector's base URL, without `/services/…`. Required. Example:
    /// `https://http-inputs-acme.splunkcloud.com` or `https://splunk.example.com:8088`.
    pub url: String,
    /// A HEC token without indexer acknowledgement. Required. Example:
    /// `0b3f9d1e-5a77-4f6c-9d2e-2c1f0a6b8e55`.
    pub token: Secret,
    /// The index to write to; empty means the token's default index. Example:
    /// `github`.
    pub index: String,
    /// The events' source type. Example: `github:webhook`.
    pub sourcetype: String,
    /// The events' source. Example: `headrace-eu`.
    pub source: String,
    /// The events' host; empty means what Splunk takes by default. Example:
    /// `headrace-1`.
    pub host: String,
    /// Whether requests are compressed with gzip. Example: false, for a proxy that
    /// cannot pass it on.
    pub compress: bool,
    /// Most events in a batch. Example: 2000.
    #[schemars(range(min = 1, max = BATCH_EVENTS_MAX))]
    pub batch_events_max: usize,
    /// Most bytes in a request, before compression; a larger batch takes several requests, and an
    /// event larger than this is sent alone. Default: 1000000, what Splunk Cloud accepts. Example:
    /// 5000000.
    #[schemars(range(min = 10_000, max = BATCH_BYTES_MAX))]
    pub batch_bytes_max: usize,
    /// Longest wait for a batch to fill, in milliseconds. Example: 200.
    #[schemars(range(min = 1, max = LINGER_MAX_MS))]
    pub linger_ms: u64,
    /// Longest wait for the answer to one request, in milliseconds. Example: 30000.
    #[schemars(range(min = 1, max = TIMEOUT_MAX_MS))]
    pub timeout_ms: u64,
    /// A file of CA certificates (PEM) to trust besides the system's. Example:
    /// `/etc/headrace/splunk-ca.pem`.
    pub ca_path: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: String::new(),
            token: Secret::default(),
            index: String::new(),
            sourcetype: "headrace:event".to_owned(),
            source: "headrace".to_owned(),
            host: String::new(),
            compress: true,
            batch_events_max: 500,
            batch_bytes_max: 1_000_000,
            linger_ms: 1_000,
            timeout_ms: 10_000,
            ca_path: None,
        }
    }
}

impl Config {
    /// Everything that is wrong with it, found without touching the network. `path` is where it is in
    /// the configuration.
    #[must_use]
    pub fn validate(&self, path: &str) -> Vec<Invalid> {
        let at = |field: &str| format!("{path}.{field}");
        let url = check_url(&self.url, &at("url"), "https://splunk.example.com:8088");
        let mut problems: Vec<Invalid> = url.into_iter().collect();
        if self.url.contains("/services/") {
            let message = "expected the base URL, found one with `/services/`; leave the endpoint's path out";
            problems.push(Invalid::new(at("url"), message));
        }
        if self.token.is_empty() || !self.token.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
            let message =
                "expected a HEC token of printable ASCII characters; create one in Splunk under Settings › Data inputs";
            problems.push(Invalid::new(at("token"), message));
        }
        problems
    }

    /// `timeout_ms` as a duration.
    pub(super) const fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_named_with_its_place() {
        let paths = |config: &Config| -> Vec<String> {
            config.validate("sinks.splunk").into_iter().map(|problem| problem.path).collect()
        };
        let good = Config {
            url: "https://splunk.example.com:8088".to_owned(),
            token: Secret::new("0b3f9d1e"),
            ..Config::default()
        };
        assert!(paths(&good).is_empty());
        assert_eq!(paths(&Config::default()), ["sinks.splunk.url", "sinks.splunk.token"]);
        let bad = Config {
            url: "https://splunk.example.com/services/collector".to_owned(),
            token: Secret::new("two words"),
            ..good
        };
        assert_eq!(paths(&bad), ["sinks.splunk.url", "sinks.splunk.token"]);
        assert!(bad.validate("x").iter().all(|problem| !problem.message.contains("two words")));
    }
}
