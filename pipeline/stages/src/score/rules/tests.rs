use std::fs;

use super::*;
use crate::fixture;
use crate::score::{Config, Score};

const ID: &str = "11111111-1111-4111-8111-111111111111";

/// A rule whose `replaced` lines differ from the usual ones.
fn rule(replaced: &[(&str, &str)]) -> String {
    let usual = format!(
        "title: Thing done\nid: {ID}\nlogsource:\n  product: github\n  service: audit\n\
         detection:\n  selection:\n    action: repo.access\n  condition: selection\nlevel: high\n"
    );
    replaced.iter().fold(usual, |yaml, (old, new)| {
        assert!(yaml.contains(old), "{old}");
        yaml.replace(old, new)
    })
}

/// What is wrong with one document.
fn check(yaml: &str) -> String {
    let refused = Rules::parse([("a.yml", yaml)]).unwrap_err();
    assert!(refused.problems.iter().all(|problem| problem.place == "a.yml"), "{refused}");
    let messages: Vec<_> = refused.problems.into_iter().map(|problem| problem.message).collect();
    messages.join("; ")
}

#[test]
fn a_mistake_is_told_with_what_to_do() {
    let id = format!("id: {ID}\n");
    for (replaced, told) in [
        (("title: Thing done\n", ""), "Missing required field 'title'"),
        ((id.as_str(), ""), "\"Thing done\" has no id; give it a UUID of its own"),
        (("level: high\n", ""), "has no level; expected informational, low, medium, high or critical"),
        (("level: high", "level: hgih"), "hgih"),
        (("condition: selection", "condition: selection and"), "ondition"),
        (("condition: selection", "condition: other"), "unknown detection identifier: other"),
        (
            ("condition: selection", "condition: all of selecti0n*"),
            "has a condition on \"selecti0n*\", which names none",
        ),
        (("condition: selection", "condition: selection\n  timeframe: 5m"), "has a timeframe"),
        (("action: repo.access", "action|re: '('"), "regex"),
        (("action: repo.access", "action|like: a"), "like"),
        (("action: repo.access", "actoin: repo.access"), "\"Thing done\" tests the field `actoin`, which no event has"),
        (("action: repo.access", "actoin: repo.access"), "did you mean `action`?"),
        (("action: repo.access", "branch|fieldref: defualt_branch"), "did you mean `default_branch`?"),
        (("action: repo.access", "CommandLine: a"), "no event has. All fields are in pipeline/stages/rules/README.md"),
        (("detection:", "detection: ]"), "YAML"),
    ] {
        let message = check(&rule(&[replaced]));
        assert!(message.contains(told), "{replaced:?}: {message}");
    }
    assert_eq!(check("action: global\nlevel: high\n"), "expected a Sigma rule, found no document");
    assert_eq!(check("# nothing"), "Document is not a YAML mapping");
}

#[test]
fn a_foreign_field_is_allowed_where_it_is_configured_and_in_a_rule_that_is_disabled() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.yml"), rule(&[("action: repo.access", "EventID: 1")])).unwrap();
    let mut config = Config { rules_dirs: vec![directory.path().to_owned()], ..Config::default() };
    let problems = config.validate("pipeline.score");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].path, "pipeline.score.rules_dirs");
    assert!(problems[0].message.contains("a.yml: \"Thing done\" tests the field `EventID`"), "{problems:?}");
    config.foreign_fields = vec!["EventID".to_owned()];
    assert!(config.validate("pipeline.score").is_empty());
    config = Config { foreign_fields: vec![], disabled: vec![ID.to_owned()], ..config };
    assert!(config.validate("pipeline.score").is_empty());
}

#[test]
fn what_needs_several_events_is_refused() {
    let correlation = "title: Many\nid: c\ncorrelation:\n  type: event_count\n  rules: [r]\n  group-by: [actor]\n  \
                       timespan: 5m\n  condition:\n    gte: 3\nlevel: high\n";
    assert!(check(correlation).starts_with("\"Many\" is a correlation"));
    let filter = "title: Not ours\nlogsource:\n  product: github\nfilter:\n  rules: [r]\n  selection:\n    actor: ci\n  \
                  condition: not selection\n";
    assert!(check(filter).starts_with("\"Not ours\" is a filter"));
}

#[test]
fn all_problems_of_all_files_are_told_at_once() {
    let (bad, good) = (rule(&[("level: high\n", "")]), rule(&[]));
    let refused = Rules::parse([("a.yml", &bad), ("b.yml", &good), ("c.yml", &good)]).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!(
            "the detection rules have 2 problem(s)\n  a.yml: \"Thing done\" has no level; expected informational, low, \
             medium, high or critical\n  c.yml: the id {ID} is taken by b.yml; give each rule its own UUID"
        )
    );
}

