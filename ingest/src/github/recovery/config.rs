//! Configuration of the recovery of missed deliveries. Checks need no network: [`Config::validate`] finds what is
//! wrong.

use headrace_runtime::config::Invalid;
use headrace_runtime::secret::{Secret, redact_url};
use headrace_schemas::token;
use octocrab::auth::EncodingKey;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// GitHub keeps deliveries for 3 days, GitHub Enterprise Server for 7.
const HORIZON_MAX_HOURS: u64 = 7 * 24;

/// Recovery of deliveries that GitHub could not deliver, or that were lost afterwards: GitHub repeats none by itself.
/// It runs when this table is present, and needs `sinks.clickhouse`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Base URL of GitHub's REST API. Example, for GitHub Enterprise
    /// Server: `https://github.example.com/api/v3`.
    pub api_url: String,
    /// Pause between two runs, in seconds. Example: 60.
    #[schemars(range(min = 1, max = 86_400))]
    pub interval_s: u64,
    /// How far back to look for missing deliveries, in hours. Older ones cannot be redelivered. Default: 72, as long as
    /// github.com keeps them. Example: 168, for GitHub Enterprise Server.
    #[schemars(range(min = 1, max = HORIZON_MAX_HOURS))]
    pub horizon_hours: u64,
    /// How long a delivery may take to arrive in ClickHouse before it counts as missing, in seconds. It is also the
    /// pause after a redelivery; the pause doubles with each further one. Example: 120.
    #[schemars(range(min = 1, max = 86_400))]
    pub grace_s: u64,
    /// Most redeliveries asked for in one run, for each hook. Example: 100.
    #[schemars(range(min = 1, max = 10_000))]
    pub budget_per_run: usize,
    /// Most redeliveries asked for in any 60 minutes, by all hooks and processes. Default: 4000, of the 5000 requests
    /// an hour that GitHub allows a token. If a secondary limit of GitHub's applies, we wait until it ends. Example:
    /// 500.
    #[schemars(range(min = 1, max = 100_000))]
    pub budget_per_hour: usize,
    /// Longest wait for one answer from GitHub, in milliseconds. Example: 30000.
    #[schemars(range(min = 100, max = 120_000))]
    pub timeout_ms: u64,
    /// After this many seconds without a sign of life from the working process, another one takes over.
    /// Example: 60.
    #[schemars(range(min = 1, max = 600))]
    pub lease_s: u64,
    /// The hooks whose deliveries to recover.
    #[schemars(example = serde_json::json!([
        { "kind": "organization", "organization": "acme", "hook_id": 12_345_678, "token": "github_pat_11..." },
    ]))]
    pub hooks: Vec<Hook>,
}

/// A webhook at GitHub, with the token or the GitHub App that may list and repeat its deliveries.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// What the webhook belongs to.
    pub kind: Kind,
    /// Login of the organization, for the kind `organization`. Example: `acme`.
    #[serde(default)]
    pub organization: Option<String>,
    /// Owner and name of the repository, for the kind `repository`. Example: `acme/app`.
    #[serde(default)]
    pub repository: Option<String>,
    /// The hook's id, as in its URL at GitHub and in `X-GitHub-Hook-ID`; an App has no more than one hook.
    /// Example: 12345678.
    #[serde(default)]
    pub hook_id: Option<u64>,
    /// A token that may read and write the hook: a fine-grained one with the permission `Webhooks` of the
    /// organization or repository. Not for the kind `app`. Example: `github_pat_11…`.
    #[serde(default)]
    pub token: Secret,
    /// The App's id, instead of a token. For organizations and repositories it must be installed there, with
    /// the permission `Webhooks: read and write`. Example: 123456.
    #[serde(default)]
    pub app_id: Option<u64>,
    /// The App's private key, the PEM file that GitHub made, best given as `private_key_file`.
    #[serde(default)]
    pub private_key: Secret,
}

