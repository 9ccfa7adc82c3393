//! Subjects: how the messages of each stream are addressed. Subjects must be built only here.
//!
//! They consist of tokens ([`crate::token`]). Subscribers filter by them: `events.scored.acme.*.critical`.

use std::collections::BTreeSet;

use crate::event::{Category, Severity};
use crate::token::{self, BYTES_MAX, push};

/// Every subject of the stream RAW.
pub const RAW: &str = "raw.>";
/// Every subject of the stream EVENTS.
pub const EVENTS: &str = "events.>";
/// Every subject of the stream ALERTS.
pub const ALERTS: &str = "alerts.>";
/// Every subject of the stream DEAD.
pub const DEAD: &str = "dead.>";
/// Every subject of the stream CATCHUP.
pub const CATCH_UP: &str = "catchup.>";
/// The tenant of an event that names no organization, owner or account.
pub const NO_TENANT: &str = token::EMPTY;

/// `raw.<tenant>.<source>.<event>`
#[must_use]
pub fn raw(tenant: &str, source: &str, event: &str) -> String {
    join("raw", &[tenant, source, event])
}

/// The filter for the deliveries of a tenant, or of all tenants.
#[must_use]
pub fn raw_of(tenant: Option<&str>) -> String {
    tenant.map_or_else(|| RAW.to_owned(), |tenant| format!("raw.{}.>", token::escaped(tenant)))
}

/// `events.<stage>.<tenant>.<category>`: an event on its way from one chain to the next.
#[must_use]
pub fn handover(stage: &str, tenant: &str, category: Category) -> String {
    join("events", &[stage, tenant, category.as_str()])
}

/// `events.scored.<tenant>.<category>.<severity>`: a finished event.
#[must_use]
pub fn scored(tenant: &str, category: Category, severity: Severity) -> String {
    join("events", &["scored", tenant, category.as_str(), severity.as_str()])
}

/// Every finished event.
pub const ALL_SCORED: &str = "events.scored.>";

/// The filters for finished events that at least one rule matched: one filter per severity.
#[must_use]
pub fn matched() -> Vec<String> {
    Severity::MATCHED.iter().map(|severity| format!("events.scored.*.*.{}", severity.as_str())).collect()
}

/// The filters for finished events of these tenants, categories and severities: one for each combination. Of what is
/// empty, all are meant.
#[must_use]
pub fn scored_of(tenants: &[String], categories: &[Category], severities: &[Severity]) -> Vec<String> {
    let categories = any_of(categories.iter().map(|category| category.as_str().to_owned()));
    combined(&[vec!["events.scored".to_owned()], tenants_of(tenants), categories, severities_of(severities)], "")
}

/// The filters for alerts of these tenants and severities, in the same way.
#[must_use]
pub fn alerts_of(tenants: &[String], severities: &[Severity]) -> Vec<String> {
    combined(&[vec!["alerts".to_owned()], tenants_of(tenants), severities_of(severities)], ".*")
}

fn tenants_of(tenants: &[String]) -> Vec<String> {
    any_of(tenants.iter().map(|tenant| token::escaped(tenant)))
}

fn severities_of(severities: &[Severity]) -> Vec<String> {
    any_of(severities.iter().map(|severity| severity.as_str().to_owned()))
}

/// The tokens, each once, or the wildcard when there are none.
fn any_of(tokens: impl Iterator<Item = String>) -> Vec<String> {
    let tokens: BTreeSet<String> = tokens.collect();
    if tokens.is_empty() { vec!["*".to_owned()] } else { tokens.into_iter().collect() }
}

fn combined(places: &[Vec<String>], end: &str) -> Vec<String> {
    let join = |left: Vec<String>, right: &Vec<String>| -> Vec<String> {
        left.iter().flat_map(|left| right.iter().map(move |right| format!("{left}.{right}"))).collect()
    };
    let (first, rest) = places.split_first().map_or((Vec::new(), places), |(first, rest)| (first.clone(), rest));
    rest.iter().fold(first, join).into_iter().map(|subject| subject + end).collect()
}

/// `alerts.<tenant>.<severity>.<rule>`
#[must_use]
pub fn alert(tenant: &str, severity: Severity, rule: &str) -> String {
    join("alerts", &[tenant, severity.as_str(), rule])
}

/// `dead.<component>.<tenant>`
#[must_use]
pub fn dead(component: &str, tenant: &str) -> String {
    join("dead", &[component, tenant])
}

/// The filter for the dead letters of a component and a tenant. `None` means all of them.
#[must_use]
pub fn dead_of(component: Option<&str>, tenant: Option<&str>) -> String {
    let place = |name: Option<&str>| name.map_or_else(|| "*".to_owned(), token::escaped);
    format!("dead.{}.{}", place(component), place(tenant))
}

/// `catchup.<component>.<subject>`: a message of EVENTS that is brought once more to one component.
#[must_use]
pub fn catch_up(component: &str, subject: &str) -> String {
    format!("catchup.{}.{subject}", token::escaped(component))
}

