//! A JSON body, read only where it is asked for.
//!
//! An object that is asked for is split into its entries once; the values in it are skipped, not parsed,
//! until they are asked for themselves. Asking for what is not there costs nothing: the JSON library's
//! own look-up by path makes an error message for it.

use std::borrow::Cow;
use std::cell::OnceCell;

use sonic_rs::{JsonType, JsonValueTrait as _, LazyValue};

/// An object of a body: its entries, in their order.
pub(super) struct Object<'a> {
    entries: Vec<Entry<'a>>,
}

/// An entry of an object.
pub(super) struct Entry<'a> {
    key: Cow<'a, str>,
    value: LazyValue<'a>,
    inner: OnceCell<Option<Box<Object<'a>>>>,
}

impl<'a> Object<'a> {
    /// Splits `json`; what is wrong with it, in words, when it is no object.
    pub(super) fn parse(json: &'a [u8]) -> Result<Self, String> {
        let mut entries = Vec::with_capacity(32);
        for entry in sonic_rs::to_object_iter(json) {
            // The library's message quotes the body over several lines; its first line says it.
            let (key, value) = entry.map_err(|error| {
                let problem = error.to_string();
                format!("expected a JSON object: {}", problem.lines().next().unwrap_or_default())
            })?;
            entries.push(Entry { key, value, inner: OnceCell::new() });
        }
        Ok(Self { entries })
    }

    /// The object at `path`; no path is this one.
    pub(super) fn object(&self, path: &[&str]) -> Option<&Self> {
        let Some((key, rest)) = path.split_first() else { return Some(self) };
        self.entry(key)?.object()?.object(rest)
    }

    /// The text, number or truth value at `path`, as text.
    pub(super) fn text(&self, path: &[&str]) -> Option<String> {
        let (key, parents) = path.split_last()?;
        scalar(&self.object(parents)?.entry(key)?.value)
    }

    /// The whole number at `path`.
    pub(super) fn integer(&self, path: &[&str]) -> Option<i64> {
        self.text(path)?.parse().ok()
    }

    /// The truth value at `path`.
    pub(super) fn boolean(&self, path: &[&str]) -> Option<bool> {
        self.text(path)?.parse().ok()
    }

    /// All entries.
    pub(super) fn entries(&self) -> &[Entry<'a>] {
        &self.entries
    }

    /// The entry `key`.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry<'a>> {
        self.entries.iter().find(|entry| entry.key == key)
    }
}

impl<'a> Entry<'a> {
    /// Its key.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Its value, as it stands in the body.
    pub(super) const fn value(&self) -> &LazyValue<'a> {
        &self.value
    }

    /// Its value, when that is an object.
    pub(super) fn object(&self) -> Option<&Object<'a>> {
        let split = || {
            if self.value.get_type() != JsonType::Object {
                return None;
            }
            match self.value.as_raw_cow() {
                Cow::Borrowed(json) => Object::parse(json.as_bytes()).ok().map(Box::new),
                // Values of a borrowed body are borrowed.
                Cow::Owned(_) => None,
            }
        };
        self.inner.get_or_init(split).as_deref()
    }
}

/// A text, number or truth value as text; `None` for the others and for null.
pub(super) fn scalar(value: &LazyValue<'_>) -> Option<String> {
    match value.get_type() {
        JsonType::String => value.as_str().map(str::to_owned),
        JsonType::Number | JsonType::Boolean => Some(value.as_raw_str().to_owned()),
        JsonType::Null | JsonType::Object | JsonType::Array => None,
    }
}