/// What the webhook belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The webhook of a GitHub App.
    #[default]
    App,
    /// A webhook of an organization.
    Organization,
    /// A webhook of a repository.
    Repository,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            api_url: "https://api.github.com".to_owned(),
            interval_s: 300,
            horizon_hours: 72,
            grace_s: 600,
            budget_per_run: 500,
            budget_per_hour: 4_000,
            timeout_ms: 15_000,
            lease_s: 15,
            hooks: Vec::new(),
        }
    }
}

impl Config {
    /// `interval_s` as a duration.
    #[must_use]
    pub const fn interval(&self) -> Duration {
        Duration::from_secs(self.interval_s)
    }

    /// `grace_s` as a duration.
    #[must_use]
    pub const fn grace(&self) -> Duration {
        Duration::from_secs(self.grace_s)
    }

    /// `horizon_hours` as a duration.
    #[must_use]
    pub const fn horizon(&self) -> Duration {
        Duration::from_secs(self.horizon_hours * 3_600)
    }

    /// `timeout_ms` as a duration.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// `lease_s` as a duration.
    #[must_use]
    pub const fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_s)
    }

    /// What is wrong with these values, below `path`. It needs no network.
    #[must_use]
    pub fn validate(&self, path: &str) -> Vec<Invalid> {
        let mut problems = Vec::new();
        let mut refuse = |field: &str, message: String| problems.push(Invalid::new(format!("{path}.{field}"), message));
        let host = self.api_url.strip_prefix("https://").or_else(|| self.api_url.strip_prefix("http://"));
        if host.is_none_or(str::is_empty) || self.api_url.contains(['?', '#', '@', ' ']) {
            let message = format!(
                "expected the API's base URL such as `https://api.github.com`, found `{}`",
                redact_url(&self.api_url)
            );
            refuse("api_url", message);
        }
        if self.hooks.is_empty() {
            refuse("hooks", "expected at least one `[[recover.hooks]]`, found none".to_owned());
        }
        for (index, hook) in self.hooks.iter().enumerate() {
            let path = format!("{path}.hooks[{index}]");
            let key = HookName::new(hook).key;
            if self.hooks[..index].iter().any(|other| HookName::new(other).key == key) {
                problems.push(Invalid::new(&path, "expected each hook once, found it twice"));
            }
            problems.extend(hook.validate(&path));
        }
        problems
    }
}

impl Hook {
    fn validate(&self, path: &str) -> Vec<Invalid> {
        let mut problems = Vec::new();
        let mut refuse = |field: &str, message: &str| {
            problems.push(Invalid::new(format!("{path}.{field}"), message));
        };
        let is_organization = |text: &String| is_name(text);
        let is_repository =
            |text: &String| text.split_once('/').is_some_and(|(owner, name)| is_name(owner) && is_name(name));
        if (self.kind == Kind::Organization) != self.organization.as_ref().is_some_and(is_organization) {
            refuse("organization", "expected the organization's login for the kind `organization`, and only there");
        }
        if (self.kind == Kind::Repository) != self.repository.as_ref().is_some_and(is_repository) {
            refuse("repository", "expected `owner/name` for the kind `repository`, and only there");
        }
        if (self.kind == Kind::App) == self.hook_id.is_some() {
            refuse("hook_id", "expected the hook's id for the kinds `organization` and `repository`, and only there");
        }
        let is_app = self.app_id.is_some() && !self.private_key.is_empty();
        match (self.kind, self.token.is_empty(), is_app) {
            (_, true, true) | (Kind::Organization | Kind::Repository, false, false) => {}
            (Kind::App, _, _) => {
                refuse(
                    "app_id",
                    "expected `app_id` and `private_key` and no `token`: an App's hook takes nothing else",
                );
            }
            _ => refuse("token", "expected either `token`, or `app_id` and `private_key`"),
        }
        if !self.token.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
            refuse("token", "expected a token of printable ASCII characters");
        }
        let key = self.private_key.expose();
        if !key.is_empty() && EncodingKey::from_rsa_pem(key.as_bytes()).is_err() {
            refuse(
                "private_key",
                "expected an RSA private key in PEM form, as GitHub makes it; give the file as `private_key_file`",
            );
        }
        problems
    }
}

