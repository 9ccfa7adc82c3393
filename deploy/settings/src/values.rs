//! Validates the values of a configuration in which other settings have the wrong form.
//!
//! The settings with problems are taken out, and the rest is read with their defaults. So both kinds of problems are shown
//! at once, without problems that only follow from a wrong form. A text that serde refuses is taken out too. If the rest
//! cannot be read, only the problems of form are shown.

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::DeValue;

use crate::origin::{self, Origins, ROOT, Sources};
use crate::problem::Finding;
use crate::schema::{Form, Node};
use crate::secret::Secrets;
use crate::{Invalid, Problem, Table, Value};

/// Reads a table into `T`.
pub(crate) fn read<T: DeserializeOwned>(table: &Table<'_>) -> Result<T, toml::de::Error> {
    T::deserialize(toml::de::Deserializer::from(Spanned::new(ROOT, table.clone())))
}

/// Returns the problems of values. Adds to `findings` what serde refuses beside them.
pub(crate) fn problems<T: DeserializeOwned>(
    mut table: Table<'_>,
    findings: &mut Vec<Finding>,
    sources: &Sources<'_>,
    secrets: &Secrets,
    root: &Node,
    values: impl Fn(&T) -> Vec<Invalid>,
) -> Vec<Problem> {
    let settings = findings.iter().flat_map(|finding| std::iter::once(finding.path()).chain(finding.meant()));
    settings.for_each(|path| take_out(&mut table, path));
    loop {
        let paths = origin::paths(&table);
        match read(&table) {
            Ok(value) => {
                let origins = Origins::new(&paths, sources);
                let is_new = |found: &Invalid| !findings.iter().any(|finding| finding.explains(&found.path));
                return values(&value).into_iter().filter(is_new).map(|found| origins.problem(found)).collect();
            }
            Err(error) => {
                let span = error.span().unwrap_or(ROOT);
                // Take the last match, because an array of tables has the same span as its first table.
                let path = paths.iter().rev().find(|(_, known)| *known == span).map(|(path, _)| path.as_str());
                let path = path.unwrap_or_default();
                // A table that has the same span may lack only what was taken out of it.
                let is_alone = paths.iter().all(|(other, known)| *known != span || other == path);
                let text = text_at(root, &table, path);
                let is_sure = findings.is_empty() || (text.is_some() && is_alone);
                if is_sure {
                    let default = text.and_then(|text| text.default.as_ref()).filter(|default| *default != "");
                    let default = default.map(|default| format!("; the default is {default}")).unwrap_or_default();
                    findings.push(Finding::new(span.clone(), path, secrets.redact(error.message(), &span) + &default));
                }
                if !is_sure || text.is_none() {
                    return Vec::new();
                }
                // Serde stops at the first value that it refuses, so go on without it.
                take_out(&mut table, path);
            }
        }
    }
}

/// The setting at `path`, if it is a text in tables, and given as one. Serde may refuse what the schema allows there, such
/// as a malformed address.
fn text_at<'n>(root: &'n Node, table: &Table<'_>, path: &str) -> Option<&'n Node> {
    let Form::Table(keys) = &root.form else { return None };
    let (key, rest) = path.split_once('.').map_or((path, None), |(key, rest)| (key, Some(rest)));
    let node = keys.get(key)?;
    match (table.get(key)?.get_ref(), rest) {
        (DeValue::Table(inner), Some(rest)) => text_at(node, inner, rest),
        (DeValue::String(_), None) => matches!(node.form, Form::Text).then_some(node),
        _ => None,
    }
}

/// Removes the setting at `path`. If it is in a list, removes the whole list.
fn take_out(table: &mut Table<'_>, path: &str) {
    let plain = origin::plain(path);
    // A list without one of its items would mean something else.
    let whole = plain.split('[').next().unwrap_or_default();
    let Some((parents, key)) = whole.rsplit_once('.').or(Some(("", whole))) else { return };
    let mut table = table;
    for parent in parents.split('.').filter(|parent| !parent.is_empty()) {
        let Some(inner) = table.get_mut(parent).map(Value::get_mut) else { return };
        let DeValue::Table(inner) = inner else { return };
        table = inner;
    }
    table.remove(key);
}