#[test]
fn rules_that_cannot_apply_are_left_out_and_told() {
    for (replaced, reason) in [
        (("product: github", "product: windows"), "its logsource has the product windows, not github or ndjson"),
        (("  product: github\n", ""), "its logsource has the product (none), not github or ndjson"),
        (
            ("service: audit", "service: copilot"),
            "its logsource has a service or category; the product github has the service audit alone here",
        ),
        (
            ("product: github", "product: ndjson"),
            "its logsource has a service or category; the product ndjson has neither service nor category here",
        ),
        (("level: high", "level: high\nstatus: deprecated"), "its status is deprecated"),
    ] {
        let rules = Rules::parse([("a.yml", rule(&[replaced]))]).unwrap();
        assert!(rules.is_empty());
        assert_eq!(rules.skipped(), [Skipped { file: "a.yml".into(), reason: reason.into() }]);
    }
    assert_eq!(Rules::parse([("a.yml", rule(&[("  service: audit\n", "")]))]).unwrap().len(), 1);
}

#[test]
fn tags_become_techniques_and_controls() {
    let tags = "tags: [attack.persistence, attack.t1098.003, attack.T1567, attack.g0016, cis.github-1.2.6, cve.2024.1, tlp.red]";
    let rules = Rules::parse([("a.yml", rule(&[("level: high", &format!("level: high\n{tags}"))]))]).unwrap();
    let found = rules.template(ID).unwrap();
    assert_eq!(found.techniques, ["T1098.003", "T1567"]);
    assert_eq!(found.controls, ["cis.github-1.2.6"]);
    assert_eq!(found.severity, Severity::High);
}

#[test]
fn a_match_tells_its_evidence_in_a_stable_order() {
    let detection = "keywords: [acme/app]\n  absent:\n    actor_ip: null\n  selection:\n    action: repo.access";
    let yaml =
        rule(&[("selection:\n    action: repo.access", detection), ("condition: selection", "condition: all of them")]);
    let rules = Rules::parse([("a.yml", yaml)]).unwrap();
    let matches = rules.matches(&fixture::event("repository", Some("publicized")));
    assert_eq!(matches[0].evidence, ["action=repo.access", "actor_ip=null", "keyword=acme/app"]);
    assert!(rules.matches(&fixture::event("repository", Some("renamed"))).is_empty());
}

#[test]
fn a_pipe_in_the_place_of_a_rule_is_refused_and_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("a.yml");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let config = Config { rules_dirs: vec![directory.path().to_owned()], ..Config::default() };
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(config.validate("pipeline.score")));
    let problems = receiver.recv_timeout(std::time::Duration::from_secs(60)).expect("nothing waits for a writer");
    let [problem] = problems.as_slice() else { panic!("{problems:?}") };
    assert!(problem.message.contains("a.yml: expected a regular file"), "{problem:?}");
}

#[test]
fn directories_add_rules_and_configuration_takes_them_away() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| fs::write(directory.path().join(name), content).unwrap();
    fs::create_dir_all(directory.path().join("team/..data")).unwrap();
    write("team/a.yml", &rule(&[]));
    write("team/..data/a.yml", &rule(&[]));
    write("README.md", "no rule");
    let mut config = Config { rules_dirs: vec![directory.path().to_owned()], ..Config::default() };
    let own = Rules::load(&Config::default()).unwrap().len();
    assert_eq!(Rules::load(&config).unwrap().len(), own + 1);
    config.disabled = vec![ID.to_owned()];
    assert_eq!(Rules::load(&config).unwrap().len(), own);
    assert!(config.validate("pipeline.score").is_empty());

    config.disabled.push("no-such-rule".to_owned());
    config.rules_dirs.push(directory.path().join("away"));
    write("b.yml", "level: high");
    let problems = config.validate("pipeline.score");
    let paths: Vec<_> = problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(paths, ["pipeline.score.rules_dirs", "pipeline.score.rules_dirs", "pipeline.score.disabled"]);
    assert!(problems[0].message.contains("b.yml: Missing required field"), "{problems:?}");
    assert!(problems[1].message.contains("away: cannot read the directory"), "{problems:?}");
    assert!(problems[2].message.starts_with("no rule has the id no-such-rule"), "{problems:?}");
    assert!(Score::from_config(&config).is_err());
}

#[test]
fn a_rule_is_tried_on_the_events_of_its_product_alone() {
    const OTHER: &str = "22222222-2222-4222-8222-222222222222";
    let ndjson = rule(&[
        ("product: github\n  service: audit", "product: ndjson"),
        (ID, OTHER),
        ("action: repo.access", "geo.city: Oslo\n    CommandLine|contains: rm"),
    ]);
    let rules = Rules::parse([("a.yml", rule(&[])), ("b.yml", ndjson)]).unwrap();
    assert_eq!((rules.len(), rules.skipped()), (2, &[][..]));
    let mut event = fixture::event("repository", Some("publicized"));
    let attributes = [("geo.city", "oslo"), ("CommandLine", "rm -r")];
    event.attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let matched = |source: &str| {
        let event = Event { source: source.to_owned(), ..event.clone() };
        rules.matches(&event).into_iter().map(|found| found.rule).collect::<Vec<_>>()
    };
    assert_eq!(matched("github"), [ID]);
    assert_eq!(matched("ndjson"), [OTHER]);
    assert_eq!(matched("gitlab"), [""; 0]);
    let alone = Rules::parse([("a.yml", rule(&[]))]).unwrap();
    assert!(alone.matches(&Event { source: "ndjson".to_owned(), ..event }).is_empty());
}
