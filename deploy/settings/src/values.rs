//! Validates the values of a configuration in which other settings have the wrong form.
//!
//! The settings with problems are taken out, and the rest is read with their defaults. So both kinds of problems are shown
//! at once, without problems that only follow from a wrong form. If the rest cannot be read, only the problems of form are
//! shown.

use serde::de::DeserializeOwned;
use toml::Spanned;

use crate::origin::{self, Origins, ROOT, Sources};
use crate::problem::Finding;
use crate::{Invalid, Problem, Table, Value};

pub(crate) fn problems<T: DeserializeOwned>(
    mut table: Table<'_>,
    known: &[Finding],
    sources: &Sources<'_>,
    values: impl Fn(&T) -> Vec<Invalid>,
) -> Vec<Problem> {
    let settings = known.iter().flat_map(|finding| std::iter::once(finding.path()).chain(finding.meant()));
    settings.for_each(|path| take_out(&mut table, path));
    let origins = Origins::new(&origin::paths(&table), sources);
    let Ok(value) = T::deserialize(toml::de::Deserializer::from(Spanned::new(ROOT, table))) else { return Vec::new() };
    let is_new = |found: &Invalid| !known.iter().any(|finding| finding.explains(&found.path));
    values(&value).into_iter().filter(is_new).map(|found| origins.problem(found)).collect()
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
        let toml::de::DeValue::Table(inner) = inner else { return };
        table = inner;
    }
    table.remove(key);
}
