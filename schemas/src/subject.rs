//! Subjects: how each stream's messages are addressed, and the one place where they are built.
//!
//! Tokens are lower case and within `[a-z0-9_-]`; any other byte becomes `_` and two hex digits, an
//! empty token becomes `none`. Subscribers filter on them: `events.scored.acme.*.critical`. A token that
//! would be longer than [`TOKEN_MAX_BYTES`] is cut and ends in `-` and a hash of the whole.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::event::{Category, Severity};

/// Longest token. NATS cuts a client off whose control line (subject, reply subject and sizes) is longer
/// than 4096 bytes, and a tenant is a text of the body: without a bound, one body would take the
/// connection from all others. Four tokens of this length leave most of the line free.
pub const TOKEN_MAX_BYTES: usize = 128;
/// Hex digits of the hash that ends a token that was cut: two long names share a token once in 2^64.
const HASH_DIGITS: usize = 16;

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

/// The subjects of the deliveries of a tenant, or of all of them.
#[must_use]
pub fn raw_of(tenant: Option<&str>) -> String {
    tenant.map_or_else(|| RAW.to_owned(), |tenant| format!("raw.{}.>", token(tenant)))
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

/// The subjects of the dead letters of a component and a tenant, or of all of them.
#[must_use]
pub fn dead_of(component: Option<&str>, tenant: Option<&str>) -> String {
    let place = |name: Option<&str>| name.map_or_else(|| "*".to_owned(), token);
    format!("dead.{}.{}", place(component), place(tenant))
}

/// Whether `subject` is one that this module builds for RAW, EVENTS or ALERTS. What was read back from a
/// header is checked by it, because nothing on the way to the broker checks a subject.
#[must_use]
pub fn is_live(subject: &str) -> bool {
    let mut tokens = subject.split('.');
    let live = tokens.next().is_some_and(|root| matches!(root, "raw" | "events" | "alerts"));
    let count = tokens.clone().count();
    live && (3..=4).contains(&count) && tokens.all(|own| token(own) == own)
}

/// The tenant token of any Headrace subject, read back from its place.
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
    let mut out = String::with_capacity(text.len().min(TOKEN_MAX_BYTES));
    push_token(&mut out, text);
    out
}

fn join(root: &str, tokens: &[&str]) -> String {
    let length = |token: &&str| token.len().min(TOKEN_MAX_BYTES) + 1;
    let mut out = String::with_capacity(root.len() + tokens.iter().map(length).sum::<usize>());
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
    let begin = out.len();
    for byte in text.bytes() {
        match byte.to_ascii_lowercase() {
            plain @ (b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-') => out.push(char::from(plain)),
            other => write!(out, "_{other:02x}").expect("writing to a String cannot fail"),
        }
        if out.len() - begin > TOKEN_MAX_BYTES {
            out.truncate(begin + TOKEN_MAX_BYTES - HASH_DIGITS - 1);
            out.push('-');
            // Of the lower-case text: letter case makes no difference here either.
            let hash = Sha256::digest(text.to_ascii_lowercase());
            hash[..HASH_DIGITS / 2]
                .iter()
                .for_each(|byte| write!(out, "{byte:02x}").expect("writing to a String cannot fail"));
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
    fn a_long_name_is_cut_and_keeps_its_identity() {
        assert_eq!(token(&"a".repeat(128)), "a".repeat(128));
        let long = token(&"a".repeat(129));
        assert_eq!((long.len(), &long[..112]), (128, format!("{}-", "a".repeat(111)).as_str()));
        assert_eq!(token(&"A".repeat(129)), long);
        assert_ne!(token(&"a".repeat(130)), long);
        assert_eq!(token(&long), long);
    }

    #[test]
    fn subjects_that_were_read_back_are_checked() {
        for live in ["raw.acme.github.push", "events.scored.acme.code.high", "alerts.acme.high.r1"] {
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
        fn any_text_is_one_bounded_token(text in any_text()) {
            let token = token(&text);
            prop_assert!((1..=TOKEN_MAX_BYTES).contains(&token.len()));
            prop_assert!(token.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-')), "{}", token);
            prop_assert_eq!(super::token(&token), token);
        }

        #[test]
        fn any_names_make_a_subject_that_nats_takes(names in [any_text(), any_text(), any_text()]) {
            let [tenant, source, event] = &names;
            for subject in [raw(tenant, source, event), alert(tenant, Severity::High, event)] {
                prop_assert!(is_live(&subject), "{}", subject);
                prop_assert!(subject.len() < 1_024);
                prop_assert_eq!(tenant_of(&subject), token(tenant));
            }
        }
    }

    /// Any text, long ones too.
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
        assert_eq!(tenant_of("raw"), "none");
    }
}
