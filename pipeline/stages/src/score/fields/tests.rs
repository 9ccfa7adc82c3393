use std::collections::BTreeSet;

use headrace_schemas::event::{Actor, Criticality, Enrichment, Network, Organization, Repository};
use proptest::prelude::{any, prop, proptest};
use rsigma_eval::Event as _;

use super::*;
use crate::fixture;

fn full() -> Event {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mut event = fixture::event("member", Some("added"));
    event.actor = Some(Actor { id: Some(7), login: "octocat".into(), kind: Some("User".into()) });
    event.target = Some(Target {
        kind: "user".into(),
        id: Some("8".into()),
        name: Some("mallory".into()),
        url: Some("https://github.com/mallory".into()),
    });
    event.organization = Some(Organization { id: Some(9), login: "octo".into() });
    event.repository = Some(Repository {
        id: Some(10),
        full_name: "octo/app".into(),
        visibility: Some("public".into()),
        default_branch: Some("main".into()),
    });
    event.network =
        Some(Network { ip: Some("192.0.2.1".into()), country: Some("NL".into()), user_agent: Some("git/2".into()) });
    event.changes =
        vec![Change { field: "visibility".into(), before: Some("private".into()), after: Some("public".into()) }];
    event.attributes = [("ref".into(), "refs/heads/main".into()), ("permission".into(), "admin".into())].into();
    event.enrichment = Some(Enrichment {
        assets: words(&["payments"]),
        owner: Some("team-pay".into()),
        criticality: Some(Criticality::High),
        labels: words(&["pci", "prod"]),
    });
    event
}

#[test]
fn a_full_event_has_every_field() {
    let event = full();
    let fields = Fields::new(&event);
    let missing: Vec<_> = NAMES.iter().filter(|name| fields.get_field(name).is_none()).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let told = |name| fields.get_field(name).map(|value| value.to_json().to_string()).unwrap_or_default();
    for (name, value) in [
        ("action", r#""repo.add_member""#),
        ("actor_id", "7"),
        ("user", r#""mallory""#),
        ("branch", r#""main""#),
        ("public_repo", "true"),
        ("previous_visibility", r#""private""#),
        ("operation_type", r#""create""#),
        ("changes.visibility.after", r#""public""#),
        ("attributes.permission", r#""admin""#),
        ("permission", r#""admin""#),
        ("enrichment.labels", r#"["pci","prod"]"#),
        ("created_at", "1772366400000"),
        ("unheard_of", ""),
    ] {
        assert_eq!(told(name), value, "{name}");
    }
}

#[test]
fn an_act_without_an_audit_name_is_called_by_kind_and_action() {
    let action = |kind, action| {
        let event = fixture::event(kind, action);
        Fields::new(&event).get_field("action").and_then(|value| value.as_str().map(Cow::into_owned))
    };
    assert_eq!(action("issues", Some("opened")).as_deref(), Some("issues.opened"));
    assert_eq!(action("fork", None).as_deref(), Some("fork"));
    assert_eq!(action("public", None).as_deref(), Some("repo.access"));
}

#[test]
fn every_name_starts_with_a_root() {
    let roots: BTreeSet<_> = NAMES.iter().map(|name| name.split('.').next().unwrap()).collect();
    let told: BTreeSet<_> = ROOTS.into_iter().filter(|root| *root != "attributes").collect();
    assert_eq!(roots, told);
}

#[test]
fn the_rules_readme_tells_every_field() {
    let readme = include_str!("../../../rules/README.md");
    let untold: Vec<_> = NAMES.iter().filter(|name| !readme.contains(&format!("`{name}`"))).collect();
    assert!(untold.is_empty(), "{untold:?}");
}

#[test]
fn keywords_see_texts_and_members_of_lists() {
    let event = full();
    let fields = Fields::new(&event);
    for word in ["octocat", "refs/heads/main", "pci", "private", "team-pay"] {
        assert!(fields.any_string_value(&|value| value == word), "{word}");
    }
    assert!(!fields.any_string_value(&|value| value == "nobody"));
}

proptest! {
    /// The rule index asks for roots first: a field under an unnamed root would never match.
    #[test]
    fn every_field_is_found_below_its_root_and_in_the_json(
        attributes in prop::collection::btree_map("[a-z_.]{1,8}", "[a-z]{0,4}", 0..6),
        changes in prop::collection::btree_map("[a-z_.]{1,8}", any::<Option<bool>>(), 0..4),
    ) {
        let changes = changes.into_iter().map(|(field, before)| {
            Change { field, before: before.map(|before| before.to_string()), after: None }
        });
        let event = Event { attributes, changes: changes.collect(), ..full() };
        let fields = Fields::new(&event);
        let roots = fields.top_level_keys().unwrap();
        let json = fields.to_json();
        for name in fields.field_keys() {
            let root = name.split('.').next().unwrap();
            assert!(roots.iter().any(|known| known == root), "{name}");
            assert_eq!(fields.get_field(&name).map(|value| value.to_json()).as_ref(), json.get(name.as_ref()));
        }
        for name in event.attributes.keys() {
            assert!(fields.get_field(name).is_some() && roots.iter().any(|known| known == name));
        }
    }
}
