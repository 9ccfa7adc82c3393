//! Which tenant a login's events belong to. The same for every source.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use headrace_runtime::config::Invalid;
use headrace_schemas::{subject, token};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

/// Finds the tenant of a login, as the token that names it everywhere.
#[derive(Clone, Debug, Default)]
pub struct TenantMap(HashMap<String, String>);

impl TenantMap {
    /// A map as configured.
    #[must_use]
    pub fn new(tenants: &Tenants) -> Self {
        let entry = |(login, tenant): (&String, &String)| (login.to_ascii_lowercase(), token::of_tenant(tenant));
        Self(tenants.by_login.iter().map(entry).collect())
    }

    /// The tenant of the events of `login`.
    #[must_use]
    pub fn tenant(&self, login: Option<&str>) -> String {
        let Some(login) = login else { return subject::NO_TENANT.to_owned() };
        let login = login.to_ascii_lowercase();
        self.0.get(&login).cloned().unwrap_or_else(|| token::of_tenant(&login))
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

    #[test]
    fn configured_logins_share_a_tenant() {
        let tenants = Tenants { by_login: [("Acme-EU".to_owned(), "acme".to_owned())].into() };
        let map = TenantMap::new(&tenants);
        assert_eq!(map.tenant(Some("acme-eu")), "acme");
        assert_eq!(map.tenant(Some("Octo")), "octo");
        assert_eq!(map.tenant(None), "none");
    }

    #[test]
    fn no_login_has_the_tenant_of_another_or_of_nobody() {
        let by_login = [("acme-eu", "Corp EU"), ("acme", "corp_20eu")];
        let by_login = by_login.map(|(login, tenant)| (login.to_owned(), tenant.to_owned())).into();
        let map = TenantMap::new(&Tenants { by_login });
        for (login, want) in [
            ("acme-eu", "corp_20eu"),
            ("acme", "corp_5f20eu"),
            ("None", "_6eone"),
            ("a.b", "a_2eb"),
            ("a_2eb", "a_5f2eb"),
            ("octocat_acme", "octocat_acme"),
        ] {
            assert_eq!(map.tenant(Some(login)), want, "{login}");
        }
    }
}
