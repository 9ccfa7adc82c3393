//! The JSON Schema for editors.

use serde_json::{Value as Json, json};

use super::{Config, PREFIX};
use crate::{json_schema, reference};

fn exported() -> Json {
    serde_json::from_str(&json_schema::<Config>()).unwrap()
}

/// Checks a value as an editor does. It knows only the keywords that the export uses.
fn accepts(root: &Json, schema: &Json, value: &Json) -> Result<(), String> {
    let Json::Object(keywords) = schema else { return Ok(()) };
    for (keyword, meant) in keywords {
        let list = || meant.as_array().into_iter().flatten();
        let accepted = |schema: &Json| accepts(root, schema, value);
        let is_met = match keyword.as_str() {
            "$ref" => {
                accepted(root.pointer(meant.as_str().unwrap().trim_start_matches('#')).unwrap())?;
                true
            }
            "allOf" => {
                list().try_for_each(accepted)?;
                true
            }
            "anyOf" => list().any(|schema| accepted(schema).is_ok()),
            "oneOf" => list().filter(|schema| accepted(schema).is_ok()).count() == 1,
            "not" => accepted(meant).is_err(),
            "enum" => list().any(|word| word == value),
            "const" => meant == value,
            "type" => match meant.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "integer" => value.is_i64() || value.is_u64(),
                "boolean" => value.is_boolean(),
                other => panic!("unexpected type {other}"),
            },
            "minimum" => value.as_i64().is_none_or(|value| value >= meant.as_i64().unwrap()),
            "maximum" => value.as_i64().is_none_or(|value| value <= meant.as_i64().unwrap()),
            "required" => list().all(|key| value.get(key.as_str().unwrap()).is_some()),
            "items" => {
                value.as_array().into_iter().flatten().try_for_each(|item| accepts(root, meant, item))?;
                true
            }
            "properties" => {
                for (key, setting) in meant.as_object().unwrap() {
                    value.get(key).map_or(Ok(()), |value| accepts(root, setting, value))?;
                }
                true
            }
            "additionalProperties" => {
                let known = schema.get("properties").and_then(Json::as_object);
                let further = value.as_object().into_iter().flatten();
                let mut further = further.filter(|(key, _)| known.is_none_or(|known| !known.contains_key(*key)));
                if *meant == json!(false) {
                    further.next().is_none()
                } else {
                    further.all(|(_, value)| accepts(root, meant, value).is_ok())
                }
            }
            _ => true,
        };
        if !is_met {
            return Err(format!("{keyword} {meant} refuses {value}"));
        }
    }
    Ok(())
}

fn check(text: &str) -> Result<(), String> {
    let table: toml::Table = text.parse().unwrap();
    let root = exported();
    accepts(&root, &root, &serde_json::to_value(table).unwrap())
}

#[test]
fn the_schema_accepts_what_loads_and_refuses_what_does_not() {
    let settings = reference::<Config>(PREFIX);
    let settings = settings.lines().filter_map(|line| line.strip_prefix('#'));
    let settings: Vec<&str> = settings.filter(|line| !line.is_empty() && !line.starts_with(' ')).collect();
    assert_eq!(check(&settings.join("\n")), Ok(()));
    for text in [
        "",
        "ingest.workers = 64",
        "ingest.secrets_file = '/a'",
        "ingest.body_bytes_max = 1",
        "[sinks.splunk]\nurl = 'http://a'\ntoken = 't'",
        "[sinks.splunk]\nurl = 'http://a'\ntoken_file = '/a'",
        "labels.any = 'a'",
    ] {
        assert_eq!(check(text), Ok(()), "{text}");
    }
    for text in [
        "nam = 'a'",
        "name = 1",
        "level = 'debg'",
        "ingest.workers = 65",
        "ingest.workers = 0",
        "ingest.replicas = 2",
        "ingest.secrets = ['a']\ningest.secrets_file = '/a'",
        "[sinks.splunk]\nurl = 'http://a'",
        "[sinks.splunk]\nurl = 'http://a'\ntoken = 't'\ntoken_file = '/a'",
        "labels.any = 1",
        "rules = [{ name = 'a' }]",
        "name_file = '/a'",
    ] {
        assert!(check(text).is_err(), "{text}");
    }
}

#[test]
fn the_schema_follows_draft_7_and_has_no_null() {
    let root = exported();
    assert_eq!(root["$schema"], "http://json-schema.org/draft-07/schema#");
    assert!(!json_schema::<Config>().contains("null"));
    let workers = &root["definitions"]["Ingest"]["properties"]["workers"];
    assert_eq!((&workers["minimum"], &workers["maximum"], &workers["default"]), (&json!(1), &json!(64), &json!(2)));
    assert_eq!(workers["description"], "The workers.");
    let file = &root["definitions"]["Splunk"]["properties"]["token_file"];
    assert_eq!(file["description"], "The path of a file that holds `token`.");
    assert_eq!(root["definitions"]["Splunk"]["required"], json!(["url"]));
}
