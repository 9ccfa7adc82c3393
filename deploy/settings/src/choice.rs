//! Which alternative of an enum a table means.

use std::collections::BTreeSet;

use toml::de::DeValue;

use crate::origin::Span;
use crate::scalar;
use crate::schema::Schema;
use crate::secret::Exposure;
use crate::shape::{Kinds, Shape};
use crate::{Table, suggest};

/// What a table was taken for.
pub(crate) enum Choice<'c, 's> {
    /// This alternative.
    One(&'c Shape<'s>),
    /// None: the key that names the alternative has a wrong value.
    WrongTag { key: &'s str, span: Span, message: String },
    /// None: the key that names the alternative is missing.
    NoTag { key: &'s str, message: String },
    /// Any of several: the table has no key of one of them.
    Unclear,
}

/// Chooses among shapes of tables, of which there is at least one.
pub(crate) fn choose<'c, 's>(
    shapes: &[&'c Shape<'s>],
    table: &Table<'_>,
    schema: &Schema,
    exposure: Exposure,
) -> Choice<'c, 's> {
    if let [only] = shapes {
        return Choice::One(only);
    }
    match common_tag(shapes) {
        Some(key) => by_tag(key, shapes, table, exposure),
        None => by_keys(shapes, table, schema),
    }
}

/// The key that names the alternative in every one of them.
pub(crate) fn common_tag<'s>(shapes: &[&Shape<'s>]) -> Option<&'s str> {
    let keys = |shape: &&Shape<'s>| shape.tags().into_keys().collect::<BTreeSet<&str>>();
    let common = shapes.iter().map(keys).reduce(|a, b| &a & &b)?;
    common.into_iter().next()
}

fn by_tag<'c, 's>(key: &'s str, shapes: &[&'c Shape<'s>], table: &Table<'_>, exposure: Exposure) -> Choice<'c, 's> {
    let word = |shape: &Shape<'s>| shape.tags().get(key).copied().unwrap_or_default();
    let words: Vec<&str> = shapes.iter().map(|shape| word(shape)).collect();
    let Some(tag) = table.get(key) else {
        let message = format!("missing required key; expected one of {}", suggest::list(&words));
        return Choice::NoTag { key, message };
    };
    let DeValue::String(text) = tag.get_ref() else {
        let message = scalar::wrong_kind(tag.get_ref(), Kinds::STRING);
        return Choice::WrongTag { key, span: tag.span(), message };
    };
    match shapes.iter().find(|shape| word(shape) == text) {
        Some(shape) => Choice::One(shape),
        None => {
            let message = scalar::unknown_word(text, &words, exposure);
            Choice::WrongTag { key, span: tag.span(), message }
        }
    }
}

/// The alternative with the fewest unknown keys, then with the fewest missing ones.
fn by_keys<'c, 's>(shapes: &[&'c Shape<'s>], table: &Table<'_>, schema: &Schema) -> Choice<'c, 's> {
    let is_known = |shape: &Shape<'_>, key: &str| shape.child(key).is_some() || schema.secret_of(shape, key).is_some();
    let unknown = |shape: &Shape<'_>| table.keys().filter(|key| !is_known(shape, key.get_ref())).count();
    let is_given = |key: &str| table.contains_key(key) || table.contains_key(Schema::file_key(key).as_str());
    let missing = |shape: &Shape<'_>| shape.required.iter().filter(|key| !is_given(key)).count();
    let best = shapes.iter().min_by_key(|shape| (unknown(shape), missing(shape)));
    match best {
        Some(best) if table.is_empty() || unknown(best) < table.len() => Choice::One(best),
        _ => Choice::Unclear,
    }
}
