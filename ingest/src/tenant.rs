//! Whose event it is: all that the gateway reads of a body.

use std::collections::HashMap;

use headrace_schemas::{json, subject};
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
/// of the installation's account; of two equal keys the first counts, as in normalize. `None` when there is
/// none, or when the body is no JSON object or too deep a one: that is normalize's to refuse, with the
/// body in DEAD.
#[must_use]
pub fn login_of(body: &[u8]) -> Option<String> {
    if !json::is_shallow(body) {
        return None;
    }
    let mut fallback = [None, None];
    // One pass over the top level; values that are not asked for are skipped, not parsed.
    for entry in sonic_rs::to_object_iter(body) {
        let (key, value) = entry.ok()?;
        match key.as_ref() {
            "organization" => {
                if let Some(login) = text(&value, &["login"]) {
                    return Some(login);
                }
            }
            "repository" if fallback[0].is_none() => fallback[0] = text(&value, &["owner", "login"]),
            "installation" if fallback[1].is_none() => fallback[1] = text(&value, &["account", "login"]),
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
    use proptest::prelude::*;

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
            (r#"{"repository":{"owner":{"login":"a"}},"repository":{"owner":{"login":"b"}}}"#, Some("a")),
            (r#"{"organization":{"login":7},"organization":{"login":"\ud800"},"organization":{}}"#, None),
            ("{\"organization\":{\"login\":\"a\0\"}}", None),
            ("[1]", None),
            ("{\"organization\":", None),
            ("", None),
        ] {
            assert_eq!(login_of(body.as_bytes()).as_deref(), want, "{body}");
        }
    }

    #[test]
    fn a_deeply_nested_body_ends_no_process() {
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            for depth in [100_000, 1_000_000] {
                let nested = format!("{}0{}", open.repeat(depth), close.repeat(depth));
                let body = format!(r#"{{"client_payload":{nested},"organization":{{"login":"acme"}}}}"#);
                assert_eq!(login_of(body.as_bytes()), None);
                assert_eq!(login_of(open.repeat(depth).as_bytes()), None);
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_login_or_none(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = login_of(&body);
        }

        /// The library reads up to 64 bytes at once: what is looked for may lie across any border.
        #[test]
        fn a_login_is_found_wherever_it_lies(before in "[ -!#-\\[\\]-~]{0,200}", login in any::<String>()) {
            let login = serde_json::to_string(&login).unwrap();
            let body = format!(r#"{{"x":"{before}","organization":{{"y":["{before}"],"login":{login}}}}}"#);
            let found = login_of(body.as_bytes()).map(|found| serde_json::to_string(&found).unwrap());
            prop_assert_eq!(found, Some(login));
            for end in 0..body.len() {
                let _ = login_of(&body.as_bytes()[..end]);
            }
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
