//! Checks of values that hold no other values, and the words for kinds and ranges.

use serde_json::{Number, Value as Json};
use toml::de::{DeInteger, DeValue};

use crate::secret::Exposure;
use crate::shape::{Bounds, Kinds, Shape};
use crate::suggest;

/// Refuses a value that none of the shapes, all of its kind, allows.
pub(crate) fn check(value: &DeValue<'_>, shapes: &[&Shape<'_>], exposure: Exposure) -> Result<(), String> {
    let errors = shapes.iter().map(|shape| check_one(value, shape, exposure));
    let Some(errors) = errors.map(Result::err).collect::<Option<Vec<String>>>() else {
        return Ok(());
    };
    match value {
        DeValue::String(text) if shapes.iter().all(|shape| !shape.constants.is_empty()) => {
            let words: Vec<&str> = shapes.iter().flat_map(|shape| shape.words()).collect();
            Err(unknown_word(text, &words, exposure))
        }
        _ => Err(errors.into_iter().next().unwrap_or_default()),
    }
}

fn check_one(value: &DeValue<'_>, shape: &Shape<'_>, exposure: Exposure) -> Result<(), String> {
    if !shape.constants.is_empty() && !shape.constants.iter().any(|constant| is_constant(value, constant)) {
        let constants: Vec<String> = shape.constants.iter().map(|constant| constant.to_string()).collect();
        return Err(format!("unknown value; expected one of {}", constants.join(", ")));
    }
    match value {
        DeValue::Integer(integer) => check_integer(integer, &shape.bounds, exposure),
        DeValue::Float(float) => check_float(float.as_str(), &shape.bounds),
        DeValue::String(text) => check_length(text, &shape.bounds),
        _ => Ok(()),
    }
}

/// The message for a string that is none of the words of an enum.
pub(crate) fn unknown_word(text: &str, words: &[&str], exposure: Exposure) -> String {
    let listed = suggest::list(words);
    if exposure == Exposure::Secret {
        return format!("unknown value; expected one of {listed}");
    }
    let unknown = format!("unknown value {}; expected one of {listed}", suggest::echo(text));
    match suggest::nearest(text, words) {
        Some(meant) => format!("{unknown}; did you mean `{meant}`?"),
        None => unknown,
    }
}

/// The message for a value of the wrong kind.
pub(crate) fn wrong_kind(value: &DeValue<'_>, expected: Kinds) -> String {
    // The likeliest slip of all, in the environment above all.
    let example = if expected == Kinds::ARRAY { " such as [\"a\", \"b\"]" } else { "" };
    format!("expected {}{example}, found {}", describe(expected), describe(Kinds::of(value)))
}

fn is_constant(value: &DeValue<'_>, constant: &Json) -> bool {
    match (value, constant) {
        (DeValue::String(text), Json::String(constant)) => text == constant,
        (DeValue::Boolean(value), Json::Bool(constant)) => value == constant,
        (DeValue::Integer(value), Json::Number(constant)) => to_i128(value) == Some(whole(constant)),
        _ => false,
    }
}

fn check_integer(integer: &DeInteger<'_>, bounds: &Bounds<'_>, exposure: Exposure) -> Result<(), String> {
    let range = integer_range(bounds);
    let value = to_i128(integer);
    let is_inside = |value: i128| range.0.is_none_or(|low| low <= value) && range.1.is_none_or(|high| value <= high);
    if value.is_some_and(is_inside) {
        return Ok(());
    }
    let expected = format!("out of range: expected an integer{}", range_words(range));
    match exposure {
        Exposure::Open => Err(format!("{expected}, found {integer}")),
        Exposure::Secret => Err(expected),
    }
}

fn check_float(text: &str, bounds: &Bounds<'_>) -> Result<(), String> {
    // A float that Rust cannot read is left to serde, which says so.
    let Ok(value) = text.replace('_', "").parse::<f64>() else {
        return Ok(());
    };
    let (low, high) = (bounds.minimum.and_then(Number::as_f64), bounds.maximum.and_then(Number::as_f64));
    if low.is_none_or(|low| low <= value) && high.is_none_or(|high| value <= high) {
        return Ok(());
    }
    Err(format!("out of range: expected a number{}", range_words((low, high))))
}

fn check_length(text: &str, bounds: &Bounds<'_>) -> Result<(), String> {
    let count = text.chars().count() as u64;
    count_error(count, bounds.characters_min, bounds.characters_max, "character")
}

/// Refuses a count outside of its bounds.
pub(crate) fn count_error(count: u64, low: Option<u64>, high: Option<u64>, noun: &str) -> Result<(), String> {
    let plural = |n: u64| if n == 1 { "" } else { "s" };
    match (low, high) {
        (Some(low), _) if count < low => Err(format!("needs at least {low} {noun}{}", plural(low))),
        (_, Some(high)) if count > high => Err(format!("takes at most {high} {noun}{}", plural(high))),
        _ => Ok(()),
    }
}

/// The smallest and largest integer allowed, from the bounds or else from the width of the type.
pub(crate) fn integer_range(bounds: &Bounds<'_>) -> (Option<i128>, Option<i128>) {
    let (low, high) = match bounds.format {
        Some("uint8") => (Some(0), Some(u8::MAX.into())),
        Some("uint16") => (Some(0), Some(u16::MAX.into())),
        Some("uint32") => (Some(0), Some(u32::MAX.into())),
        Some("uint64" | "uint") => (Some(0), Some(u64::MAX.into())),
        Some("int8") => (Some(i8::MIN.into()), Some(i8::MAX.into())),
        Some("int16") => (Some(i16::MIN.into()), Some(i16::MAX.into())),
        Some("int32") => (Some(i32::MIN.into()), Some(i32::MAX.into())),
        Some("int64" | "int") => (Some(i64::MIN.into()), Some(i64::MAX.into())),
        _ => (None, None),
    };
    (bounds.minimum.map(whole).or(low), bounds.maximum.map(whole).or(high))
}

/// A range in words, with a space before; empty if there is no bound.
pub(crate) fn range_words<N: std::fmt::Display>(range: (Option<N>, Option<N>)) -> String {
    match range {
        (Some(low), Some(high)) => format!(" from {low} to {high}"),
        (Some(low), None) => format!(" of at least {low}"),
        (None, Some(high)) => format!(" of at most {high}"),
        (None, None) => String::new(),
    }
}

fn whole(number: &Number) -> i128 {
    let float = || number.as_f64().unwrap_or_default() as i128;
    number.as_i128().unwrap_or_else(float)
}

fn to_i128(integer: &DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// Kinds in words, such as `an integer or a string`.
fn describe(kinds: Kinds) -> String {
    let all = [
        (Kinds::STRING, "a string"),
        (Kinds::INTEGER, "an integer"),
        (Kinds::FLOAT, "a float"),
        (Kinds::BOOLEAN, "a boolean"),
        (Kinds::DATETIME, "a date-time"),
        (Kinds::ARRAY, "an array"),
        (Kinds::TABLE, "a table"),
    ];
    let has_number = kinds.admits(Kinds::INTEGER) && kinds.admits(Kinds::FLOAT);
    let mut words: Vec<&str> = if has_number { vec!["a number"] } else { Vec::new() };
    let others = all.iter().filter(|(kind, _)| kinds.admits(*kind) && !(has_number && Kinds::NUMBER.admits(*kind)));
    words.extend(others.map(|(_, word)| *word));
    words.join(" or ")
}
