//! Whose event it is: all that the gateway reads of a body.

use std::collections::HashMap;

use headrace_schemas::subject;
use sonic_rs::{JsonValueTrait as _, LazyValue};

use crate::config::Tenants;

/// Finds the tenant of a body.
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

/// The login that a verified body belongs to: of the organization, else of the repository's owner, else
/// of the installation's account. `None` when there is none, or when the body is no JSON object: that is
/// normalize's to refuse, with the body in DEAD.
#[must_use]
pub fn login_of(json: &[u8]) -> Option<String> {
    let mut fallback = [None, None];
    // One pass over the top level; values that are not asked for are skipped, not parsed.
    for entry in sonic_rs::to_object_iter(json) {
        let (key, value) = entry.ok()?;
        match key.as_ref() {
            "organization" => {
                if let Some(login) = text(&value, &["login"]) {
                    return Some(login);
                }
            }
            "repository" => fallback[0] = text(&value, &["owner", "login"]),
            "installation" => fallback[1] = text(&value, &["account", "login"]),
            _ => {}
        }
    }
    fallback.into_iter().flatten().next()
}

fn text(value: &LazyValue<'_>, path: &[&str]) -> Option<String> {
    value.pointer(path)?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_particular_login_wins() {
        for (body, want) in [
            (r#"{"repository":{"owner":{"login":"Owner"}},"organization":{"login":"Org"}}"#, Some("Org")),
            (r#"{"repository":{"owner":{"login":"Owner"}},"installation":{"account":{"login":"a"}}}"#, Some("Owner")),
            (r#"{"installation":{"account":{"login":"a"}},"repository":{"owner":null}}"#, Some("a")),
            (r#"{"organization":null,"x":"{\"organization\":{\"login\":\"fake\"}}"}"#, None),
            (r#"{"organization":{"login":"caf\u00e9"}}"#, Some("café")),
            (r#"{"deep":{"organization":{"login":"inner"}}}"#, None),
            ("[1]", None),
            ("{\"organization\":", None),
            ("", None),
        ] {
            assert_eq!(login_of(body.as_bytes()).as_deref(), want, "{body}");
        }
    }

    #[test]
    fn configured_logins_share_a_tenant() {
        let tenants = Tenants { by_login: [("Acme-EU".to_owned(), "acme".to_owned())].into() };
        let map = TenantMap::new(&tenants);
        assert_eq!(map.tenant(Some("acme-eu")), "acme");
        assert_eq!(map.tenant(Some("Octo")), "octo");
        assert_eq!(map.tenant(None), "none");
    }
}
