//! Environment variables laid over a document: with the prefix `HEADRACE__`, `HEADRACE__SINKS__SPLUNK__TOKEN` sets
//! `sinks.splunk.token`.
//!
//! The schema says how a variable's text is read, so a password of digits stays a string.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsString;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use crate::origin::{Origin, Sources, Span, item_path, key_path};
use crate::problem::{Finding, Problem};
use crate::schema::{Form, Keys, Named, Node, file_key};
use crate::{Table, Value, suggest};

/// What separates the keys in the name of a variable.
const SEPARATOR: &str = "__";

/// A variable that sets a setting.
struct Variable {
    name: String,
    text: String,
}

/// The variables that set settings, outer tables first. It has no Debug, because secrets are among them.
#[derive(Default)]
pub struct Variables {
    prefix: String,
    given: Vec<Variable>,
    /// A problem for each variable that is no text.
    pub(crate) unreadable: Vec<Problem>,
}

impl Variables {
    /// The variables of `environment` whose names begin with `prefix`. Outside of tests, pass [`std::env::vars_os`].
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

    /// Names and texts. Secrets are among them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.given.iter().map(|variable| (variable.name.as_str(), variable.text.as_str()))
    }
}

/// Lays the variables over a document.
pub(crate) fn overlay<'i>(
    table: &mut Table<'i>,
    variables: &'i Variables,
    root: &Node,
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
        let overlay = Overlay { sources, variables, variable, span };
        match overlay.route(root, table, &segments) {
            Ok(route) => overlay.place(table, &route.steps, route.twin.as_deref(), overlay.parse(route.form)),
            Err(finding) => findings.push(finding),
        }
    }
}

/// Where the name of a variable leads. Nothing is written before the whole name is known to be good.
struct Route<'n> {
    steps: Vec<Step>,
    /// The form of the setting. `None` for the file of a secret, whose path is a text.
    form: Option<&'n Form>,
    /// The other key of the same secret: `token` for `token_file`, and `token_file` for `token`.
    twin: Option<String>,
}

/// A step from a table or list into it.
enum Step {
    Key(String),
    Item(usize),
}

/// What the document has at a step of a route, if anything.
#[derive(Clone, Copy)]
enum Held<'t, 'i> {
    Table(&'t Table<'i>),
    List(&'t DeArray<'i>),
    Other,
}

impl<'t, 'i> Held<'t, 'i> {
    fn of(value: Option<&'t Value<'i>>) -> Self {
        match value.map(Spanned::get_ref) {
            Some(DeValue::Table(table)) => Self::Table(table),
            Some(DeValue::Array(items)) => Self::List(items),
            _ => Self::Other,
        }
    }

    fn get(self, key: &str) -> Self {
        match self {
            Self::Table(table) => Self::of(table.get(key)),
            Self::List(_) | Self::Other => Self::Other,
        }
    }

    /// The key of a table as the document spells it, for the spelling `segment` of a variable.
    fn key(self, segment: &str) -> Option<&'t str> {
        let Self::Table(table) = self else { return None };
        let mut keys = table.keys().map(|key| &**key.get_ref());
        keys.find(|key| suggest::normal(key) == suggest::normal(segment))
    }
}

/// Puts one variable in its place.
struct Overlay<'o, 'i> {
    sources: &'o Sources<'o>,
    variables: &'i Variables,
    variable: &'i Variable,
    span: Span,
}

