//! The JSON Schema of a configuration, for editors.
//!
//! It follows draft 7, because the TOML servers of editors know no later draft by default.

use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform as _};
use schemars::{JsonSchema, Schema};
use serde_json::{Value as Json, json};

use crate::schema::file_key;

/// How many references may lead from a setting to its type. More can only be a circle.
const REFERENCES_MAX: usize = 8;

/// The JSON Schema of `T` as text. It allows the forms that [`load`](crate::load) allows, and has descriptions, ranges,
/// defaults and the keys for secrets in files.
pub fn json_schema<T: JsonSchema>() -> String {
    let mut schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<T>();
    let root = schema.as_value().clone();
    RecursiveTransform(|schema: &mut Schema| offer_files(schema, &root)).transform(&mut schema);
    RecursiveTransform(forget_null).transform(&mut schema);
    format!("{:#}\n", schema.as_value())
}

/// Offers `x_file` for each secret `x`. Only one of the two may be given.
fn offer_files(schema: &mut Schema, root: &Json) {
    let Some(properties) = schema.get("properties").and_then(Json::as_object) else { return };
    let secrets = properties.iter().filter(|(_, setting)| is_secret(setting, root, REFERENCES_MAX));
    let secrets: Vec<String> = secrets.map(|(key, _)| key.clone()).collect();
    for key in secrets {
        offer_file(schema, &key);
    }
}

fn offer_file(schema: &mut Schema, key: &str) {
    let file = file_key(key);
    let mut was_required = false;
    if let Some(required) = schema.get_mut("required").and_then(Json::as_array_mut) {
        let count = required.len();
        required.retain(|required| required.as_str() != Some(key));
        was_required = required.len() < count;
        // Some editors know only draft 4, which allows no empty list.
        if required.is_empty() {
            schema.remove("required");
        }
    }
    let rule = if was_required {
        json!({ "oneOf": [{ "required": [key] }, { "required": [file] }] })
    } else {
        json!({ "not": { "required": [key, file] } })
    };
    let rules = schema.ensure_object().entry("allOf").or_insert_with(|| json!([]));
    if let Some(rules) = rules.as_array_mut() {
        rules.push(rule);
    }
    if let Some(properties) = schema.get_mut("properties").and_then(Json::as_object_mut) {
        let description = format!("The path of a file that holds `{key}`.");
        properties.insert(file, json!({ "type": "string", "description": description }));
    }
}

/// Whether a setting is a secret, or a list of them.
fn is_secret(setting: &Json, root: &Json, references: usize) -> bool {
    if references == 0 {
        return false;
    }
    let target = setting.get("$ref").and_then(Json::as_str);
    let target = target.and_then(|target| root.pointer(target.trim_start_matches('#')));
    // Draft 7 has no keywords beside `$ref`, so schemars puts it into `allOf`, and an optional one into `anyOf`.
    let within = |keyword: &str| setting.get(keyword).and_then(Json::as_array).into_iter().flatten();
    let mut schemas = within("allOf").chain(within("anyOf")).chain(target).chain(setting.get("items"));
    setting.get("x-secret") == Some(&Json::Bool(true)) || schemas.any(|schema| is_secret(schema, root, references - 1))
}

/// Removes null, which TOML does not have: an optional setting is left out instead.
fn forget_null(schema: &mut Schema) {
    let Some(object) = schema.as_object_mut() else { return };
    if object.get("default").is_some_and(Json::is_null) {
        object.remove("default");
    }
    if let Some(default) = object.get_mut("default") {
        drop_nulls(default);
    }
    for keyword in ["enum", "anyOf"] {
        if let Some(choices) = object.get_mut(keyword).and_then(Json::as_array_mut) {
            choices.retain(|choice| !choice.is_null() && choice.get("type").and_then(Json::as_str) != Some("null"));
        }
    }
    if let Some(kinds) = object.get_mut("type") {
        let kind = kinds.as_array().and_then(|kinds| kinds.iter().find(|kind| kind.as_str() != Some("null")));
        if let Some(kind) = kind.cloned() {
            *kinds = kind;
        }
    }
}

fn drop_nulls(value: &mut Json) {
    match value {
        Json::Object(pairs) => {
            pairs.retain(|_, value| !value.is_null());
            pairs.values_mut().for_each(drop_nulls);
        }
        Json::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}
