//! The ranges of numbers. An error points at the number, and the reference and the JSON Schema show the range.

use headrace_settings::{Document, Variables, json_schema, reference};
use serde_json::{Value, json};

use super::{Config, PREFIX};

/// Each setting with a range: its minimum, and its maximum if there is one.
const RANGES: [(&str, i64, Option<i64>); 53] = [
    ("streams.duplicate_window_s", 2, Some(3_600)),
    ("streams.raw.max_age_hours", 1, None),
    ("streams.raw.max_bytes", 1 << 20, None),
    ("streams.events.max_age_hours", 1, None),
    ("streams.events.max_bytes", 1 << 20, None),
    ("streams.alerts.max_age_hours", 1, None),
    ("streams.alerts.max_bytes", 1 << 20, None),
    ("streams.dead.max_age_hours", 1, None),
    ("streams.dead.max_bytes", 1 << 20, None),
    ("retry.attempts_max", 1, Some(4_294_967_295)),
    ("retry.backoff_min_ms", 1, None),
    ("shutdown.grace_s", 1, Some(300)),
    ("local.sync_interval_ms", 0, Some(120_000)),
    ("ingest.answer_max_ms", 100, Some(8_000)),
    ("ingest.head_max_ms", 100, Some(600_000)),
    ("ingest.connections_max", 1, None),
    ("ingest.in_flight_max", 1, None),
    ("ingest.in_flight_max_bytes", 0, Some(4_294_967_295)),
    ("ingest.requests_per_second_max", 1, Some(4_294_967_295)),
    ("ingest.ndjson.folder.interval_s", 1, Some(86_400)),
    ("ingest.ndjson.folder.settle_s", 0, Some(86_400)),
    ("ingest.ndjson.folder.last_line_s", 1, Some(86_400)),
    ("collect.lease_s", 1, Some(600)),
    ("recover.interval_s", 1, Some(86_400)),
    ("recover.horizon_hours", 1, Some(168)),
    ("recover.grace_s", 1, Some(86_400)),
    ("recover.budget_per_run", 1, Some(10_000)),
    ("recover.budget_per_hour", 1, Some(100_000)),
    ("recover.timeout_ms", 100, Some(120_000)),
    ("recover.lease_s", 1, Some(600)),
    ("pipeline.lanes", 1, Some(64)),
    ("pipeline.ack_wait_s", 1, Some(600)),
    ("pipeline.alert.window_minutes", 1, Some(8_640)),
    ("sinks.clickhouse.batch_events_max", 1, Some(1_000_000)),
    ("sinks.clickhouse.batch_bytes_max", 1 << 20, None),
    ("sinks.clickhouse.linger_ms", 10, Some(60_000)),
    ("sinks.clickhouse.insert_timeout_s", 1, Some(600)),
    ("sinks.splunk.batch_events_max", 1, None),
    ("sinks.splunk.batch_bytes_max", 10_000, None),
    ("sinks.splunk.linger_ms", 1, None),
    ("sinks.splunk.timeout_ms", 1, None),
    ("sinks.jira.batch_events_max", 1, Some(50)),
    ("sinks.jira.linger_ms", 1, None),
    ("sinks.jira.timeout_ms", 1, None),
    ("sinks.file.rotate_bytes_max", 4_096, None),
    ("sinks.file.keep_files_max", 0, None),
    ("sinks.jira.index_lag_ms", 0, None),
    ("nats.clock_skew_ms", 10, Some(60_000)),
    ("replay.lease_s", 1, Some(600)),
    ("sinks.clickhouse.clock_skew_ms", 10, Some(60_000)),
    ("sinks.file.timeout_ms", 1_000, Some(600_000)),
    ("nats.timeout_ms", 1, None),
    ("ingest.body_max_bytes", 1, None),
];

/// The problem with `key = value`, if only the form is checked.
fn told(key: &str, value: i64) -> Option<String> {
    let text = format!("{key} = {value}");
    let document = Document { name: "h.toml", text: &text };
    let loaded = headrace_settings::load(Some(document), &Variables::default(), |_: &Config| Vec::new());
    loaded.err().map(|problems| problems.to_string())
}

/// The setting `key` in the JSON Schema.
fn exported<'s>(root: &'s Value, key: &str) -> &'s Value {
    key.split('.').fold(root, |schema, key| &referred(root, schema)["properties"][key])
}

/// Follows a schema's reference. It is either alone, or in `allOf` beside other keywords, or in an `anyOf` from which
/// null was removed.
fn referred<'s>(root: &'s Value, schema: &'s Value) -> &'s Value {
    let target = [schema, &schema["allOf"][0], &schema["anyOf"][0]].into_iter().find_map(|part| part["$ref"].as_str());
    target.map_or(schema, |target| root.pointer(target.trim_start_matches('#')).unwrap())
}

#[test]
fn each_range_is_enforced_with_its_place_and_printed() {
    let reference = reference::<Config>(PREFIX);
    let schema: Value = serde_json::from_str(&json_schema::<Config>()).unwrap();
    for (key, min, max) in RANGES {
        let words = match max {
            Some(max) => format!("integer from {min} to {max}"),
            None => format!("integer of at least {min}"),
        };
        let refused = |value: i64| {
            let column = key.len() + 4;
            let message = format!("out of range: expected an {words}, found {value}");
            Some(format!("h.toml:1:{column}: {key}: {message}\n1 problem in h.toml"))
        };
        assert_eq!(told(key, min - 1), refused(min - 1));
        assert_eq!(told(key, min), None);
        assert_eq!(told(key, max.unwrap_or(i64::MAX)), None);
        if let Some(max) = max {
            assert_eq!(told(key, max + 1), refused(max + 1));
        }
        let line = reference.find(&format!("\n#{key} = ")).unwrap_or_else(|| panic!("{key} is not in {reference}"));
        let facts = reference[..line].lines().last().unwrap_or_default();
        assert!(facts.starts_with(&format!("# {words}; ")), "{key}: {facts}");
        let exported = exported(&schema, key);
        assert_eq!((&exported["minimum"], &exported["maximum"]), (&json!(min), &json!(max)), "{key}: {exported}");
    }
}

/// Adds the dotted keys of all numbers below `schema` that have a range. A least of 0 is none: it is what unsigned means.
fn add_ranged(root: &Value, schema: &Value, prefix: &str, keys: &mut Vec<String>) {
    let Some(properties) = referred(root, schema)["properties"].as_object() else { return };
    for (name, setting) in properties {
        let key = format!("{prefix}{name}");
        if setting["minimum"].as_f64().is_some_and(|least| least > 0.0) || setting.get("maximum").is_some() {
            keys.push(key);
        } else {
            add_ranged(root, setting, &format!("{key}."), keys);
        }
    }
}

#[test]
fn no_setting_with_a_range_is_left_out() {
    let schema: Value = serde_json::from_str(&json_schema::<Config>()).unwrap();
    let mut ranged = Vec::new();
    add_ranged(&schema, &schema, "", &mut ranged);
    let is_tested = |key: &String| RANGES.iter().any(|(tested, ..)| tested == key);
    // This one has a test of its own, below.
    ranged.retain(|key| !is_tested(key) && key != "streams.replicas");
    assert!(ranged.is_empty(), "expected a line in RANGES for each of {ranged:?}");
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
