//! The rules that Headrace brings along: the files of `stages/rules/`, compiled in.

/// Lists rules by file name.
macro_rules! rules {
    ($($name:literal,)+) => {
        &[$((concat!("headrace:", $name, ".yml"), include_str!(concat!("../../rules/", $name, ".yml"))),)+]
    };
}

/// File name, for messages, and content of every rule. A test fails on a file that is not listed.
pub(crate) const RULES: &[(&str, &str)] = rules![
    "admin_access_granted",
    "app_with_wide_access",
    "branch_protection_weakened",
    "default_branch_rewritten",
    "deploy_key_with_write_access",
    "event_delivery_removed",
    "repository_destroyed_or_transferred",
    "repository_made_public",
    "secret_exposed",
    "security_alert_dismissed",
];