/// Whether `text` is a login or the name of a repository, so that it can stand in a route unescaped.
pub(super) fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && text.bytes().all(plain) && text.bytes().any(|byte| byte != b'.')
}

/// A hook's names: for GitHub's routes, for our keys, and for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HookName {
    /// For people and metrics: `app/123456`, `organization/acme/42`, `repository/acme/app/42`.
    pub(super) name: String,
    /// The name as a token for keys. As unique as the name itself.
    pub(super) key: String,
    /// The route of its deliveries, after the API's base URL.
    pub(super) deliveries: String,
    /// The route that returns the App's installation for this hook. `None` for an App's own hook.
    pub(super) installation: Option<String>,
    /// The login whose events the hook sends. `None` for an App, which is installed at several logins.
    pub(super) owner: Option<String>,
}

impl HookName {
    /// The names of the hook that `config` describes, which must have been validated.
    pub(super) fn new(config: &Hook) -> Self {
        let id = config.hook_id.unwrap_or_default();
        let place = match config.kind {
            Kind::App => None,
            Kind::Organization => config.organization.as_ref().map(|login| format!("orgs/{login}")),
            Kind::Repository => config.repository.as_ref().map(|name| format!("repos/{name}")),
        };
        let owner = match config.kind {
            Kind::App => None,
            Kind::Organization => config.organization.clone(),
            Kind::Repository => config.repository.as_deref().and_then(|name| name.split('/').next()).map(str::to_owned),
        };
        let name = match config.kind {
            Kind::App => format!("app/{}", config.app_id.unwrap_or_default()),
            Kind::Organization => format!("organization/{}/{id}", config.organization.as_deref().unwrap_or_default()),
            Kind::Repository => format!("repository/{}/{id}", config.repository.as_deref().unwrap_or_default()),
        };
        Self {
            key: token::escaped(&name),
            deliveries: match &place {
                Some(place) => format!("/{place}/hooks/{id}/deliveries"),
                None => "/app/hook/deliveries".to_owned(),
            },
            installation: place.map(|place| format!("/{place}/installation")),
            owner,
            name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(kind: Kind) -> Hook {
        let named = |wanted: Kind, text: &str| (kind == wanted).then(|| text.to_owned());
        Hook {
            kind,
            organization: named(Kind::Organization, "acme"),
            repository: named(Kind::Repository, "acme/app"),
            hook_id: Some(7),
            token: Secret::new("token"),
            ..Hook::default()
        }
    }

    fn paths(hooks: Vec<Hook>) -> Vec<String> {
        let config = Config { hooks, ..Config::default() };
        config.validate("recover").into_iter().map(|problem| problem.path).collect()
    }

    #[test]
    fn every_problem_is_named_with_its_place() {
        assert_eq!(paths(vec![]), ["recover.hooks"]);
        assert!(paths(vec![hook(Kind::Organization), hook(Kind::Repository)]).is_empty());
        assert_eq!(paths(vec![hook(Kind::Repository), hook(Kind::Repository)]), ["recover.hooks[1]"]);
        let nameless = Hook { organization: None, ..hook(Kind::Organization) };
        let wayward = Hook { repository: Some("acme/../app".to_owned()), ..hook(Kind::Repository) };
        assert_eq!(paths(vec![nameless, wayward]), ["recover.hooks[0].organization", "recover.hooks[1].repository"]);
        // An App's own hook has no id and accepts no token.
        assert_eq!(paths(vec![hook(Kind::App)]), ["recover.hooks[0].hook_id", "recover.hooks[0].app_id"]);
        let both = Hook { app_id: Some(1), private_key: Secret::new("no key"), ..hook(Kind::Organization) };
        assert_eq!(paths(vec![both]), ["recover.hooks[0].token", "recover.hooks[0].private_key"]);
        let bad =
            Config { api_url: "api.github.com".to_owned(), hooks: vec![hook(Kind::Organization)], ..Config::default() };
        let found: Vec<String> = bad.validate("r").into_iter().map(|problem| problem.path).collect();
        assert_eq!(found, ["r.api_url"]);
    }
}
