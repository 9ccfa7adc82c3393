//! The JSON schema of a configuration type, read as alternatives of plain shapes.
//!
//! Whatever way a type was written (`Option`, `$ref` with siblings, tagged or untagged enums,
//! `allOf`), [`Schema::shapes`] answers with a flat list, so that no other file looks at keywords.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value as Json;

use crate::shape::{Kinds, Shape};

/// How many references may lead from one place to its shapes; more can only be a circle.
const DEPTH_MAX: usize = 32;

/// The ending of the key that names a file with a secret.
const FILE_SUFFIX: &str = "_file";

/// The schema of a configuration type.
pub(crate) struct Schema {
    root: Json,
}

/// How a secret is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SecretForm {
    /// One string: the whole file, without its last line break.
    One,
    /// A list of strings: one for each line.
    Many,
}

impl Schema {
    pub(crate) fn of<T: JsonSchema>() -> Self {
        let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>();
        Self { root: schema.to_value() }
    }

    /// The schema of the whole document.
    pub(crate) fn root(&self) -> &Json {
        &self.root
    }

    /// The alternatives that a schema allows in TOML; null is not among them.
    pub(crate) fn shapes<'s>(&'s self, node: &'s Json) -> Vec<Shape<'s>> {
        let mut shapes = self.expand(node, 0);
        shapes.retain_mut(|shape| {
            shape.kinds = shape.kinds.common(Kinds::ALL);
            shape.kinds != Kinds::NONE
        });
        shapes
    }

    fn expand<'s>(&'s self, node: &'s Json, depth: usize) -> Vec<Shape<'s>> {
        if depth > DEPTH_MAX {
            return vec![Shape::any()];
        }
        let Json::Object(schema) = node else {
            return if *node == Json::Bool(false) { Vec::new() } else { vec![Shape::any()] };
        };
        let mut shapes = vec![Shape::own(schema)];
        let list = |key| schema.get(key).and_then(Json::as_array);
        if let Some(target) = schema.get("$ref").and_then(Json::as_str) {
            shapes = product(&shapes, &self.expand(self.follow(target), depth + 1));
        }
        for part in list("allOf").into_iter().flatten() {
            shapes = product(&shapes, &self.expand(part, depth + 1));
        }
        for choice in [list("oneOf"), list("anyOf")].into_iter().flatten() {
            let inner: Vec<Shape<'_>> = choice.iter().flat_map(|part| self.expand(part, depth + 1)).collect();
            shapes = product(&shapes, &inner);
        }
        shapes
    }

    fn follow(&self, target: &str) -> &Json {
        let pointer = target.strip_prefix('#').unwrap_or_default();
        // A reference that leads nowhere checks nothing; serde still does.
        self.root.pointer(pointer).unwrap_or(&Json::Bool(true))
    }

    /// How a value is a secret, if it is one.
    pub(crate) fn secret_form(&self, node: &Json) -> Option<SecretForm> {
        let shapes = self.shapes(node);
        let one = |shape: &Shape<'_>| shape.is_secret && shape.kinds.admits(Kinds::STRING);
        let many = |shape: &Shape<'_>| {
            let item = shape.item(0).filter(|_| shape.kinds.admits(Kinds::ARRAY));
            item.is_some_and(|item| shape.is_secret || self.shapes(item).iter().any(one))
        };
        if shapes.iter().any(one) { Some(SecretForm::One) } else { shapes.iter().any(many).then_some(SecretForm::Many) }
    }

    /// The secret that a key gives by file: `token` for `token_file`, unless that is a key itself.
    pub(crate) fn secret_of<'k>(&self, shape: &Shape<'_>, key: &'k str) -> Option<(&'k str, SecretForm)> {
        if shape.property(key).is_some() {
            return None;
        }
        let stem = key.strip_suffix(FILE_SUFFIX).filter(|stem| !stem.is_empty())?;
        Some((stem, self.secret_form(shape.child(stem)?)?))
    }

    /// The key that names the file of a secret.
    pub(crate) fn file_key(stem: &str) -> String {
        format!("{stem}{FILE_SUFFIX}")
    }

    /// Every key that tables of these shapes may have, with the keys for secrets in files.
    pub(crate) fn known_keys(&self, shapes: &[Shape<'_>]) -> BTreeSet<String> {
        let properties = shapes.iter().flat_map(|shape| &shape.properties);
        let keys = properties.flat_map(|(key, node)| {
            let file = self.secret_form(node).map(|_| Self::file_key(key));
            std::iter::once((*key).to_owned()).chain(file)
        });
        keys.collect()
    }
}

/// Every shape of `outer` merged with every one of `inner`, where that is possible.
fn product<'s>(outer: &[Shape<'s>], inner: &[Shape<'s>]) -> Vec<Shape<'s>> {
    outer.iter().flat_map(|outer| inner.iter().filter_map(|inner| outer.merge(inner))).collect()
}
