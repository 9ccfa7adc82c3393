//! The scalars of a record that the event has no place of its own for, under their dotted names.
//!
//! Which are kept depends on the record alone: first those at the top level, then nested ones, each in the order of the
//! record, until there are [`ATTRIBUTES_MAX`].

use std::collections::{BTreeMap, HashSet};

use crate::normalize::document::{Entry, Object, cut, scalar};

/// The most attributes of an event.
const ATTRIBUTES_MAX: usize = 64;
/// An attribute with a longer name is left out, because a name that was cut could be another's.
const NAME_MAX_BYTES: usize = 128;
/// A longer value is cut.
const VALUE_MAX_CHARS: usize = 1_024;
/// How deep scalars are looked for: a dotted name has at most as many parts. Each level is read once more, so a deep
/// record must not cost its depth times its size.
const DEPTH_MAX: usize = 6;
/// The most objects that are looked into.
const OBJECTS_MAX: usize = 64;
/// Keys at the top level whose scalars have a place of their own in the event.
const PLACED: [&str; 12] = [
    "action",
    "actor",
    "actor_ip",
    "country",
    "ip",
    "org",
    "organization",
    "outcome",
    "repo",
    "repository",
    "target",
    "user_agent",
];

/// The attributes of a record.
pub(super) fn attributes(record: &Object<'_>) -> BTreeMap<String, String> {
    let mut found = Found { attributes: BTreeMap::new(), objects: 0 };
    for entry in first_of_each(record).filter(|entry| !PLACED.contains(&entry.key())) {
        found.add(entry.key(), entry);
    }
    found.below("", record, DEPTH_MAX);
    found.attributes
}

struct Found {
    attributes: BTreeMap<String, String>,
    /// How many objects were looked into.
    objects: usize,
}

impl Found {
    /// Adds the scalars of all objects in `object`. Their names begin with `prefix` and have at most `depth` parts more.
    fn below(&mut self, prefix: &str, object: &Object<'_>, depth: usize) {
        if depth < 2 {
            return;
        }
        for entry in first_of_each(object) {
            if self.is_full() || prefix.len() + entry.key().len() > NAME_MAX_BYTES {
                continue;
            }
            let Some(inner) = entry.object() else { continue };
            self.objects += 1;
            let prefix = format!("{prefix}{}.", entry.key());
            for entry in first_of_each(inner) {
                self.add(&format!("{prefix}{}", entry.key()), entry);
            }
            self.below(&prefix, inner, depth - 1);
        }
    }

    fn is_full(&self) -> bool {
        self.attributes.len() >= ATTRIBUTES_MAX || self.objects >= OBJECTS_MAX
    }

    fn add(&mut self, name: &str, entry: &Entry<'_>) {
        if self.attributes.len() >= ATTRIBUTES_MAX || name.is_empty() || name.len() > NAME_MAX_BYTES {
            return;
        }
        if let Some(value) = scalar(entry.value()) {
            // Of two spellings of one name, `a.b` in one key and in two, the first counts too.
            self.attributes.entry(name.to_owned()).or_insert_with(|| cut(&value, VALUE_MAX_CHARS));
        }
    }
}

/// The entries of `object` without those whose key came before.
fn first_of_each<'o, 'a>(object: &'o Object<'a>) -> impl Iterator<Item = &'o Entry<'a>> {
    let mut seen = HashSet::with_capacity(object.entries().len());
    object.entries().iter().filter(move |entry| seen.insert(entry.key()))
}
