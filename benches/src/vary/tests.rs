//! On the real bodies: what varies, and what must not.

use std::collections::{HashMap, HashSet};

use headrace_ingest::github::tenant::login_of;
use headrace_runtime::message::payload::RawDelivery;
use headrace_schemas::event::Event;
use headrace_schemas::id::EventId;
use headrace_schemas::time::Timestamp;
use headrace_stages::normalize::normalize;
use headrace_stages::score::{Config, Rules, Score};
use serde_json::Value;

use super::*;
use crate::bodies::Bodies;

const BEGAN: i64 = 1_793_404_800;

/// The examples, with their kinds.
fn examples() -> Vec<(String, String)> {
    let bodies = Bodies::repeated(None).unwrap();
    bodies.iter().map(|body| (body.event.clone(), String::from_utf8(body.json.to_vec()).unwrap())).collect()
}

struct Varied {
    examples: Vec<(String, String)>,
    variation: Variation,
}

impl Varied {
    fn new(number: u64, organizations: u64) -> Self {
        let examples = examples();
        let texts: Vec<_> = examples.iter().map(|(_, json)| (json.as_str(), login_of(json.as_bytes()))).collect();
        let variation = Variation::new(&texts, Seed { number, began: BEGAN, organizations });
        Self { examples, variation }
    }

    fn body(&self, place: usize, index: u64) -> String {
        let mut body = self.examples[place].1.clone().into_bytes();
        self.variation.write(place, index, &mut body);
        String::from_utf8(body).unwrap()
    }

    /// The bodies of deliveries 0 to `count` as they are sent.
    fn bodies(&self, count: u64) -> impl Iterator<Item = (usize, String)> {
        (0..count).map(|index| {
            let place = (index % self.examples.len() as u64) as usize;
            (place, self.body(place, index))
        })
    }
}

/// All scalars of `value` with their paths.
fn leaves(path: &str, value: &Value, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| leaves(&format!("{path}.{key}"), value, found)),
        Value::Array(items) => items.iter().for_each(|value| leaves(&format!("{path}[]"), value, found)),
        other => found.push((path.to_owned(), other.to_string())),
    }
}

fn leaves_of(json: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    leaves("", &serde_json::from_str(json).unwrap(), &mut found);
    found
}

#[test]
fn varied_bodies_are_valid_json_of_the_same_shape() {
    let varied = Varied::new(1, 200);
    for (place, body) in varied.bodies(2 * 329) {
        let template = &varied.examples[place].1;
        assert_eq!(body.len(), template.len());
        let paths = |json: &str| leaves_of(json).into_iter().map(|(path, _)| path).collect::<Vec<_>>();
        assert_eq!(paths(&body), paths(template));
    }
}

#[test]
fn no_two_deliveries_are_alike() {
    let varied = Varied::new(1, 200);
    let mut seen = HashSet::new();
    for (place, body) in varied.bodies(10 * 329) {
        assert!(seen.insert(random::hash(body.as_bytes())), "{place}: {body}");
    }
    // Ten times each proves little, but the bits count for any number.
    for (template, (_, example)) in varied.variation.templates.iter().zip(&varied.examples) {
        assert!(template.bits() >= template::BITS_MIN, "{} bits: {example}", template.bits());
    }
}

#[test]
fn a_delivery_is_made_of_its_number_and_the_seed() {
    let (one, same, other) = (Varied::new(1, 200), Varied::new(1, 200), Varied::new(2, 200));
    for index in [0, 7, 1_000_003] {
        let place = (index % 329) as usize;
        assert_eq!(one.body(place, index), same.body(place, index));
        assert_ne!(one.body(place, index), other.body(place, index));
    }
}

#[test]
fn what_was_the_same_in_a_body_stays_the_same() {
    let varied = Varied::new(1, 200);
    for (place, body) in varied.bodies(329) {
        let (before, after) = (leaves_of(&varied.examples[place].1), leaves_of(&body));
        let mut by_value: HashMap<(&str, &str), &str> = HashMap::new();
        for ((path, old), (_, new)) in before.iter().zip(&after) {
            let key = path.rsplit('.').next().unwrap_or_default().trim_end_matches("[]");
            let is_sha = old.len() == 42 && old[1..41].bytes().all(|it| it.is_ascii_hexdigit());
            let kind = match key {
                "login" => "login",
                "full_name" => "full_name",
                _ if key == "id" || key.ends_with("_id") && !key.ends_with("node_id") => "id",
                _ if key.ends_with("node_id") => "node_id",
                _ if is_sha => "sha",
                _ if key.ends_with("_at") => "time",
                _ if old.starts_with("\"https://api.github.com/repos") => "url",
                _ => continue,
            };
            let known = by_value.entry((kind, old)).or_insert(new);
            assert_eq!(known, new, "{path} was {old}: {body}");
        }
    }
}