/// The filter for what is brought once more to a component.
#[must_use]
pub fn catch_up_of(component: &str) -> String {
    catch_up(component, ">")
}

/// Whether this module builds `subject` for RAW, EVENTS, ALERTS or CATCHUP. Check a subject that was read from a header
/// by this, because nothing on the way to the broker checks it.
#[must_use]
pub fn is_live(subject: &str) -> bool {
    if let Some((component, rest)) = subject.strip_prefix("catchup.").and_then(|rest| rest.split_once('.')) {
        return token::escaped(component) == component && rest.starts_with("events.") && is_live(rest);
    }
    let mut tokens = subject.split('.');
    let live = tokens.next().is_some_and(|root| matches!(root, "raw" | "events" | "alerts"));
    let count = tokens.clone().count();
    live && (3..=4).contains(&count) && tokens.all(|own| token::escaped(own) == own)
}

/// The tenant token of any Headrace subject, read from its position.
#[must_use]
pub fn tenant_of(subject: &str) -> &str {
    let mut tokens = subject.split('.');
    let tenant = match tokens.next() {
        Some("catchup") => tokens.nth(3),
        Some("events") => tokens.nth(1),
        Some("dead") => tokens.nth(1),
        _ => tokens.next(),
    };
    tenant.unwrap_or(NO_TENANT)
}

fn join(root: &str, tokens: &[&str]) -> String {
    let length = |token: &&str| token.len().min(BYTES_MAX) + 1;
    let mut out = String::with_capacity(root.len() + tokens.iter().map(length).sum::<usize>());
    out.push_str(root);
    for token in tokens {
        out.push('.');
        push(&mut out, token);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn subjects_that_were_read_back_are_checked() {
        for live in [
            "raw.acme.github.push",
            "events.scored.acme.code.high",
            "alerts.acme.high.r1",
            "catchup.file-events.events.scored.acme.code.high",
        ] {
            assert!(is_live(live), "{live}");
        }
        let long = format!("raw.acme.github.{}", "a".repeat(129));
        for other in [
            "",
            "raw",
            "raw.acme",
            "raw.acme.github.push.x.y",
            "raw.*.github.push",
            "raw.acme..push",
            "raw.a b.c.d",
            "catchup.splunk",
            "catchup.splunk.alerts.acme.high.r1",
            "catchup.Splunk.events.scored.acme.code.high",
            "catchup.splunk.catchup.splunk.events.scored.acme.code.high",
            &long,
        ] {
            assert!(!is_live(other), "{other}");
        }
        assert!(!is_live("dead.normalize.acme") && !is_live("raw.Acme.github.push") && !is_live("$JS.API.a.b"));
        assert_eq!(dead_of(Some("Normalize"), None), "dead.normalize.*");
        assert_eq!(dead_of(None, Some("a.b")), "dead.*.a_2eb");
    }

    proptest! {
        #[test]
        fn any_names_make_a_subject_that_nats_takes(names in [any_text(), any_text(), any_text()]) {
            let [tenant, source, event] = &names;
            for subject in [raw(tenant, source, event), alert(tenant, Severity::High, event)] {
                prop_assert!(is_live(&subject), "{}", subject);
                prop_assert!(subject.len() < 1_024);
                prop_assert_eq!(tenant_of(&subject), token::escaped(tenant));
            }
        }
    }

    /// Any text, including long ones.
    fn any_text() -> impl Strategy<Value = String> {
        prop_oneof!["\\PC{0,40}", "[a-zA-Z.*> \r\n\0\u{202e}]{0,200}", "[a-z.]{2000,5000}"]
    }

    #[test]
    fn the_tenant_is_found_again() {
        assert_eq!(tenant_of(&raw("Acme", "github", "push")), "acme");
        assert_eq!(tenant_of(&scored("acme", Category::Code, Severity::High)), "acme");
        assert_eq!(tenant_of(&handover("normalized", "acme", Category::Code)), "acme");
        assert_eq!(tenant_of(&alert("acme", Severity::High, "r1")), "acme");
        assert_eq!(tenant_of(&dead("normalize", "acme")), "acme");
        let scored = scored("acme", Category::Code, Severity::High);
        assert_eq!(tenant_of(&catch_up("file-events", &scored)), "acme");
        assert_eq!(tenant_of("raw"), "none");
    }

    #[test]
    fn a_filter_is_made_for_each_combination() {
        let tenants = ["Acme".to_owned(), "octo.eu".to_owned(), "acme".to_owned()];
        assert_eq!(
            scored_of(&tenants, &[Category::Code], &[Severity::High, Severity::Critical]),
            [
                "events.scored.acme.code.critical",
                "events.scored.acme.code.high",
                "events.scored.octo_2eeu.code.critical",
                "events.scored.octo_2eeu.code.high",
            ]
        );
        assert_eq!(scored_of(&[], &[], &[Severity::Low]), ["events.scored.*.*.low"]);
        assert_eq!(alerts_of(&tenants[..1], &[]), ["alerts.acme.*.*"]);
    }
}
