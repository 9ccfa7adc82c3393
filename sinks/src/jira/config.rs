//! Configuration of the Jira sink.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use headrace_runtime::config::{Invalid, TIMEOUT_MAX_MS};
use headrace_runtime::secret::Secret;
use headrace_schemas::event::Severity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::kind::LINGER_MAX_MS;
use crate::shared::http::check_url;
use crate::shared::severity;

/// One Jira Cloud ticket per alert, with comments as it grows. Tried only against a stand-in that
/// follows the published REST API (version 3), not against Jira.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The site's base URL. Required. Example: `https://acme.atlassian.net`.
    pub url: String,
    /// The e-mail address of the account that opens the tickets. Required. Example:
    /// `headrace@acme.example`.
    pub email: String,
    /// An API token of that account. Required. Example: `ATATT3xFfGF0…`.
    pub api_token: Secret,
    /// The project's key. Required. Example: `SEC`.
    pub project: String,
    /// The name of the tickets' type in that project. Example: `Incident`.
    pub issue_type: String,
    /// The name of the priority for each severity; a severity that is not listed gets the project's
    /// default. Example: `{ critical = "Highest", high = "High" }`.
    pub priorities: BTreeMap<String, String>,
    /// Labels of every ticket, besides the one that Headrace finds it by. No spaces. Default:
    /// `["headrace"]`. Example: `["headrace", "github"]`.
    pub labels: Vec<String>,
    /// Most alerts in a batch. Example: 1.
    #[schemars(range(min = 1, max = BATCH_EVENTS_MAX))]
    pub batch_events_max: usize,
    /// Longest wait for a batch to fill, in milliseconds. Example: 200.
    #[schemars(range(min = 1, max = LINGER_MAX_MS))]
    pub linger_ms: u64,
    /// Longest wait for the answer to one request, in milliseconds. Example: 30000.
    #[schemars(range(min = 1, max = TIMEOUT_MAX_MS))]
    pub timeout_ms: u64,
    /// How long Jira's search may miss a ticket that was just created, in milliseconds. After a
    /// creation without a clear answer, this long passes before a ticket that is not found is
    /// created (again). Example: 180000.
    #[schemars(range(max = INDEX_LAG_MAX_MS))]
    pub index_lag_ms: u64,
    /// A file of CA certificates (PEM) to trust besides the system's. Example:
    /// `/etc/headrace/proxy-ca.pem`.
    pub ca_path: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: String::new(),
            email: String::new(),
            api_token: Secret::default(),
            project: String::new(),
            issue_type: "Task".to_owned(),
            priorities: BTreeMap::new(),
            labels: vec!["headrace".to_owned()],
            batch_events_max: 10,
            linger_ms: 1_000,
            timeout_ms: 10_000,
            index_lag_ms: 60_000,
            ca_path: None,
        }
    }
}

/// Alerts in one batch: one search names them all.
const BATCH_EVENTS_MAX: usize = 50;
/// The longest lag of Jira's search that may be set, in milliseconds: an hour. Alerts wait for it.
const INDEX_LAG_MAX_MS: u64 = 3_600_000;

impl Config {
    /// Everything that is wrong with it, found without touching the network. `path` is where it is in
    /// the configuration.
    #[must_use]
    pub fn validate(&self, path: &str) -> Vec<Invalid> {
        let at = |field: &str| format!("{path}.{field}");
        let url = check_url(&self.url, &at("url"), "https://acme.atlassian.net");
        let mut problems: Vec<Invalid> = url.into_iter().collect();
        let mut expect = |good: bool, field: &str, message: &str| {
            if !good {
                problems.push(Invalid::new(at(field), message));
            }
        };
        expect(self.email.contains('@'), "email", "expected the account's e-mail address");
        let token = "expected an API token; create one at id.atlassian.com under Security › API tokens";
        expect(!self.api_token.is_empty(), "api_token", token);
        let key = "expected a project key such as `SEC`: a capital letter, then capital letters, digits or `_`";
        expect(is_project_key(&self.project), "project", key);
        expect(!self.issue_type.trim().is_empty(), "issue_type", "expected a name such as `Task`, found nothing");
        for label in &self.labels {
            let good = !label.is_empty() && label.len() <= 255 && !label.contains(char::is_whitespace);
            expect(good, "labels", &format!("expected labels of 1 to 255 bytes without spaces, found `{label}`"));
        }
        for (word, name) in &self.priorities {
            let message = format!("expected one of {}, found `{word}`", severity::words().join(", "));
            expect(Severity::from_word(word).is_some(), "priorities", &message);
            let message = format!("expected a priority's name for `{word}`, found nothing");
            expect(!name.trim().is_empty(), "priorities", &message);
        }
        problems
    }

    /// `timeout_ms` as a duration.
    pub(super) const fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// `index_lag_ms` as a duration.
    pub(super) const fn index_lag(&self) -> Duration {
        Duration::from_millis(self.index_lag_ms)
    }
}

/// Atlassian's rule for project keys. It also keeps quotes out of the searches built with it.
fn is_project_key(key: &str) -> bool {
    key.starts_with(|first: char| first.is_ascii_uppercase())
        && key.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_named_with_its_place() {
        let paths = |config: &Config| -> Vec<String> {
            config.validate("sinks.jira").into_iter().map(|problem| problem.path).collect()
        };
        let good = Config {
            url: "https://acme.atlassian.net".to_owned(),
            email: "headrace@acme.example".to_owned(),
            api_token: Secret::new("secret"),
            project: "SEC".to_owned(),
            priorities: BTreeMap::from([("critical".to_owned(), "Highest".to_owned())]),
            ..Config::default()
        };
        assert!(paths(&good).is_empty(), "{:?}", paths(&good));
        let required = ["url", "email", "api_token", "project"].map(|field| format!("sinks.jira.{field}"));
        assert_eq!(paths(&Config::default()), required);
        let bad = Config {
            project: "SEC\" OR project = \"HR".to_owned(),
            issue_type: " ".to_owned(),
            labels: vec!["two words".to_owned()],
            priorities: BTreeMap::from([("bad".to_owned(), String::new())]),
            ..good
        };
        let fields = ["project", "issue_type", "labels", "priorities", "priorities"];
        assert_eq!(paths(&bad), fields.map(|field| format!("sinks.jira.{field}")));
    }
}
