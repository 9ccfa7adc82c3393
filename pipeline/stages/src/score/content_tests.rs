//! Tests the detection content: each rule of `stages/rules/` is tried on the events of its file in
//! `stages/rules/tests/`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use headrace_schemas::catalog;
use headrace_schemas::event::{Change, Event};
use serde::Deserialize;

use crate::fixture;
use crate::score::{Config, Rules, Score, builtin};

/// The examples of one rule.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Examples {
    matches: Vec<Example>,
    passes: Vec<Example>,
}

/// One event: either a webhook's `kind` and `action`, or the `audit` log's action.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Example {
    it: String,
    kind: Option<String>,
    action: Option<String>,
    audit: Option<String>,
    #[serde(default)]
    repository: Where,
    #[serde(default = "private")]
    visibility: Option<String>,
    #[serde(default)]
    changes: Vec<Change>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Where {
    #[default]
    Usual,
    None,
}

fn private() -> Option<String> {
    Some("private".to_owned())
}

impl Example {
    fn event(&self) -> Event {
        let mut event = match (&self.kind, &self.audit) {
            (Some(kind), None) => self.webhook(kind),
            (None, Some(action)) => {
                Event { audit_action: Some(action.clone()), ..fixture::event("audit_log_entry", None) }
            }
            _ => panic!("{}: expected either a kind or an audit action", self.it),
        };
        event.changes.clone_from(&self.changes);
        event.attributes.clone_from(&self.attributes);
        match self.repository {
            Where::None => event.repository = None,
            Where::Usual => event.repository.as_mut().unwrap().visibility.clone_from(&self.visibility),
        }
        event
    }

    fn webhook(&self, name: &str) -> Event {
        let kind = catalog::github(name).unwrap_or_else(|| panic!("{}: the catalog has no kind {name}", self.it));
        for attribute in self.attributes.keys() {
            let known = kind.attributes.iter().any(|known| known.name == attribute);
            assert!(known, "{}: the catalog has no attribute {attribute} of {name}", self.it);
        }
        fixture::event(name, self.action.as_deref())
    }
}

fn directory(below: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("rules").join(below)
}

fn names(below: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(directory(below)).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| path.extension().is_some_and(|extension| extension == "yml"));
    files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

/// Names of the rules that are compiled in.
fn listed() -> Vec<String> {
    let name = |file: &str| file.trim_start_matches("headrace:").trim_end_matches(".yml").to_owned();
    builtin::RULES.iter().map(|(file, _)| name(file)).collect()
}

#[test]
fn every_rule_file_is_listed_and_has_examples() {
    let listed = listed();
    assert!(listed.is_sorted());
    let listed: BTreeSet<String> = listed.into_iter().collect();
    assert_eq!(names(""), listed, "rules/ and src/score/builtin.rs differ");
    assert_eq!(names("tests"), listed, "rules/tests/ and src/score/builtin.rs differ");
}

#[test]
fn rules_match_what_they_must_and_pass_the_rest() {
    let mut wrong = Vec::new();
    for (name, (file, yaml)) in listed().into_iter().zip(builtin::RULES) {
        let score = Score::new(Rules::parse([(*file, *yaml)]).unwrap());
        let examples = fs::read_to_string(directory("tests").join(format!("{name}.yml"))).unwrap();
        let examples: Examples = yaml_serde::from_str(&examples).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(examples.matches.len() >= 2 && examples.passes.len() >= 2, "{name} has too few examples");
        for (expected, examples) in [(1, &examples.matches), (0, &examples.passes)] {
            for example in examples {
                let assessment = score.assess(&example.event());
                let evident = assessment.matches.iter().all(|found| !found.evidence.is_empty());
                if assessment.matches.len() != expected || !evident {
                    wrong.push(format!("{name}, {}: {:?}", example.it, assessment.matches));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn rules_tell_people_all_they_need() {
    let rules = Rules::load(&Config::default()).unwrap();
    assert_eq!((rules.len(), rules.skipped().len()), (builtin::RULES.len(), 0));
    for (file, yaml) in builtin::RULES {
        let rule = rsigma_parser::parse_sigma_yaml(yaml).unwrap().rules.remove(0);
        uuid::Uuid::try_parse(rule.id.as_deref().unwrap()).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(rule.author.as_deref(), Some("Headrace"), "{file}");
        assert!(rule.status.is_some() && rule.date.is_some() && rule.description.is_some(), "{file}");
        assert!(!rule.references.is_empty() && !rule.falsepositives.is_empty(), "{file}");
        assert!(rule.title.len() <= 70, "{file}: the title is long");
        let found = rules.template(rule.id.as_deref().unwrap()).unwrap();
        assert!(!found.techniques.is_empty() && !found.controls.is_empty(), "{file}");
    }
}
