//! A JSON body of which only the requested parts are read.
//!
//! An object is split into its entries once, when it is requested. The values in it are skipped, not parsed, until they
//! are requested themselves. Requesting an absent value costs nothing, whereas the JSON library's own look-up by path
//! makes an error message for it.
//!
//! Whatever the body, the result is bounded: the depth is checked before the parser sees the body, only the first
//! [`KEYS_MAX`] keys of an object are kept, and texts are cut. The whole body stays in RAW.

use std::borrow::Cow;
use std::cell::OnceCell;

use headrace_schemas::json;
use sonic_rs::{JsonType, JsonValueTrait as _, LazyValue};

/// How many keys of an object are kept, from the first. GitHub sends no more than a hundred.
const KEYS_MAX: usize = 256;
/// A longer text is cut. GitHub's names and addresses are shorter, descriptions may be longer.
const TEXT_MAX_CHARS: usize = 2_048;

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
    /// Splits a body. When it is no object, the error says what is wrong with it.
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, String> {
        if !json::is_shallow(body) {
            return Err(format!("expected a JSON object at most {} levels deep, found a deeper one", json::DEPTH_MAX));
        }
        Self::split(body)
    }

    /// Splits `json`, which is known not to be too deep.
    fn split(json: &'a [u8]) -> Result<Self, String> {
        let mut entries = Vec::with_capacity(32);
        for entry in sonic_rs::to_object_iter(json) {
            // The library's message quotes the body over several lines. Its first line says what is wrong.
            let (key, value) = entry.map_err(|error| {
                let problem = error.to_string();
                format!("expected a JSON object: {}", problem.lines().next().unwrap_or_default())
            })?;
            // Keep reading beyond the limit, so that a broken body is refused wherever it breaks.
            if entries.len() < KEYS_MAX {
                entries.push(Entry { key, value, inner: OnceCell::new() });
            }
        }
        Ok(Self { entries })
    }

    /// The object at `path`; this one when the path is empty.
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

    /// All entries that are kept.
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
                Cow::Borrowed(json) => Object::split(json.as_bytes()).ok().map(Box::new),
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
        JsonType::String => value.as_str().map(|text| cut(text, TEXT_MAX_CHARS)),
        JsonType::Number | JsonType::Boolean => Some(cut(value.as_raw_str(), TEXT_MAX_CHARS)),
        JsonType::Null | JsonType::Object | JsonType::Array => None,
    }
}

/// `text`, or the first `max` characters of it and an ellipsis.
pub(super) fn cut(text: &str, max: usize) -> String {
    // A character has at least one byte, so most texts need no counting.
    if text.len() <= max {
        return text.to_owned();
    }
    match text.char_indices().nth(max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