#[test]
fn addresses_name_the_same_account_and_repository_as_the_fields() {
    // What an example's own fields and addresses agree on.
    let agreed = |body: &str| {
        let body: Value = serde_json::from_str(body).unwrap();
        let (repository, owner) = (&body["repository"], &body["repository"]["owner"]);
        let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
        let (name, id) = (text(&repository["full_name"]), owner["id"].to_string());
        [
            name == format!("{}/{}", text(&owner["login"]), text(&repository["name"])),
            text(&repository["url"]).ends_with(&name),
            text(&owner["html_url"]).ends_with(&text(&owner["login"])),
            text(&owner["avatar_url"]).contains(&format!("/u/{id}?")),
        ]
    };
    let varied = Varied::new(1, 200);
    let mut count = 0;
    for (place, body) in varied.bodies(329) {
        assert_eq!(agreed(&body), agreed(&varied.examples[place].1), "{body}");
        count += agreed(&body).iter().filter(|agrees| **agrees).count();
    }
    assert!(count > 1_000, "{count}");
}

#[test]
fn a_few_of_many_organizations_repositories_and_people_are_busy() {
    let varied = Varied::new(1, 200);
    let mut counts: HashMap<&str, HashMap<String, u32>> = HashMap::new();
    for (_, body) in varied.bodies(10_000) {
        let body: Value = serde_json::from_str(&body).unwrap();
        let tenant = login_of(body.to_string().as_bytes()).unwrap_or_default();
        *counts.entry("tenant").or_default().entry(tenant).or_default() += 1;
        for (what, value) in [("repository", &body["repository"]["full_name"]), ("actor", &body["sender"]["login"])] {
            *counts.entry(what).or_default().entry(value.to_string()).or_default() += 1;
        }
    }
    for (what, wanted) in [("tenant", 100..=220), ("repository", 500..=8_000), ("actor", 500..=10_000)] {
        let count = counts[what].len();
        let most = counts[what].values().max().copied().unwrap_or_default();
        assert!(wanted.contains(&count), "{count} of {what}");
        assert!(most > 10 * 10_000 / u32::try_from(count).unwrap(), "{most} of the busiest of {count} {what}");
    }
    let logins: HashSet<String> =
        Varied::new(1, 0).bodies(329).filter_map(|(_, body)| login_of(body.as_bytes())).collect();
    let kept: HashSet<String> = examples().iter().filter_map(|(_, json)| login_of(json.as_bytes())).collect();
    assert_eq!(logins, kept);
}

/// The event that the stages make of `json`.
fn event(kind: &str, json: &str, score: &Score) -> Event {
    let raw = RawDelivery {
        id: EventId::github("72d3162e-cc78-11e3-81ab-4c9367dc0958"),
        tenant: "acme".to_owned(),
        source: "github".to_owned(),
        event: kind.to_owned(),
        received_at: Timestamp::from_micros((BEGAN + 10) * 1_000_000),
        event_time: None,
        headers: Vec::new(),
        body: json.to_owned().into(),
        sha256: String::new(),
        sequence: 1,
    };
    let mut event = normalize(&raw).map_err(|fault| fault.to_string()).unwrap();
    event.assessment = Some(score.assess(&event));
    event
}

#[test]
fn a_varied_body_means_the_same() {
    let varied = Varied::new(1, 200);
    let score = Score::new(Rules::load(&Config::default()).unwrap());
    for (place, body) in varied.bodies(329) {
        let (kind, template) = &varied.examples[place];
        let meaning = |json: &str| {
            let event = event(kind, json, &score);
            let rules: Vec<String> =
                event.assessment.iter().flat_map(|it| &it.matches).map(|found| found.rule.clone()).collect();
            (event.kind, event.action, event.audit_action, event.outcome, rules)
        };
        assert_eq!(meaning(&body), meaning(template), "{body}");
    }
}
