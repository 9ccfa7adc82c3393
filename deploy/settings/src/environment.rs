//! Environment variables laid over a document: with the prefix `HEADRACE__`, `HEADRACE__SINKS__SPLUNK__TOKEN` sets
//! `sinks.splunk.token`.
//!
//! The schema says how a variable's text is read, so a password of digits stays a string.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsString;

use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use crate::origin::{Origin, Sources, Span, item_path, key_path};
use crate::problem::{Finding, Problem};
use crate::schema::Schema;
use crate::shape::{Kinds, Shape};
use crate::{Table, Value, suggest};

/// What separates the keys in the name of a variable.
const SEPARATOR: &str = "__";

/// A variable that sets a setting.
struct Variable {
    name: String,
    text: String,
}

/// The variables that set settings, outer tables first. It has no Debug: secrets are among them.
#[derive(Default)]
pub struct Variables {
    prefix: String,
    given: Vec<Variable>,
    /// A problem for each that is no text.
    pub(crate) unreadable: Vec<Problem>,
}

impl Variables {
    /// Those of `environment`, outside of tests [`std::env::vars_os`], whose names begin with `prefix`.
    pub fn of(prefix: &str, environment: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>) -> Self {
        let mut variables = Self { prefix: prefix.to_owned(), ..Self::default() };
        for (name, text) in environment {
            let name = name.into().to_string_lossy().into_owned();
            if !name.starts_with(prefix) {
                continue;
            }
            match text.into().into_string() {
                Ok(text) => variables.given.push(Variable { name, text }),
                Err(_) => variables.unreadable.push(Problem {
                    origin: Origin::Environment { variable: name.into() },
                    path: String::new(),
                    message: "the value is not UTF-8 text".to_owned(),
                }),
            }
        }
        // A table given as a whole comes before its keys, which then override it.
        variables.given.sort_by_key(|variable| (variable.name.to_lowercase(), variable.name.clone()));
        variables
    }

    /// Names and texts; secrets are among them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.given.iter().map(|variable| (variable.name.as_str(), variable.text.as_str()))
    }
}

/// Lays the variables over a document.
pub(crate) fn overlay<'i>(
    table: &mut Table<'i>,
    variables: &'i Variables,
    schema: &Schema,
    sources: &mut Sources<'_>,
    findings: &mut Vec<Finding>,
) {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for variable in &variables.given {
        let span = sources.add_variable(&variable.name);
        if let Some(first) = seen.insert(variable.name.to_lowercase(), &variable.name) {
            findings.push(Finding::new(span, "", format!("sets the same setting as `{first}`; keep one of the two")));
            continue;
        }
        let name = variable.name[variables.prefix.len()..].to_lowercase();
        let segments: Vec<&str> = name.split(SEPARATOR).collect();
        if segments.contains(&"") {
            findings.push(Finding::new(span, "", "names no setting: one of its keys is empty"));
            continue;
        }
        let overlay = Overlay { schema, sources, prefix: &variables.prefix, variable, span };
        // What a refused variable has begun to build would only be reported a second time.
        let before = table.clone();
        if let Err(finding) = overlay.set_in_table(table, &schema.shapes(schema.root()), &segments, "") {
            *table = before;
            findings.push(finding);
        }
    }
}

/// One variable on its way to its place.
struct Overlay<'o, 'i> {
    schema: &'o Schema,
    sources: &'o Sources<'o>,
    prefix: &'o str,
    variable: &'i Variable,
    span: Span,
}

