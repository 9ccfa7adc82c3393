//! Whose event it is. The gateway reads nothing else of a body.
//!
//! A body is never parsed as a whole here: values that nobody asks for are skipped. `verify` decides by what is found.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use headrace_schemas::{json, subject, token};
use sonic_rs::{JsonType, JsonValueTrait as _, LazyValue, ObjectJsonIter};

use crate::config::Tenants;

/// Finds the tenant of a body, as the token that names it everywhere.
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

/// Everybody whom a body names as its owner. The secret that signed the body must cover all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The login that the body belongs to, as [`login_of`] finds it.
    pub login: Option<String>,
    /// Logins of organization, repository owner (in `full_name` too) and installation account, in lower case. If a key
    /// occurs twice, both values count: a later reader of the body may take another than the first.
    pub logins: BTreeSet<String>,
    /// Slugs of the enterprise, in lower case.
    pub enterprises: BTreeSet<String>,
}

/// The login that a verified body belongs to: of the organization, else of the repository's owner, else of the
/// installation's account. If a key occurs twice, the first counts, as in normalize.
///
/// `None` when there is no login, and when the body is no JSON object or is nested too deeply. Normalize refuses a body
/// of the last two kinds and puts it into DEAD.
#[must_use]
pub fn login_of(body: &[u8]) -> Option<String> {
    if !json::is_shallow(body) {
        return None;
    }
    // For organization, repository and installation: whether the key was there, and with which login.
    let mut found = [None, None, None];
    // One pass over the top level. Values under other keys are skipped, not parsed.
    for entry in sonic_rs::to_object_iter(body) {
        let (key, value) = entry.ok()?;
        if let Some(place) = LOGIN_PATHS.iter().position(|place| place.key == key)
            && found[place].is_none()
        {
            let login = LOGIN_PATHS[place].login(&value);
            if place == 0 && login.is_some() {
                return login;
            }
            found[place] = Some(login);
        }
    }
    found.into_iter().flatten().flatten().next()
}

/// Everybody whom a body names. It costs more than [`login_of`], which is enough when every secret covers everybody.
#[must_use]
pub fn names_of(body: &[u8]) -> Names {
    let mut names = Names { login: login_of(body), ..Names::default() };
    if !json::is_shallow(body) {
        return names;
    }
    for (key, value) in sonic_rs::to_object_iter(body).map_while(Result::ok) {
        match key.as_ref() {
            "organization" => add(&mut names.logins, &value, &["login"], whole),
            "repository" => {
                add(&mut names.logins, &value, &["owner", "login"], whole);
                add(&mut names.logins, &value, &["full_name"], owner);
            }
            "installation" => add(&mut names.logins, &value, &["account", "login"], whole),
            "enterprise" => add(&mut names.enterprises, &value, &["slug"], whole),
            _ => {}
        }
    }
    names
}

fn add(names: &mut BTreeSet<String>, value: &LazyValue<'_>, path: &[&str], part: fn(&str) -> &str) {
    each(value, path, &mut |text| {
        names.insert(part(text).to_ascii_lowercase());
    });
}

const fn whole(text: &str) -> &str {
    text
}

/// The owner in a repository's full name.
fn owner(full_name: &str) -> &str {
    full_name.split('/').next().unwrap_or_default()
}

/// Where a body names an owner: the key at the top level, and the path below it.
struct LoginPath {
    key: &'static str,
    path: &'static [&'static str],
}

/// The most specific first.
const LOGIN_PATHS: [LoginPath; 3] = [
    LoginPath { key: "organization", path: &["login"] },
    LoginPath { key: "repository", path: &["owner", "login"] },
    LoginPath { key: "installation", path: &["account", "login"] },
];

impl LoginPath {
    /// The login in `value`, which stands under this key.
    fn login(&self, value: &LazyValue<'_>) -> Option<String> {
        let mut value = value.clone();
        for wanted in self.path {
            let first = entries(&value)?.map_while(Result::ok).find(|(key, _)| key == wanted);
            value = first?.1;
        }
        value.as_str().map(str::to_owned)
    }
}

/// Calls `found` for each text at `path`. Numbers and booleans count too, because normalize takes them for texts.
fn each(value: &LazyValue<'_>, path: &[&str], found: &mut impl FnMut(&str)) {
    let Some((wanted, rest)) = path.split_first() else {
        return match value.get_type() {
            JsonType::String => value.as_str().into_iter().for_each(found),
            JsonType::Number | JsonType::Boolean => found(value.as_raw_str()),
            JsonType::Null | JsonType::Object | JsonType::Array => {}
        };
    };
    for (key, value) in entries(value).into_iter().flatten().map_while(Result::ok) {
        if key == *wanted {
            each(&value, rest, found);
        }
    }
}

fn entries<'a>(value: &LazyValue<'a>) -> Option<ObjectJsonIter<'a>> {
    match value.as_raw_cow() {
        Cow::Borrowed(json) if value.get_type() == JsonType::Object => Some(sonic_rs::to_object_iter(json)),
        // A value of a borrowed body is borrowed, so no object comes here.
        _ => None,
    }
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
            (r#"{"organization":null,"organization":{"login":"b"},"repository":{"owner":{"login":"a"}}}"#, Some("a")),
            (r#"{"organi\u007aation":{"log\u0069n":"a","login":"b"}}"#, Some("a")),
            ("{\"organization\":{\"login\":\"a\0\"}}", None),
            ("[1]", None),
            ("{\"organization\":", None),
            ("", None),
        ] {
            assert_eq!(login_of(body.as_bytes()).as_deref(), want, "{body}");
        }
    }

    #[test]
    fn everybody_named_is_found() {
        for (body, logins, enterprises) in [
            (
                r#"{"organization":{"login":"Octo"},"repository":{"owner":{"login":"acme"},"full_name":"Other/app"}}"#,
                &["acme", "octo", "other"][..],
                &[][..],
            ),
            (r#"{"organization":{"login":"a","login":"b"},"organization":{"login":"C"}}"#, &["a", "b", "c"], &[]),
            (
                r#"{"rep\u006fsitory":{"full_n\u0061me":"\u0061cme/app"},"Repository":{"full_name":"x/y"}}"#,
                &["acme"],
                &[],
            ),
            (r#"{"installation":{"account":{"login":"a"}},"enterprise":{"slug":"E"},"x":1}"#, &["a"], &["e"]),
            (r#"{"organization":{"login":7},"repository":{"full_name":7.5,"owner":[]}}"#, &["7", "7.5"], &[]),
            (r#"{"sender":{"login":"a"},"forkee":{"owner":{"login":"b"}},"organization":null}"#, &[], &[]),
            (r#"{"organization":{"login":"a"},"repository":{"#, &["a"], &[]),
            ("[1]", &[], &[]),
        ] {
            let names = names_of(body.as_bytes());
            assert!(names.logins.iter().eq(logins) && names.enterprises.iter().eq(enterprises), "{body}: {names:?}");
            assert_eq!(names.login, login_of(body.as_bytes()), "{body}");
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
            let names = names_of(&body);
            prop_assert!(names.login.is_none_or(|login| names.logins.contains(&login.to_ascii_lowercase())));
        }

        /// The library reads up to 64 bytes at once, so the login may lie across any such border.
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
