//! Which fields a rule may test: one with a misspelt field would load, and never match.
//!
//! Known are the names of [`super::fields`], the facts of the catalog, those of the audit log that
//! `rules/README.md` tells, and what the configuration calls foreign.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use headrace_schemas::catalog;
use rsigma_parser::{Detection, DetectionItem, Modifier, SigmaRule, SigmaValue};

use crate::score::fields::NAMES;

/// Facts of GitHub's audit log that no webhook has under this name.
const AUDIT_FACTS: [&str; 21] = [
    "active",
    "actor_is_bot",
    "allow_deletions_enforcement_level",
    "allow_force_pushes_enforcement_level",
    "business",
    "business_id",
    "external_identity_nameid",
    "hashed_token",
    "new_repo_base_role",
    "new_repo_permission",
    "programmatic_access_type",
    "pull_request_reviews_enforcement_level",
    "required_status_checks_enforcement_level",
    "ruleset_bypass_actors_added",
    "ruleset_enforcement",
    "ruleset_old_enforcement",
    "ruleset_rules_deleted",
    "token_id",
    "token_scopes",
    "transport_protocol",
    "transport_protocol_name",
];
/// Where people find them all.
const LIST: &str = "pipeline/stages/rules/README.md (Fields)";
/// Characters of a name that a message repeats.
const TOLD_CHARS_MAX: usize = 64;

/// Every fact, by both of its names.
static FACTS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let kinds = catalog::github_kinds().filter_map(catalog::github);
    let facts = kinds.flat_map(|kind| &kind.attributes).map(|attribute| attribute.name).chain(AUDIT_FACTS);
    facts.flat_map(|name| [name.to_owned(), format!("attributes.{name}")]).collect()
});

/// What is wrong with the fields of `rule`, each once. `foreign` are tested though no event has them.
pub(crate) fn problems(rule: &SigmaRule, foreign: &[String]) -> Vec<String> {
    let mut tested = BTreeSet::new();
    rule.detection.named.values().for_each(|detection| gather(detection, &mut tested));
    let unknown = tested.into_iter().filter(|name| !is_known(name) && !foreign.iter().any(|own| own == name));
    unknown.map(told).collect()
}

fn is_known(name: &str) -> bool {
    // The names of fields that change are GitHub's, and are in no list.
    let is_change = name.strip_prefix("changes.").and_then(|rest| rest.rsplit_once('.'));
    is_change.is_some_and(|(field, side)| !field.is_empty() && matches!(side, "before" | "after"))
        || NAMES.contains(&name)
        || FACTS.contains(name)
}

/// Adds the fields that `detection` tests, and those that it compares them with.
fn gather<'a>(detection: &'a Detection, tested: &mut BTreeSet<&'a str>) {
    match detection {
        Detection::AllOf(items) => items.iter().for_each(|item| gather_item(item, tested)),
        Detection::AnyOf(parts) | Detection::And(parts) => parts.iter().for_each(|part| gather(part, tested)),
        Detection::Keywords(_) => {}
        // Its body speaks of the members of a list.
        Detection::ArrayMatch { field, .. } => {
            tested.insert(field);
        }
        Detection::Conditional { named, .. } => named.values().for_each(|part| gather(part, tested)),
    }
}

fn gather_item<'a>(item: &'a DetectionItem, tested: &mut BTreeSet<&'a str>) {
    tested.extend(item.field.name.as_deref());
    if item.field.has_modifier(Modifier::FieldRef) {
        tested.extend(item.values.iter().filter_map(|value| match value {
            SigmaValue::String(name) => Some(name.original.as_str()),
            _ => None,
        }));
    }
}

fn told(name: &str) -> String {
    let shown: String = name.chars().take(TOLD_CHARS_MAX).flat_map(char::escape_debug).collect();
    let meant = nearest(name).map_or_else(|| ".".to_owned(), |meant| format!("; did you mean `{meant}`?"));
    format!(
        "tests the field `{shown}`, which no event has{meant} All fields are in {LIST}; one that is foreign on purpose \
         belongs in `pipeline.score.foreign_fields`"
    )
}

/// The known name that is nearest to `name`, if one is near enough to be meant.
fn nearest(name: &str) -> Option<String> {
    let sides = name.strip_prefix("changes.").and_then(|rest| rest.rsplit_once('.'));
    let sides = sides.map(|(field, _)| ["before", "after"].map(|side| format!("changes.{field}.{side}")));
    let known = NAMES.into_iter().map(str::to_owned).chain(FACTS.iter().cloned()).chain(sides.into_iter().flatten());
    let plain = name.to_lowercase();
    let near = |known: String| {
        let distance = strsim::damerau_levenshtein(&plain, &known.to_lowercase());
        let length = plain.chars().count().max(known.chars().count());
        // As in messages on settings: a third of the letters may be wrong, of a short word one.
        (distance <= (length / 3).max(1) && distance < length).then_some((distance, known))
    };
    known.filter_map(near).min().map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_rule_may_test_is_known() {
        for (name, known) in [
            ("action", true),
            ("Action", false),
            ("actoin", false),
            ("enrichment.owner", true),
            ("changes.visibility.after", true),
            ("changes.anything.new.before", true),
            ("changes.visibility", false),
            ("changes..after", false),
            ("permission", true),
            ("attributes.permission", true),
            ("attributes.permision", false),
            ("token_scopes", true),
            ("EventID", false),
        ] {
            assert_eq!(is_known(name), known, "{name}");
        }
    }

    #[test]
    fn the_nearest_name_is_told() {
        for (name, meant) in [
            ("actoin", Some("action")),
            ("Actor", Some("actor")),
            ("attributes.permision", Some("attributes.permission")),
            ("changes.visibility.befor", Some("changes.visibility.before")),
            ("target_name", Some("target.name")),
            ("CommandLine", None),
        ] {
            assert_eq!(nearest(name).as_deref(), meant, "{name}");
        }
    }

    #[test]
    fn the_rules_readme_tells_every_fact_of_the_audit_log() {
        let readme = include_str!("../../rules/README.md");
        let untold: Vec<_> = AUDIT_FACTS.iter().filter(|name| !readme.contains(&format!("`{name}`"))).collect();
        assert!(untold.is_empty(), "{untold:?}");
        assert!(AUDIT_FACTS.is_sorted());
    }
}
