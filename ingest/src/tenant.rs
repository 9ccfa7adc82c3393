//! Which tenant a login's events belong to. The same for every source.

use std::collections::HashMap;

use headrace_schemas::subject;

use crate::config::Tenants;

/// Finds the tenant of a login.
#[derive(Clone, Debug, Default)]
pub struct TenantMap(HashMap<String, String>);

impl TenantMap {
    /// A map as configured.
    #[must_use]
    pub fn new(tenants: &Tenants) -> Self {
        Self(tenants.by_login.iter().map(|(login, tenant)| (login.to_ascii_lowercase(), tenant.clone())).collect())
    }

    /// The tenant of the events of `login`.
    #[must_use]
    pub fn tenant(&self, login: Option<&str>) -> String {
        let Some(login) = login else { return subject::NO_TENANT.to_owned() };
        let login = login.to_ascii_lowercase();
        self.0.get(&login).cloned().unwrap_or(login)
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
}
