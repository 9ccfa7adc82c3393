//! Configuration of GitHub's webhooks: their secrets, and whom each secret covers.

use headrace_runtime::config::Invalid;
use headrace_runtime::secret::Secret;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// GitHub webhooks.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Webhook secrets of every hook and organization without an entry of its own in `scoped`. You may list several at
    /// once for a rotation: add the new one here, change it at GitHub, remove the old one.
    ///
    /// Which secret may sign what: a body names logins (of the organization, of the repository's owner, also in
    /// `full_name`, and of the installation's account) and perhaps an enterprise. The secret that signed the body must
    /// cover each of them, or the answer is 403 `signature_foreign`. If an entry of `scoped` without `hook_id` lists a
    /// login, only the secrets of such entries cover it. The same holds for a login that no entry lists but that has
    /// the tenant (`tenants.by_login`) of a listed one. Any other login is covered by the secrets here, and by those of
    /// entries that list no organizations. The sender and the owner of a fork need no cover.
    pub secrets: Vec<Secret>,
    /// Secrets that are valid for certain organizations, for an enterprise or for a hook only.
    #[schemars(example = serde_json::json!([{ "organization": "acme", "secrets": ["..."] }]))]
    pub scoped: Vec<Scoped>,
}

/// Secrets of certain organizations, of an enterprise, or of one hook. At least one of `organization`,
/// `organizations`, `enterprise` and `hook_id` is set.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scoped {
    /// Login of the organization, or of the user, whose events these secrets sign, in any letter case.
    #[serde(default)]
    pub organization: Option<String>,
    /// Further logins whose events these secrets sign. If an event names several logins, all of them must be listed
    /// here.
    #[serde(default)]
    pub organizations: Vec<String>,
    /// Slug of the enterprise whose events these secrets sign. Without organizations beside it, they sign for each
    /// organization that has no secrets of its own, in bodies that name the enterprise. Any event may name an
    /// enterprise that is in no entry.
    #[serde(default)]
    pub enterprise: Option<String>,
    /// The hook's id, as in its URL at GitHub and in `X-GitHub-Hook-ID`. Only these secrets sign for that hook. The
    /// hook of a GitHub App signs for many organizations. Without organizations beside it, the secrets sign for each
    /// organization that has no secrets of its own. With organizations, they sign for those alone, whether or not those
    /// have secrets of their own.
    #[serde(default)]
    pub hook_id: Option<u64>,
    /// The secrets.
    pub secrets: Vec<Secret>,
}

impl Scoped {
    /// Every login that the entry lists.
    pub(crate) fn logins(&self) -> impl Iterator<Item = &str> {
        self.organization.iter().chain(&self.organizations).map(String::as_str)
    }
}

impl Config {
    /// What is wrong with these values, below `path`.
    pub(super) fn validate(&self, path: &str) -> Vec<Invalid> {
        let mut problems = Vec::new();
        let mut refuse = |field: &str, message: String| problems.push(Invalid::new(format!("{path}.{field}"), message));
        for (index, secret) in self.secrets.iter().enumerate() {
            if secret.is_empty() {
                refuse(&format!("secrets[{index}]"), "expected a secret, found an empty text".to_owned());
            }
        }
        for (index, scoped) in self.scoped.iter().enumerate() {
            let nobodys = scoped.logins().next().is_none() && scoped.enterprise.is_none() && scoped.hook_id.is_none();
            if nobodys {
                refuse(
                    &format!("scoped[{index}]"),
                    "expected `organization`, `organizations`, `enterprise` or `hook_id`, found none; secrets for all \
                     belong in `github.secrets`"
                        .to_owned(),
                );
            }
            if scoped.logins().chain(scoped.enterprise.as_deref()).any(|name| name.trim().is_empty()) {
                let message = "expected the login of an organization or the slug of an enterprise, found an empty text";
                refuse(&format!("scoped[{index}]"), message.to_owned());
            }
            if scoped.secrets.is_empty() || scoped.secrets.iter().any(Secret::is_empty) {
                refuse(&format!("scoped[{index}].secrets"), "expected at least one secret and none empty".to_owned());
            }
        }
        problems
    }
}