impl<'i> Overlay<'_, 'i> {
    fn set_in_table(
        &self,
        table: &mut Table<'i>,
        shapes: &[Shape<'_>],
        segments: &[&str],
        path: &str,
    ) -> Result<(), Finding> {
        let Some((_, rest)) = segments.split_first() else {
            return Ok(());
        };
        let key = self.resolve(table, shapes, segments, path)?;
        let path = key_path(path, &key);
        if rest.is_empty() {
            self.remove_twin(table, shapes, &key);
        }
        let shapes = self.children(shapes, &key);
        let empty = || Spanned::new(self.span.clone(), DeValue::Table(DeTable::new()));
        let entry = table.entry(Spanned::new(self.span.clone(), Cow::Owned(key)));
        self.set(entry.or_insert_with(empty), &shapes, rest, &path)
    }

    fn set(&self, value: &mut Value<'i>, shapes: &[Shape<'_>], segments: &[&str], path: &str) -> Result<(), Finding> {
        let Some((segment, rest)) = segments.split_first() else {
            *value = self.parse(shapes);
            return Ok(());
        };
        match value.get_mut() {
            DeValue::Array(items) => self.set_in_array(items, shapes, segment, rest, path),
            DeValue::Table(table) => self.set_in_table(table, shapes, segments, path),
            // The document has something else where the variable has a table, and the variable wins.
            other => {
                *other = DeValue::Table(DeTable::new());
                self.set(value, shapes, segments, path)
            }
        }
    }

    fn set_in_array(
        &self,
        items: &mut DeArray<'i>,
        shapes: &[Shape<'_>],
        segment: &str,
        rest: &[&str],
        path: &str,
    ) -> Result<(), Finding> {
        let count = items.len();
        let index = segment.parse::<usize>().ok();
        let Some((index, item)) = index.and_then(|index| Some((index, items.get_mut(index)?))) else {
            let message = format!("no element {} in an array of {count}", suggest::echo(segment));
            return Err(Finding::new(self.span.clone(), path, message));
        };
        let nodes = shapes.iter().filter_map(|shape| shape.item(index));
        let shapes: Vec<Shape<'_>> = nodes.flat_map(|node| self.schema.shapes(node)).collect();
        self.set(item, &shapes, rest, &item_path(path, index))
    }

    /// The key that the first of the remaining segments of the variable's name means.
    fn resolve(
        &self,
        table: &Table<'_>,
        shapes: &[Shape<'_>],
        segments: &[&str],
        path: &str,
    ) -> Result<String, Finding> {
        let segment = segments.first().copied().unwrap_or_default();
        let known = self.schema.known_keys(shapes);
        let is_meant = |key: &&str| suggest::normal(key) == suggest::normal(segment);
        let is_allowed = |key: &str| {
            let allows = |shape: &Shape<'_>| shape.child(key).is_some() || self.schema.secret_of(shape, key).is_some();
            shapes.iter().filter(|shape| shape.kinds.admits(Kinds::TABLE)).any(allows)
        };
        let present = table.keys().map(|key| key.get_ref().as_ref()).filter(|key| is_allowed(key));
        if let Some(key) = known.iter().map(String::as_str).chain(present).find(is_meant) {
            return Ok(key.to_owned());
        }
        if is_allowed(segment) {
            return Ok(segment.to_owned());
        }
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let message = match suggest::nearest(segment, &known) {
            Some(meant) => format!("unknown key; did you mean `{}`?", self.name_with(segments, meant)),
            None => suggest::unknown_key(segment, &known),
        };
        Err(Finding::new(self.span.clone(), key_path(path, segment), message))
    }

    /// The variable's name with another key in the place of the first of the remaining segments.
    fn name_with(&self, segments: &[&str], meant: &str) -> String {
        let mut keys: Vec<&str> = self.variable.name[self.prefix.len()..].split(SEPARATOR).collect();
        let meant = meant.to_uppercase();
        let index = keys.len() - segments.len();
        keys[index] = &meant;
        format!("{}{}", self.prefix, keys.join(SEPARATOR))
    }

    /// Removes the document's `token` where the variable gives `token_file`, and the other way round.
    ///
    /// The two are one setting, and the environment wins. Both in the environment stay, for the check to refuse.
    fn remove_twin(&self, table: &mut Table<'_>, shapes: &[Shape<'_>], key: &str) {
        let file = Schema::file_key(key);
        let stem = |file| shapes.iter().find_map(|shape| self.schema.secret_of(shape, file));
        let twin = match (stem(key), stem(file.as_str())) {
            (Some((stem, _)), _) => stem,
            (None, Some(_)) => &file,
            (None, None) => return,
        };
        if table.get(twin).is_some_and(|value| !self.sources.is_variable(&value.span())) {
            table.remove(twin);
        }
    }

    fn children<'s>(&'s self, shapes: &[Shape<'s>], key: &str) -> Vec<Shape<'s>> {
        let node = |shape: &Shape<'s>| -> Option<&'s Json> {
            if self.schema.secret_of(shape, key).is_some() { None } else { shape.child(key) }
        };
        shapes.iter().filter_map(node).flat_map(|node| self.schema.shapes(node)).collect()
    }

    /// Reads the variable's text as what the schema expects.
    fn parse(&self, shapes: &[Shape<'_>]) -> Value<'i> {
        let text = self.variable.text.as_str();
        let kinds = shapes.iter().fold(Kinds::NONE, |kinds, shape| kinds.and(shape.kinds));
        let parsed = DeValue::parse(text.trim()).ok().filter(|value| {
            let kind = Kinds::of(value.get_ref());
            kind != Kinds::STRING && kinds.admits(kind)
        });
        match parsed {
            Some(value) => self.own(value),
            None => Spanned::new(self.span.clone(), DeValue::String(Cow::Borrowed(text))),
        }
    }

    /// Gives a parsed value and all inside of it the variable's range.
    fn own(&self, value: Value<'i>) -> Value<'i> {
        let owned = match value.into_inner() {
            DeValue::Table(table) => DeValue::Table(
                table
                    .into_iter()
                    .map(|(key, value)| (Spanned::new(self.span.clone(), key.into_inner()), self.own(value)))
                    .collect(),
            ),
            DeValue::Array(items) => {
                let mut owned = DeArray::new();
                for item in items {
                    owned.push(self.own(item));
                }
                DeValue::Array(owned)
            }
            scalar => scalar,
        };
        Spanned::new(self.span.clone(), owned)
    }
}
