//! The ranges of numbers, found by walking the JSON Schema. An error points at the number, and the reference shows the
//! range.

use std::collections::BTreeMap;

use headrace_settings::{Document, Variables, json_schema, reference};
use serde_json::Value;

use super::{Config, PREFIX};

/// The problem with `key = value`, if only the form is checked.
fn told(key: &str, value: i64) -> Option<String> {
    let text = format!("{key} = {value}");
    let document = Document { name: "h.toml", text: &text };
    let loaded = headrace_settings::load(Some(document), &Variables::default(), |_: &Config| Vec::new());
    loaded.err().map(|problems| problems.to_string())
}

/// Follows a schema's reference. It is either alone, or in `allOf` beside other keywords, or in an `anyOf` from which
/// null was removed.
fn referred<'s>(root: &'s Value, schema: &'s Value) -> &'s Value {
    let target = [schema, &schema["allOf"][0], &schema["anyOf"][0]].into_iter().find_map(|part| part["$ref"].as_str());
    target.map_or(schema, |target| root.pointer(target.trim_start_matches('#')).unwrap())
}

/// The range of a number: its minimum and its maximum, where it has them.
type Range = (Option<i64>, Option<i64>);

/// Adds the dotted key and the range of each number below `schema`, with the numbers of each kind of sink.
fn add_ranges(root: &Value, schema: &Value, prefix: &str, ranges: &mut BTreeMap<String, Range>) {
    let Some(properties) = referred(root, schema)["properties"].as_object() else { return };
    for (name, setting) in properties {
        let key = format!("{prefix}{name}");
        // Unsigned numbers have a minimum of 0 that is written as a float.
        let bound = |keyword: &str| setting[keyword].as_f64().map(|bound| bound as i64);
        let range = (bound("minimum"), bound("maximum"));
        if range == (None, None) || setting["type"] != "integer" {
            add_ranges(root, setting, &format!("{key}."), ranges);
        } else {
            ranges.insert(key, range);
        }
    }
}

#[test]
fn each_range_is_enforced_with_its_place_and_printed() {
    let reference = reference::<Config>(PREFIX);
    let schema: Value = serde_json::from_str(&json_schema::<Config>()).unwrap();
    let mut ranges = BTreeMap::new();
    add_ranges(&schema, &schema, "", &mut ranges);
    // This one has a test of its own, below.
    ranges.remove("streams.replicas");
    assert!(ranges.len() > 50, "{ranges:?}");
    for (key, (min, max)) in ranges {
        let words = match (min, max) {
            (Some(min), Some(max)) => format!("integer from {min} to {max}"),
            (Some(min), None) => format!("integer of at least {min}"),
            (None, Some(max)) => format!("integer of at most {max}"),
            (None, None) => continue,
        };
        let refused = |value: i64| {
            let column = key.len() + 4;
            let message = format!("out of range: expected an {words}, found {value}");
            Some(format!("h.toml:1:{column}: {key}: {message}\n1 problem in h.toml"))
        };
        if let Some(min) = min {
            assert_eq!(told(&key, min - 1), refused(min - 1));
            assert_eq!(told(&key, min), None);
        }
        assert_eq!(told(&key, max.unwrap_or(i64::MAX)), None);
        if let Some(max) = max {
            assert_eq!(told(&key, max + 1), refused(max + 1));
        }
        let line = reference.find(&format!("\n#{key} = ")).unwrap_or_else(|| panic!("{key} is not in {reference}"));
        let facts = reference[..line].lines().last().unwrap_or_default();
        assert!(facts.starts_with(&format!("# {words}; ")), "{key}: {facts}");
    }
}

#[test]
fn every_number_has_an_upper_bound() {
    // The largest integer of TOML, taken as a wait, is one that the broker refuses or that overflows a clock. Ids have no
    // bound, and stand only in lists.
    let schema: Value = serde_json::from_str(&json_schema::<Config>()).unwrap();
    let mut ranges = BTreeMap::new();
    add_ranges(&schema, &schema, "", &mut ranges);
    ranges.remove("streams.replicas");
    let unbounded: Vec<&String> = ranges.iter().filter(|(_, (_, max))| max.is_none()).map(|(key, _)| key).collect();
    assert!(unbounded.is_empty(), "{unbounded:?}");
}

#[test]
fn ranges_are_what_their_fields_say() {
    let schema: Value = serde_json::from_str(&json_schema::<Config>()).unwrap();
    let mut ranges = BTreeMap::new();
    add_ranges(&schema, &schema, "", &mut ranges);
    // One of each form, so that the walk is known to find them.
    for (key, range) in [
        ("ingest.answer_max_ms", (Some(100), Some(8_000))),
        ("streams.raw.max_bytes", (Some(1 << 20), Some(1 << 50))),
        ("recover.budget_per_hour", (Some(1), Some(100_000))),
        ("sinks.jira.batch_events_max", (Some(1), Some(50))),
        ("sinks.file.keep_files_max", (Some(0), Some(1_000_000))),
        ("nats.clock_skew_ms", (Some(10), Some(60_000))),
        ("sinks.splunk.timeout_ms", (Some(1), Some(600_000))),
    ] {
        assert_eq!(ranges.get(key), Some(&range), "{key}");
    }
}

#[test]
fn a_stream_has_one_three_or_five_copies() {
    for replicas in 0..7 {
        let expected = format!("h.toml:1:20: streams.replicas: out of range: expected 1, 3 or 5, found {replicas}");
        let told = told("streams.replicas", replicas);
        let is_refused = told.is_some_and(|told| told == format!("{expected}\n1 problem in h.toml"));
        assert_eq!(is_refused, ![1, 3, 5].contains(&replicas), "{replicas}");
    }
    assert!(reference::<Config>(PREFIX).contains("\n# 1, 3 or 5; default 1\n#streams.replicas = 1\n"));
}
