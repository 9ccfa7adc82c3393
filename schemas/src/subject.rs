//! Subjects: how each stream's messages are addressed, and the one place where they are built.
//!
//! Tokens are lower case and within `[a-z0-9_-]`; any other byte becomes `_` and two hex digits, an
//! empty token becomes `none`. Subscribers filter on them: `events.scored.acme.*.critical`.

use std::fmt::Write as _;

use crate::event::{Category, Severity};

/// Every subject of the stream RAW.
pub const RAW: &str = "raw.>";
/// Every subject of the stream EVENTS.
pub const EVENTS: &str = "events.>";
/// Every subject of the stream ALERTS.
pub const ALERTS: &str = "alerts.>";
/// Every subject of the stream DEAD.
pub const DEAD: &str = "dead.>";
/// The tenant of an event that names no organization, owner or account.
pub const NO_TENANT: &str = "none";

/// `raw.<tenant>.<source>.<event>`
#[must_use]
pub fn raw(tenant: &str, source: &str, event: &str) -> String {
    join("raw", &[tenant, source, event])
}

/// `events.<stage>.<tenant>.<category>`: an event on its way between cut stages.
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

/// The finished events that at least one rule matched, as one filter per severity.
#[must_use]
pub fn matched() -> Vec<String> {
    Severity::MATCHED.iter().map(|severity| format!("events.scored.*.*.{}", severity.as_str())).collect()
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

/// The tenant token of any Headrace subject except `dead.…`, read back from its place.
#[must_use]
pub fn tenant_of(subject: &str) -> &str {
    let mut tokens = subject.split('.');
    let tenant = match tokens.next() {
        Some("events") => tokens.nth(1),
        Some("dead") => tokens.nth(1),
        _ => tokens.next(),
    };
    tenant.unwrap_or(NO_TENANT)
}

/// One subject token: lower case, `[a-z0-9_-]`, everything else escaped as `_` and two hex digits.
#[must_use]
pub fn token(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    push_token(&mut out, text);
    out
}

fn join(root: &str, tokens: &[&str]) -> String {
    let mut out = String::with_capacity(root.len() + tokens.iter().map(|token| token.len() + 1).sum::<usize>());
    out.push_str(root);
    for token in tokens {
        out.push('.');
        push_token(&mut out, token);
    }
    out
}

fn push_token(out: &mut String, text: &str) {
    if text.is_empty() {
        out.push_str(NO_TENANT);
    }
    for byte in text.bytes() {
        match byte.to_ascii_lowercase() {
            plain @ (b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-') => out.push(char::from(plain)),
            other => write!(out, "_{other:02x}").expect("writing to a String cannot fail"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_stay_within_the_alphabet() {
        for (text, want) in [
            ("Octo-Org", "octo-org"),
            ("pull_request", "pull_request"),
            ("a.b*c>d e", "a_2eb_2ac_3ed_20e"),
            ("", "none"),
            ("é", "_c3_a9"),
        ] {
            assert_eq!(token(text), want);
        }
    }

    #[test]
    fn the_tenant_is_found_again() {
        assert_eq!(tenant_of(&raw("Acme", "github", "push")), "acme");
        assert_eq!(tenant_of(&scored("acme", Category::Code, Severity::High)), "acme");
        assert_eq!(tenant_of(&handover("normalized", "acme", Category::Code)), "acme");
        assert_eq!(tenant_of(&alert("acme", Severity::High, "r1")), "acme");
        assert_eq!(tenant_of(&dead("normalize", "acme")), "acme");
        assert_eq!(tenant_of("raw"), "none");
    }
}
