//! The `changes` of a body: the value before and, where the body tells, the value now.
//!
//! A body of 25 MiB may name a million fields, so reading stops at [`CHANGES_MAX`].

use headrace_schemas::event::Change;
use sonic_rs::{JsonValueTrait as _, LazyValue};

use crate::normalize::document::{Entry, Object, cut, scalar};

/// More changes than GitHub makes in one event.
const CHANGES_MAX: usize = 64;
/// A longer value (a description, say) is cut; the body has all of it.
const VALUE_MAX_CHARS: usize = 1_024;
/// A longer name is cut.
const FIELD_MAX_CHARS: usize = 256;
/// `changes.owner.from.user` is the deepest that GitHub sends.
const DEPTH_MAX: usize = 3;

/// What changed. `target` holds the present values.
pub(super) fn changes(body: &Object<'_>, target: Option<&Object<'_>>) -> Vec<Change> {
    let mut found = Vec::new();
    for entry in body.object(&["changes"]).map_or(&[][..], Object::entries) {
        collect(entry.key(), entry, target, DEPTH_MAX, &mut found);
    }
    found
}

fn collect(field: &str, entry: &Entry<'_>, target: Option<&Object<'_>>, depth: usize, found: &mut Vec<Change>) {
    if found.len() >= CHANGES_MAX {
        return;
    }
    let Some(change) = entry.object() else {
        found.push(Change { field: cut(field, FIELD_MAX_CHARS), before: None, after: text(entry.value()) });
        return;
    };
    let (from, to) = (change.entry("from"), change.entry("to"));
    if from.is_some() || to.is_some() {
        let path: Vec<&str> = field.split('.').collect();
        let now = || target.and_then(|target| target.text(&path).map(|text| cut(&text, VALUE_MAX_CHARS)));
        let after = to.map_or_else(now, |to| text(to.value()));
        found.push(Change {
            field: cut(field, FIELD_MAX_CHARS),
            before: from.and_then(|from| text(from.value())),
            after,
        });
        return;
    }
    if depth > 1 {
        for inner in change.entries() {
            collect(&format!("{field}.{}", inner.key()), inner, target, depth - 1, found);
        }
    }
}

/// A value as text; compact JSON when it is not a text.
fn text(value: &LazyValue<'_>) -> Option<String> {
    if value.is_null() {
        return None;
    }
    Some(match scalar(value) {
        Some(text) => cut(&text, VALUE_MAX_CHARS),
        None => cut(value.as_raw_str(), VALUE_MAX_CHARS),
    })
}
