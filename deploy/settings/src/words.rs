//! Types and values as the reference writes them.

use serde_json::{Number, Value as Json};

use crate::origin::quoted_key;
use crate::scalar::{integer_range, range_words};
use crate::schema::Schema;
use crate::shape::{Kinds, Shape};

/// How deep a placeholder is built, so that a type that holds itself ends.
const DEPTH_MAX: usize = 8;

/// A type in words, such as `integer from 1 to 65535 or string`.
pub(crate) fn kinds(schema: &Schema, shapes: &[Shape<'_>]) -> String {
    let words: Vec<String> = shapes.iter().flat_map(Shape::words).map(|word| format!("\"{word}\"")).collect();
    let mut kinds = Vec::new();
    match words.as_slice() {
        [] => {}
        [only] => kinds.push(only.clone()),
        words => kinds.push(format!("one of {}", words.join(", "))),
    }
    for shape in shapes.iter().filter(|shape| shape.constants.is_empty()) {
        let kind = kind(schema, shape);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds.join(" or ")
}

fn kind(schema: &Schema, shape: &Shape<'_>) -> String {
    match shape.kinds {
        Kinds::INTEGER => integer(shape),
        Kinds::NUMBER => {
            let bound = |number: Option<&Number>| number.and_then(Number::as_f64);
            format!("number{}", range_words((bound(shape.bounds.minimum), bound(shape.bounds.maximum))))
        }
        Kinds::ARRAY => match shape.item(0) {
            Some(item) => format!("list of {}", self::kinds(schema, &schema.shapes(item))),
            None => "list of any value".to_owned(),
        },
        Kinds::TABLE if !shape.required.is_empty() => placeholder(schema, shape),
        kinds if kinds.admits(Kinds::ARRAY) && kinds.admits(Kinds::TABLE) => "any value".to_owned(),
        kinds => {
            let all = [
                (Kinds::STRING, "string"),
                (Kinds::INTEGER, "integer"),
                (Kinds::FLOAT, "number"),
                (Kinds::BOOLEAN, "boolean"),
                (Kinds::TABLE, "table"),
            ];
            let words = all.iter().filter(|(kind, _)| kinds.admits(*kind)).map(|(_, word)| *word);
            words.collect::<Vec<&str>>().join(" or ")
        }
    }
}

fn integer(shape: &Shape<'_>) -> String {
    let (low, high) = integer_range(&shape.bounds);
    // The ends of what 64 bits hold are no limits that anybody meets.
    let low = low.filter(|low| *low > i64::MIN.into());
    let high = high.filter(|high| *high < i64::MAX.into());
    format!("integer{}", range_words((low, high)))
}

/// A value to show for a type that has neither a default nor an example.
pub(crate) fn placeholder(schema: &Schema, shape: &Shape<'_>) -> String {
    placeholder_at(schema, shape, 0)
}

fn placeholder_at(schema: &Schema, shape: &Shape<'_>, depth: usize) -> String {
    let of = |node: &Json| match schema.shapes(node).first() {
        Some(shape) => placeholder_at(schema, shape, depth + 1),
        None => "\"\"".to_owned(),
    };
    if let Some(value) = shape.examples.first().or(shape.constants.first()) {
        return inline(value);
    }
    let kinds = shape.kinds;
    if kinds.admits(Kinds::STRING) || depth == DEPTH_MAX {
        return "\"...\"".to_owned();
    }
    if kinds.admits(Kinds::INTEGER) {
        let lowest = integer_range(&shape.bounds).0.unwrap_or_default();
        return lowest.max(0).to_string();
    }
    if kinds.admits(Kinds::BOOLEAN) {
        return "false".to_owned();
    }
    if kinds.admits(Kinds::ARRAY) {
        let count = shape.bounds.items_min.unwrap_or(1).max(1) as usize;
        let items: Vec<String> = (0..count).filter_map(|index| shape.item(index)).map(of).collect();
        return format!("[{}]", items.join(", "));
    }
    let required = shape.properties.iter().filter(|(key, _)| shape.required.contains(key));
    let pairs: Vec<String> = required.map(|(key, node)| format!("{} = {}", quoted_key(key), of(node))).collect();
    inline_table(&pairs)
}

/// A JSON value on one line of TOML.
pub(crate) fn inline(value: &Json) -> String {
    match value {
        // TOML has no null; one that stands in a list has no better form than an empty string.
        Json::Null => "\"\"".to_owned(),
        Json::String(text) => toml::Value::String(text.clone()).to_string(),
        Json::Array(items) => {
            let items: Vec<String> = items.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        Json::Object(pairs) => {
            let given = pairs.iter().filter(|(_, value)| !value.is_null());
            let pairs: Vec<String> =
                given.map(|(key, value)| format!("{} = {}", quoted_key(key), inline(value))).collect();
            inline_table(&pairs)
        }
        Json::Bool(_) | Json::Number(_) => value.to_string(),
    }
}

fn inline_table(pairs: &[String]) -> String {
    if pairs.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", pairs.join(", ")) }
}
