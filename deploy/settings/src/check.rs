//! The walk of a document against its schema: finds everything wrong in it, reads files of secrets.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeArray, DeString, DeValue};

use crate::choice::{Choice, choose};
use crate::origin::{ROOT, Span, item_path, key_path};
use crate::problem::Finding;
use crate::schema::{Schema, SecretForm};
use crate::secret::{self, Content, Exposure, Secrets};
use crate::shape::{Kinds, Shape};
use crate::{Table, Value, scalar, suggest};

/// The walk, with what it has found so far.
pub(crate) struct Checker<'s> {
    schema: &'s Schema,
    pub(crate) findings: Vec<Finding>,
    pub(crate) secrets: Secrets,
}

/// Where the walk is.
#[derive(Clone, Copy)]
struct Location<'p> {
    path: &'p str,
    exposure: Exposure,
}

impl<'s> Checker<'s> {
    pub(crate) fn new(schema: &'s Schema) -> Self {
        Self { schema, findings: Vec::new(), secrets: Secrets::default() }
    }

    /// Checks a whole document and puts the content of files where their secrets belong.
    pub(crate) fn document(&mut self, table: &mut Table<'_>) {
        let shapes = self.schema.shapes(self.schema.root());
        let shapes: Vec<&Shape<'s>> = shapes.iter().filter(|shape| shape.kinds.admits(Kinds::TABLE)).collect();
        self.table(table, &ROOT, &shapes, Location { path: "", exposure: Exposure::Open });
    }

    fn value(&mut self, value: &mut Value<'_>, node: &'s Json, location: Location<'_>) {
        let shapes = self.schema.shapes(node);
        let is_secret = location.exposure == Exposure::Secret || shapes.iter().any(|shape| shape.is_secret);
        let exposure = if is_secret { Exposure::Secret } else { Exposure::Open };
        let location = Location { exposure, ..location };
        let span = value.span();
        let kind = Kinds::of(value.get_ref());
        let fitting: Vec<&Shape<'s>> = shapes.iter().filter(|shape| shape.kinds.admits(kind)).collect();
        if fitting.is_empty() {
            let expected = shapes.iter().fold(Kinds::NONE, |kinds, shape| kinds.and(shape.kinds));
            self.find(span, location.path, scalar::wrong_kind(value.get_ref(), expected));
            return;
        }
        match value.get_mut() {
            DeValue::Table(table) => self.table(table, &span, &fitting, location),
            DeValue::Array(items) => self.array(items, &span, fitting[0], location),
            scalar => {
                if location.exposure == Exposure::Secret {
                    self.secrets.add(span.clone(), scalar);
                }
                if let Err(message) = scalar::check(scalar, &fitting, location.exposure) {
                    self.find(span, location.path, message);
                }
            }
        }
    }

    fn array(&mut self, items: &mut DeArray<'_>, span: &Span, shape: &Shape<'s>, location: Location<'_>) {
        let count = items.len() as u64;
        if let Err(message) = scalar::count_error(count, shape.bounds.items_min, shape.bounds.items_max, "element") {
            self.find(span.clone(), location.path, message);
        }
        for (index, item) in items.iter_mut().enumerate() {
            if let Some(node) = shape.item(index) {
                self.value(item, node, Location { path: &item_path(location.path, index), ..location });
            }
        }
    }

    fn table(&mut self, table: &mut Table<'_>, span: &Span, shapes: &[&Shape<'s>], location: Location<'_>) {
        let shape = match choose(shapes, table, self.schema, location.exposure) {
            Choice::One(shape) => shape,
            Choice::WrongTag { key, span, message } => {
                return self.find(span, &key_path(location.path, key), message);
            }
            Choice::NoTag { key, message } => {
                let path = key_path(location.path, key);
                return self.findings.push(Finding::missing(span.clone(), path, message));
            }
            Choice::Unclear => return self.unknown_keys(table, shapes, location),
        };
        let given_by_file = self.read_secrets(table, shape, location);
        self.unknown_keys(table, &[shape], location);
        for (key, value) in table.iter_mut() {
            if let Some(node) = shape.child(key.get_ref()) {
                self.value(value, node, Location { path: &key_path(location.path, key.get_ref()), ..location });
            }
        }
        for key in &shape.required {
            if !table.contains_key(*key) && !given_by_file.contains(*key) {
                self.missing_key(key, shape, span, location);
            }
        }
    }

    /// Puts the content of each `x_file` at `x`; answers every `x` so given, readable or not.
    fn read_secrets(&mut self, table: &mut Table<'_>, shape: &Shape<'s>, location: Location<'_>) -> BTreeSet<String> {
        let schema = self.schema;
        let owned = |key: &Spanned<DeString<'_>>| {
            let (stem, form) = schema.secret_of(shape, key.get_ref())?;
            Some((key.get_ref().to_string(), stem.to_owned(), form))
        };
        let files: Vec<(String, String, SecretForm)> = table.keys().filter_map(owned).collect();
        let mut given = BTreeSet::new();
        for (file_key, stem, form) in files {
            let Some((key, value)) = table.remove_entry(file_key.as_str()) else {
                continue;
            };
            let path = key_path(location.path, &file_key);
            if table.contains_key(stem.as_str()) {
                let message = format!("`{stem}` is given too; keep one of the two");
                self.find(key.span(), &path, message);
            } else if let Some(content) = self.read_secret(&value, form, &path) {
                // The file's path stands for the secret in every later message.
                let stem = Cow::Owned(stem.clone());
                table.insert(Spanned::new(key.span(), stem), Spanned::new(value.span(), content));
            }
            given.insert(stem);
        }
        given
    }

    fn read_secret<'i>(&mut self, value: &Value<'_>, form: SecretForm, path: &str) -> Option<DeValue<'i>> {
        let DeValue::String(file) = value.get_ref() else {
            self.find(value.span(), path, scalar::wrong_kind(value.get_ref(), Kinds::STRING));
            return None;
        };
        match secret::read(file, form) {
            Ok(Content::One(text)) => Some(DeValue::String(Cow::Owned(text))),
            Ok(Content::Many(texts)) => {
                let mut items = DeArray::new();
                for text in texts {
                    items.push(Spanned::new(value.span(), DeValue::String(Cow::Owned(text))));
                }
                Some(DeValue::Array(items))
            }
            Err(message) => {
                self.find(value.span(), path, message);
                None
            }
        }
    }

    fn unknown_keys(&mut self, table: &Table<'_>, shapes: &[&Shape<'s>], location: Location<'_>) {
        let shapes: Vec<Shape<'s>> = shapes.iter().map(|shape| (*shape).clone()).collect();
        let known = self.schema.known_keys(&shapes);
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        for key in table.keys() {
            if !shapes.iter().any(|shape| shape.child(key.get_ref()).is_some()) {
                let message = suggest::unknown_key(key.get_ref(), &known);
                self.find(key.span(), &key_path(location.path, key.get_ref()), message);
            }
        }
    }

    fn missing_key(&mut self, key: &str, shape: &Shape<'s>, span: &Span, location: Location<'_>) {
        let is_secret = shape.property(key).is_some_and(|node| self.schema.secret_form(node).is_some());
        let message = if is_secret {
            format!("missing required key; give it or `{}`", Schema::file_key(key))
        } else {
            "missing required key".to_owned()
        };
        self.findings.push(Finding::missing(span.clone(), key_path(location.path, key), message));
    }

    fn find(&mut self, span: Span, path: &str, message: String) {
        self.findings.push(Finding::new(span, path, message));
    }
}
