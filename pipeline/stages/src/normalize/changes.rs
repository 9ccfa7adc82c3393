//! `changes` of a body: what was before and, where the body tells, what is now.

use headrace_schemas::event::Change;
use sonic_rs::{JsonType, JsonValueTrait as _, LazyValue};

use super::document::{Document, Node, entries, scalar};

/// More changes than GitHub makes in one event.
const CHANGES_MAX: usize = 64;
/// A longer value (a description, say) is cut; the body has all of it.
const VALUE_MAX_CHARS: usize = 1_024;
/// `changes.owner.from.user` is the deepest that GitHub sends.
const DEPTH_MAX: usize = 3;

/// What changed. `target` is where the values of now are.
pub(super) fn changes(document: &Document<'_>, target: Option<&Node<'_>>) -> Vec<Change> {
    let mut found = Vec::new();
    if let Some(changes) = document.object(&["changes"]) {
        for (field, value) in changes.entries() {
            collect(&field, &value, target, DEPTH_MAX, &mut found);
        }
    }
    found.truncate(CHANGES_MAX);
    found
}

fn collect(field: &str, value: &LazyValue<'_>, target: Option<&Node<'_>>, depth: usize, found: &mut Vec<Change>) {
    if value.get_type() != JsonType::Object {
        found.push(Change { field: field.to_owned(), before: None, after: text(value) });
        return;
    }
    let (from, to) = (value.get("from"), value.get("to"));
    if from.is_some() || to.is_some() {
        let path: Vec<&str> = field.split('.').collect();
        let now = || target.and_then(|target| target.text(&path).map(cut));
        let after = to.as_ref().map_or_else(now, text);
        found.push(Change { field: field.to_owned(), before: from.as_ref().and_then(text), after });
        return;
    }
    if depth > 1 {
        for (inner, value) in entries(value) {
            collect(&format!("{field}.{inner}"), &value, target, depth - 1, found);
        }
    }
}

/// A value as text; compact JSON where it is none.
fn text(value: &LazyValue<'_>) -> Option<String> {
    if value.is_null() {
        return None;
    }
    Some(cut(scalar(value).unwrap_or_else(|| value.as_raw_str().to_owned())))
}

fn cut(text: String) -> String {
    match text.char_indices().nth(VALUE_MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
