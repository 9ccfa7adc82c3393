//! Which tenant a login's events belong to. The same for every source.

use std::collections::HashMap;

use headrace_schemas::{subject, token};

use crate::config::Tenants;

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
