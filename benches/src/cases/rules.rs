//! Rule sets of any size: Headrace's own rules, and variants like the rules that people write.

use std::fmt::Write as _;

use anyhow::Context as _;
use headrace_stages::score::{Config, Rules};
use tempfile::TempDir;

/// Acts that people write rules for, by their names in GitHub's audit log.
const ACTIONS: [&str; 12] = [
    "deploy_key.create",
    "hook.create",
    "integration_installation.create",
    "org.add_member",
    "org.remove_member",
    "protected_branch.destroy",
    "pull_request.merge",
    "repo.access",
    "repo.add_member",
    "repo.destroy",
    "secret_scanning_alert.create",
    "team.add_member",
];

/// Detections; each variant uses one. `#` stands for the variant's number, `@` for an act.
const DETECTIONS: [&str; 10] = [
    "  selection: { action: 'custom.act_#' }\n  condition: selection",
    "  selection: { action: '@', repo|startswith: 'acme/team-#-' }\n  condition: selection",
    "  selection: { action: '@', actor: ['mona-#', 'hubot-#', 'octocat-#'] }\n  condition: selection",
    "  selection: { action: ['@', 'custom.act_#'], org: 'org-#' }\n  bots: { actor|endswith: '[bot]' }\n  condition: selection and not bots",
    "  selection: { visibility: public, repo|contains: 'secret-#' }\n  condition: selection",
    "  selection: { kind: push, branch|startswith: 'release/#.' }\n  condition: selection",
    "  selection: { target.name|re: '^prod-#-[a-z]+$' }\n  condition: selection",
    "  selection: { actor_ip|cidr: '10.#.0.0/16' }\n  condition: selection",
    "  selection: { changes.visibility.after: public, org|contains: 'unit-#' }\n  other: { user_agent|contains: 'tool/#' }\n  condition: selection or other",
    "  selection: { category: identity, user|endswith: '-ext-#' }\n  filter: { webhook.action: removed }\n  condition: selection and not filter",
];

/// `count` rules. `count` must not be below the number of Headrace's own.
pub(crate) fn load(count: usize) -> anyhow::Result<Rules> {
    let own = Rules::load(&Config::default())?.len();
    anyhow::ensure!(count >= own, "Headrace brings along {own} rules; {count} cannot be measured");
    let dir = TempDir::with_prefix("headrace-rules-").context("cannot make a directory")?;
    let mut text = String::new();
    for number in 0..count - own {
        variant(number, &mut text)?;
    }
    if !text.is_empty() {
        std::fs::write(dir.path().join("variants.yml"), text).context("cannot write rules")?;
    }
    let rules = Rules::load(&Config { rules_dirs: vec![dir.path().to_owned()], ..Config::default() })?;
    anyhow::ensure!(rules.len() == count, "expected {count} rules, found {}", rules.len());
    Ok(rules)
}

fn variant(number: usize, text: &mut String) -> std::fmt::Result {
    let detection = DETECTIONS[number % DETECTIONS.len()];
    // `#` stands for a byte of an address, among other things, so stay below 256.
    let own = (number / DETECTIONS.len() % 256).to_string();
    let detection = detection.replace('#', &own).replace('@', ACTIONS[number % ACTIONS.len()]);
    write!(
        text,
        "---\ntitle: Variant {number}\nid: 00000000-0000-4000-8000-{number:012x}\nstatus: test\n\
         logsource: {{ product: github, service: audit }}\ndetection:\n{detection}\nlevel: medium\n"
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_size_can_be_made() {
        for count in [10, 200, 1_000] {
            assert_eq!(super::load(count).expect("rules load").len(), count);
        }
    }
}
