//! Configuration of newline-delimited JSON: who may send, and which fields of a record say what it is.

use headrace_runtime::config::Invalid;
use headrace_runtime::secret::Secret;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::folder;

/// The most records that a request may be allowed to bring. All of them are stored within `ingest.answer_max_ms`.
const RECORDS_MAX: usize = 100_000;

/// What a record takes in memory besides its line: itself, its id, kind and tenant, and its receipt.
pub(super) const RECORD_BYTES: usize = 512;

/// Newline-delimited JSON: one record a line. It is sent to `/collect/ndjson` with a bearer token.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Bearer tokens that may send the records of every tenant. You may list several at once for a rotation: add the new
    /// one here, change it at the sender, remove the old one.
    pub tokens: Vec<Secret>,
    /// Bearer tokens that may send the records of certain tenants only. A request with a record of another tenant is
    /// answered 403 `token_foreign`, and nothing of it is stored.
    #[schemars(example = serde_json::json!([{ "tenants": ["acme"], "tokens": ["..."] }]))]
    pub scoped: Vec<Scoped>,
    /// The field with a record's id: text or a whole number. A record that comes again under its id is recognized. Dots
    /// lead into objects, as in `event.id`; so for all fields here.
    pub id: String,
    /// The field with the time of what a record tells: RFC 3339 text, or a number of seconds, milliseconds, microseconds
    /// or nanoseconds since 1970. It must be the same whenever the record is sent again.
    pub time: String,
    /// The field with a record's kind. A record without it has the kind `record`.
    pub kind: String,
    /// The field that says whose a record is. `tenants.by_login` maps it to a tenant; a name that is not there is a
    /// tenant of its own.
    pub tenant: String,
    /// What a record without the field `tenant` is taken to say there. Unset means that it is
    /// nobody's: its tenant is `none`.
    #[schemars(example = &"acme")]
    pub default_tenant: Option<String>,
    /// Most records in a request. They are stored before the answer, so within `ingest.answer_max_ms`.
    #[schemars(range(min = 1, max = RECORDS_MAX))]
    pub records_max: usize,
    /// A folder whose files are read too.
    pub folder: Option<folder::config::Config>,
}

/// Bearer tokens of certain tenants.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scoped {
    /// The tenants whose records these tokens may send, as in `tenants.by_login`. No entry covers a record that names no
    /// tenant, unless `default_tenant` gives it one.
    pub tenants: Vec<String>,
    /// The tokens.
    pub tokens: Vec<Secret>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tokens: Vec::new(),
            scoped: Vec::new(),
            id: "id".to_owned(),
            time: "time".to_owned(),
            kind: "kind".to_owned(),
            tenant: "tenant".to_owned(),
            default_tenant: None,
            records_max: 10_000,
            folder: None,
        }
    }
}

impl Config {
    /// The most memory that the records of a request take besides its body.
    #[must_use]
    pub const fn records_bytes_max(&self) -> usize {
        self.records_max.saturating_mul(RECORD_BYTES)
    }

    /// Whether anybody may send.
    pub(super) const fn has_tokens(&self) -> bool {
        !self.tokens.is_empty() || !self.scoped.is_empty()
    }

    /// What is wrong with these values, below `path`.
    pub(super) fn validate(&self, path: &str) -> Vec<Invalid> {
        let mut problems = Vec::new();
        let mut refuse = |field: &str, message: &str| problems.push(Invalid::new(format!("{path}.{field}"), message));
        for (index, token) in self.tokens.iter().enumerate() {
            if let Err(expected) = check_token(token) {
                refuse(&format!("tokens[{index}]"), expected);
            }
        }
        for (index, scoped) in self.scoped.iter().enumerate() {
            if scoped.tenants.is_empty() || scoped.tenants.iter().any(|tenant| tenant.trim().is_empty()) {
                let message = "expected at least one tenant and none empty; tokens for all tenants belong in \
                               `ingest.ndjson.tokens`";
                refuse(&format!("scoped[{index}].tenants"), message);
            }
            if scoped.tokens.is_empty() {
                refuse(&format!("scoped[{index}].tokens"), "expected at least one token, found none");
            }
            for (token, secret) in scoped.tokens.iter().enumerate() {
                if let Err(expected) = check_token(secret) {
                    refuse(&format!("scoped[{index}].tokens[{token}]"), expected);
                }
            }
        }
        for (name, field) in [("id", &self.id), ("time", &self.time), ("kind", &self.kind), ("tenant", &self.tenant)] {
            if field.split('.').any(str::is_empty) {
                refuse(name, "expected the name of a field, or names with a dot between two, found an empty name");
            }
        }
        if self.default_tenant.as_ref().is_some_and(|tenant| tenant.trim().is_empty()) {
            refuse("default_tenant", "expected the name of a tenant, found an empty text; leave it out for none");
        }
        problems.extend(self.folder.iter().flat_map(|folder| folder.validate(&format!("{path}.folder"))));
        problems
    }
}

/// A token stands in a header, so a sender could not send any other.
fn check_token(token: &Secret) -> Result<(), &'static str> {
    let text = token.expose();
    let is_sendable = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_sendable { Ok(()) } else { Err("expected a token of printable ASCII characters without spaces") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(config: &Config) -> Vec<String> {
        config.validate("ingest.ndjson").into_iter().map(|problem| problem.path).collect()
    }

    #[test]
    fn each_problem_is_told_with_its_place() {
        assert_eq!(paths(&Config { tokens: vec![Secret::new("t")], ..Config::default() }), [""; 0]);
        let bad = Config {
            tokens: vec![Secret::new("good"), Secret::new(""), Secret::new("two words")],
            scoped: vec![
                Scoped::default(),
                Scoped { tenants: vec![" ".to_owned()], tokens: vec![Secret::new("t"), Secret::new("\u{e9}")] },
            ],
            id: String::new(),
            time: "a..b".to_owned(),
            kind: "a.b".to_owned(),
            tenant: ".a".to_owned(),
            default_tenant: Some(String::new()),
            ..Config::default()
        };
        let below = |path: &str| path.strip_prefix("ingest.ndjson.").map(str::to_owned);
        let found: Vec<String> = paths(&bad).iter().filter_map(|path| below(path)).collect();
        let expected = [
            "tokens[1]",
            "tokens[2]",
            "scoped[0].tenants",
            "scoped[0].tokens",
            "scoped[1].tenants",
            "scoped[1].tokens[1]",
            "id",
            "time",
            "tenant",
            "default_tenant",
        ];
        assert_eq!(found, expected);
    }
}