impl<'i> Overlay<'_, 'i> {
    fn route<'n>(&self, root: &'n Node, table: &Table<'_>, segments: &[&str]) -> Result<Route<'n>, Finding> {
        let (mut node, mut held) = (root, Held::Table(table));
        let (mut steps, mut path, mut twin) = (Vec::new(), String::new(), None);
        for (index, segment) in segments.iter().enumerate() {
            match &node.form {
                Form::Table(keys) => {
                    if let Some((key, inner)) = self.named(keys, held, &segments[..=index]) {
                        path = key_path(&path, &key);
                        held = held.get(&key);
                        steps.push(Step::Key(key));
                        let rest = &segments[index + 1..];
                        let Some(inner) = inner else {
                            // Nobody knows what the table may have: the check of the document refuses it.
                            let form = rest.is_empty().then_some(&node.form);
                            steps.extend(rest.iter().map(|segment| Step::Key((*segment).to_owned())));
                            return Ok(Route { steps, form, twin: None });
                        };
                        (node, twin) = (inner, None);
                        continue;
                    }
                    let key = self.key(keys, held, segments, index, &path)?;
                    path = key_path(&path, &key);
                    held = held.get(&key);
                    steps.push(Step::Key(key.clone()));
                    match keys.get(&key) {
                        Some(inner) => {
                            twin = inner.secret_form().map(|_| file_key(&key));
                            node = inner;
                        }
                        None => {
                            let stem = keys.secret_of(&key).map(|(stem, _)| stem.to_owned());
                            return match segments.get(index + 1) {
                                None => Ok(Route { steps, form: None, twin: stem }),
                                Some(below) => Err(self.nothing_below(below, &path)),
                            };
                        }
                    }
                }
                Form::Map(entry) => {
                    // No variable can spell `acme-eu`. If the document has this key, `ACME_EU` means it.
                    let key = held.key(segment).unwrap_or(segment).to_owned();
                    path = key_path(&path, &key);
                    node = entry;
                    held = held.get(&key);
                    twin = None;
                    steps.push(Step::Key(key));
                }
                Form::List(item) => {
                    let items: &[Value<'_>] = if let Held::List(items) = held { &items[..] } else { &[] };
                    let count = items.len();
                    let Some(at) = segment.parse::<usize>().ok().filter(|at| *at < count) else {
                        let message = format!("no element {} in an array of {count}", suggest::echo(segment));
                        return Err(Finding::new(self.span.clone(), path, message));
                    };
                    path = item_path(&path, at);
                    node = item;
                    held = Held::of(items.get(at));
                    twin = None;
                    steps.push(Step::Item(at));
                }
                Form::Text | Form::Secret | Form::Word(_) | Form::Integer(_) | Form::Boolean => {
                    return Err(self.nothing_below(segment, &path));
                }
            }
        }
        Ok(Route { steps, form: Some(&node.form), twin })
    }

    /// The table of the user's own name that the last of `segments` means, and its form if its kind is known. `None`
    /// when the segment is another key, or when nothing tells the table's kind.
    fn named<'n>(&self, keys: &'n Keys, held: Held<'_, '_>, segments: &[&str]) -> Option<(String, Option<&'n Node>)> {
        let (named, segment) = (keys.named.as_ref()?, *segments.last()?);
        if keys.known().iter().any(|key| suggest::normal(key) == suggest::normal(segment)) {
            return None;
        }
        let key = held.key(segment).unwrap_or(segment).to_owned();
        let is_whole = segments.len() == self.segments().count();
        match self.kind(named, held.get(&key), segments) {
            Some(kind) => Some((key, named.get(&kind))),
            // The text of the variable is the table, and may tell the kind.
            None => is_whole.then_some((key, None)),
        }
    }

    /// The kind that a variable gives to the table at `segments`, else the kind that the document gives to it.
    fn kind(&self, named: &Named, table: Held<'_, '_>, segments: &[&str]) -> Option<String> {
        let name = format!("{}{SEPARATOR}{}", segments.join(SEPARATOR), named.tag);
        let prefix = self.variables.prefix.len();
        let mut given = self.variables.given.iter();
        if let Some(variable) = given.find(|other| suggest::normal(&other.name[prefix..]) == suggest::normal(&name)) {
            return Some(variable.text.clone());
        }
        match table {
            Held::Table(table) => match table.get(named.tag.as_str())?.get_ref() {
                DeValue::String(kind) => Some(kind.to_string()),
                _ => None,
            },
            Held::List(_) | Held::Other => None,
        }
    }

    /// The parts of the variable's name.
    fn segments(&self) -> impl Iterator<Item = &str> {
        self.variable.name[self.variables.prefix.len()..].split(SEPARATOR)
    }

    /// The key that a segment of the variable's name means.
    fn key(
        &self,
        keys: &Keys,
        held: Held<'_, '_>,
        segments: &[&str],
        index: usize,
        path: &str,
    ) -> Result<String, Finding> {
        let segment = segments[index];
        let known = keys.known();
        if let Some(key) = known.iter().find(|key| suggest::normal(key) == suggest::normal(segment)) {
            return Ok(key.clone());
        }
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let meant = suggest::nearest(segment, &known);
        let message = match meant {
            Some(meant) => format!("unknown key; did you mean `{}`?", self.name_with(index, meant)),
            None => suggest::unknown_key(segment, &known),
        };
        let message = message + &keys.named.as_ref().map(Named::need).unwrap_or_default();
        let finding = Finding::new(self.span.clone(), key_path(path, segment), message);
        Err(match meant.map(|meant| keys.setting(meant)).filter(|meant| held.key(meant).is_none()) {
            Some(meant) => finding.meaning(key_path(path, meant)),
            None => finding,
        })
    }

    fn nothing_below(&self, segment: &str, path: &str) -> Finding {
        Finding::new(self.span.clone(), key_path(path, segment), suggest::unknown_key(segment, &[]))
    }

    /// The variable's name with another key in the place of one of its segments.
    fn name_with(&self, index: usize, meant: &str) -> String {
        let mut keys: Vec<&str> = self.segments().collect();
        let meant = meant.to_uppercase();
        keys[index] = &meant;
        format!("{}{}", self.variables.prefix, keys.join(SEPARATOR))
    }

    /// Puts `value` where `steps` lead from a table, and makes the tables on the way.
    fn place(&self, table: &mut Table<'i>, steps: &[Step], twin: Option<&str>, value: Value<'i>) {
        let Some((Step::Key(key), rest)) = steps.split_first() else { return };
        // The two keys of a secret are one setting, and the environment overrides the document. If the environment has
        // both, keep both, so that the check refuses them.
        if let Some(twin) = twin
            && rest.is_empty()
            && table.get(twin).is_some_and(|given| !self.sources.is_variable(&given.span()))
        {
            table.remove(twin);
        }
        let entry = table.entry(Spanned::new(self.span.clone(), Cow::Owned(key.clone())));
        self.place_within(entry.or_insert_with(|| self.empty_table()), rest, twin, value);
    }

    fn place_within(&self, outer: &mut Value<'i>, steps: &[Step], twin: Option<&str>, value: Value<'i>) {
        match steps.split_first() {
            None => *outer = value,
            Some((Step::Item(index), rest)) => {
                if let DeValue::Array(items) = outer.get_mut()
                    && let Some(item) = items.get_mut(*index)
                {
                    self.place_within(item, rest, twin, value);
                }
            }
            Some((Step::Key(_), _)) => {
                // Where the variable needs a table and the document has another value, the variable wins.
                if !outer.get_ref().is_table() {
                    *outer = self.empty_table();
                }
                if let DeValue::Table(table) = outer.get_mut() {
                    self.place(table, steps, twin, value);
                }
            }
        }
    }

    fn empty_table(&self) -> Value<'i> {
        Spanned::new(self.span.clone(), DeValue::Table(DeTable::new()))
    }

    /// Reads the variable's text in the form of the setting.
    fn parse(&self, form: Option<&Form>) -> Value<'i> {
        let text = self.variable.text.as_str();
        match DeValue::parse(text.trim()).ok().filter(|value| is_meant(form, value.get_ref())) {
            Some(value) => self.own(value),
            None => Spanned::new(self.span.clone(), DeValue::String(Cow::Borrowed(text))),
        }
    }

    /// Gives a parsed value, and everything in it, the variable's range.
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

/// Whether a text that can be read as `value` should be read so. A password of digits should not.
fn is_meant(form: Option<&Form>, value: &DeValue<'_>) -> bool {
    matches!(
        (form, value),
        (Some(Form::Integer(_)), DeValue::Integer(_))
            | (Some(Form::Boolean), DeValue::Boolean(_))
            | (Some(Form::List(_)), DeValue::Array(_))
            | (Some(Form::Table(_) | Form::Map(_)), DeValue::Table(_))
    )
}
