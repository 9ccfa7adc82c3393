//! Configuration of the gateway. Checks need no network: [`Config::validate`] finds what is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use headrace_runtime::config::Invalid;
use headrace_runtime::secret::Secret;
use headrace_schemas::token;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// GitHub waits 10 s for an answer (GitHub's webhook best practices). It would not hear a later one.
const ANSWER_MAX_MS: u64 = 8_000;
/// Longer than any load balancer keeps an idle connection.
const HEAD_MAX_MS: u64 = 600_000;
/// GitHub caps payloads at 25 MB.
const BODY_MAX_BYTES: usize = 25 << 20;

/// The gateway.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where to listen; port 0 takes any free one. TLS is the load balancer's work.
    pub listen: SocketAddr,
    /// Largest body in bytes; GitHub sends at most 25 MiB.
    #[schemars(range(min = 1))]
    pub body_max_bytes: usize,
    /// Every request is answered within this many milliseconds: GitHub waits for 10 s.
    #[schemars(range(min = 100, max = ANSWER_MAX_MS))]
    pub answer_max_ms: u64,
    /// A connection is closed when it does not complete the head of a request within this many milliseconds, even if
    /// bytes trickle in. The same holds for a connection without any request.
    #[schemars(range(min = 100, max = HEAD_MAX_MS))]
    pub head_max_ms: u64,
    /// Most connections held at once. The process raises its limit of open files to the hard limit; if that still
    /// allows fewer connections, fewer are held. When all places are taken, new connections replace those that have
    /// waited for their peer for half a second or longer. These are taken from the address that has most of them: first
    /// those without a complete head, then those whose body comes slowest, last those whose latest request was
    /// verified. Nobody is dropped while there is room, so a load balancer, whose connections all have one address,
    /// needs no exception.
    #[schemars(range(min = 1))]
    pub connections_max: usize,
    /// Most verified deliveries being stored at once. A further one waits for a second and is then answered 503. A
    /// request takes no such place before its body has arrived and its signature is verified.
    #[schemars(range(min = 1))]
    pub in_flight_max: usize,
    /// Most bytes of bodies held at once, at least `body_max_bytes`. A body takes room for what has arrived, never for
    /// what is announced. When there is no room for the next bytes, the body that comes slowest is dropped after half a
    /// second. A request that finds no room within a second is answered 503.
    #[schemars(range(max = u32::MAX))]
    pub in_flight_max_bytes: usize,
    /// Most verified requests per second, over all senders. Further ones are answered 429. Unset means no limit.
    #[schemars(range(max = u32::MAX))]
    pub requests_per_second_max: Option<NonZeroU32>,
    /// GitHub webhooks.
    pub github: GitHub,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            body_max_bytes: BODY_MAX_BYTES,
            answer_max_ms: ANSWER_MAX_MS,
            head_max_ms: 30_000,
            connections_max: 4_096,
            in_flight_max: 1_024,
            in_flight_max_bytes: 128 << 20,
            requests_per_second_max: None,
            github: GitHub::default(),
        }
    }
}

/// GitHub webhooks.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GitHub {
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

/// Which tenant an organization's events belong to.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tenants {
    /// Tenant by login of organization, repository owner or account, in any letter case. A login that is not here is a
    /// tenant of its own. A login in two letter cases must name one tenant. Example: `acme-eu = "acme"`. When `acme` has secrets of its own (`ingest.github.scoped`),
    /// only they sign for `acme-eu` too, unless `acme-eu` has secrets of its own.
    ///
    /// A tenant is written in lower-case letters, digits, `_` and `-`, in subjects, rows, alerts and filters. Any other
    /// byte becomes `_` and two hex digits: `Corp EU` is `corp_20eu` everywhere. An `_` before two hex digits that look
    /// like such a byte becomes `_5f`: the name `corp_20eu` is `corp_5f20eu`, so no two names are written alike. The
    /// name `none` is `_6eone`, because `none` are the events of nobody. The start and `headrace check` warn of such
    /// names.
    pub by_login: BTreeMap<String, String>,
}

/// A configured tenant that is written otherwise everywhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Respelt<'a> {
    /// As it is configured.
    pub tenant: &'a str,
    /// As it is in subjects, rows, alerts and filters.
    pub token: String,
}

impl fmt::Display for Respelt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tenant, token } = self;
        write!(
            f,
            "tenants.by_login: the tenant `{}` is `{token}` in subjects, rows, alerts and filters; to have one name \
             everywhere, choose lower-case letters, digits and `-`",
            tenant.escape_debug()
        )
    }
}

impl Tenants {
    /// The tenants that are written otherwise everywhere else, each once.
    #[must_use]
    pub fn respelt(&self) -> Vec<Respelt<'_>> {
        let tenants: BTreeSet<&str> = self.by_login.values().map(String::as_str).collect();
        let spelt = tenants.into_iter().map(|tenant| Respelt { tenant, token: token::of_tenant(tenant) });
        spelt.filter(|Respelt { tenant, token }| token != tenant).collect()
    }

    /// What is wrong with these values, below `path`: a login that names two tenants, in two letter cases.
    #[must_use]
    pub fn validate(&self, path: &str) -> Vec<Invalid> {
        let mut known: BTreeMap<String, (&str, &str)> = BTreeMap::new();
        let mut problems = Vec::new();
        for (login, tenant) in &self.by_login {
            match known.insert(login.to_ascii_lowercase(), (login, tenant)) {
                Some((other, others)) if token::of_tenant(others) != token::of_tenant(tenant) => {
                    let message = format!(
                        "expected one tenant for each login, in any letter case, found `{others}` for `{}` and \
                         `{tenant}` for `{}`",
                        other.escape_debug(),
                        login.escape_debug()
                    );
                    problems.push(Invalid::new(format!("{path}.by_login"), message));
                }
                _ => {}
            }
        }
        problems
    }
}

impl Config {
    /// `answer_max_ms` as a duration.
    #[must_use]
    pub const fn answer_max(&self) -> Duration {
        Duration::from_millis(self.answer_max_ms)
    }

    /// `head_max_ms` as a duration.
    #[must_use]
    pub const fn head_max(&self) -> Duration {
        Duration::from_millis(self.head_max_ms)
    }

    /// What is wrong with these values, below `path`.
    #[must_use]
    pub fn validate(&self, path: &str) -> Vec<Invalid> {
        let mut problems = Vec::new();
        let mut refuse = |field: &str, message: String| problems.push(Invalid::new(format!("{path}.{field}"), message));
        let (bytes, body) = (self.in_flight_max_bytes, self.body_max_bytes);
        if bytes < body {
            refuse("in_flight_max_bytes", format!("expected no less than `body_max_bytes` ({body}), found {bytes}"));
        }
        if self.github.secrets.is_empty() && self.github.scoped.is_empty() {
            refuse(
                "github.secrets",
                "expected at least one webhook secret, found none; use the one that is set at GitHub, or make one with \
                 `openssl rand -hex 32`"
                    .to_owned(),
            );
        }
        for (index, secret) in self.github.secrets.iter().enumerate() {
            if secret.is_empty() {
                refuse(&format!("github.secrets[{index}]"), "expected a secret, found an empty text".to_owned());
            }
        }
        for (index, scoped) in self.github.scoped.iter().enumerate() {
            let nobodys = scoped.logins().next().is_none() && scoped.enterprise.is_none() && scoped.hook_id.is_none();
            if nobodys {
                refuse(
                    &format!("github.scoped[{index}]"),
                    "expected `organization`, `organizations`, `enterprise` or `hook_id`, found none; secrets for all \
                     belong in `github.secrets`"
                        .to_owned(),
                );
            }
            if scoped.logins().chain(scoped.enterprise.as_deref()).any(|name| name.trim().is_empty()) {
                let message = "expected the login of an organization or the slug of an enterprise, found an empty text";
                refuse(&format!("github.scoped[{index}]"), message.to_owned());
            }
            if scoped.secrets.is_empty() || scoped.secrets.iter().any(Secret::is_empty) {
                refuse(
                    &format!("github.scoped[{index}].secrets"),
                    "expected at least one secret and none empty".to_owned(),
                );
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_in_two_letter_cases_names_one_tenant() {
        let problems = |by_login: &[(&str, &str)]| {
            let by_login = by_login.iter().map(|(login, tenant)| ((*login).to_owned(), (*tenant).to_owned()));
            let problems = Tenants { by_login: by_login.collect() }.validate("tenants");
            problems.into_iter().map(|problem| (problem.path, problem.message)).collect::<Vec<_>>()
        };
        assert_eq!(problems(&[("Acme", "Acme"), ("acme", "acme"), ("octo", "acme")]), []);
        let found = problems(&[("Acme", "acme"), ("acme", "corp")]);
        let [(path, message)] = &found[..] else { panic!("one login has two tenants: {found:?}") };
        assert_eq!(path, "tenants.by_login");
        assert!(message.ends_with("found `acme` for `Acme` and `corp` for `acme`"), "{message}");
    }

    #[test]
    fn a_tenant_that_is_written_otherwise_is_told_once() {
        let by_login = [("acme", "Corp EU"), ("acme-eu", "Corp EU"), ("octo", "octo"), ("beta", "Beta")];
        let by_login = by_login.map(|(login, tenant)| (login.to_owned(), tenant.to_owned())).into();
        let tenants = Tenants { by_login };
        let respelt: Vec<(&str, String)> =
            tenants.respelt().into_iter().map(|Respelt { tenant, token }| (tenant, token)).collect();
        assert_eq!(respelt, [("Beta", "beta".to_owned()), ("Corp EU", "corp_20eu".to_owned())]);
    }

    #[test]
    fn tenants_that_are_written_alike_are_still_two() {
        let by_login = [("acme", "a.b"), ("Acme", "a_2eb"), ("octo", "none")];
        let by_login = by_login.map(|(login, tenant)| (login.to_owned(), tenant.to_owned())).into();
        let tenants = Tenants { by_login };
        assert_eq!(tenants.validate("tenants").len(), 1, "one login has two tenants");
        let tokens: Vec<String> = tenants.respelt().into_iter().map(|respelt| respelt.token).collect();
        assert_eq!(tokens, ["a_2eb", "a_5f2eb", "_6eone"]);
    }
}
