//! A JSON body, read only where it is asked for.

use std::borrow::Cow;

use sonic_rs::{JsonType, JsonValueTrait as _, LazyValue};

/// The top level of a body: its keys and where their values are.
pub(super) struct Document<'a> {
    entries: Vec<(Cow<'a, str>, LazyValue<'a>)>,
}

impl<'a> Document<'a> {
    /// Finds the top-level entries of `json`; what is wrong with it, in words, when it is no object.
    pub(super) fn parse(json: &'a [u8]) -> Result<Self, String> {
        let mut entries = Vec::with_capacity(16);
        for entry in sonic_rs::to_object_iter(json) {
            // The library's message quotes the body over several lines; its first line says it.
            let (key, value) = entry.map_err(|error| {
                let problem = error.to_string();
                format!("expected a JSON object: {}", problem.lines().next().unwrap_or_default())
            })?;
            entries.push((Cow::Owned(key.to_string()), value));
        }
        Ok(Self { entries })
    }

    /// The object at `path`; no path is the body itself.
    pub(super) fn object(&self, path: &[&str]) -> Option<Node<'_>> {
        let Some((key, rest)) = path.split_first() else { return Some(Node::Root(self)) };
        let value = self.top(key)?.pointer(rest)?;
        (value.get_type() == JsonType::Object).then_some(Node::Inner(value))
    }

    /// The text, number or truth value at `path`, as text.
    pub(super) fn text(&self, path: &[&str]) -> Option<String> {
        let (key, rest) = path.split_first()?;
        scalar(&self.top(key)?.pointer(rest)?)
    }

    fn top(&self, key: &str) -> Option<&LazyValue<'a>> {
        self.entries.iter().find(|(own, _)| own == key).map(|(_, value)| value)
    }
}

/// An object in a body.
pub(super) enum Node<'a> {
    Root(&'a Document<'a>),
    Inner(LazyValue<'a>),
}

impl Node<'_> {
    /// The text, number or truth value at `path` below this object, as text.
    pub(super) fn text(&self, path: &[&str]) -> Option<String> {
        match self {
            Self::Root(document) => document.text(path),
            Self::Inner(value) => scalar(&value.pointer(path)?),
        }
    }

    pub(super) fn integer(&self, path: &[&str]) -> Option<i64> {
        self.text(path)?.parse().ok()
    }

    pub(super) fn boolean(&self, path: &[&str]) -> Option<bool> {
        self.text(path)?.parse().ok()
    }

    /// The entries of the object, those that are well-formed.
    pub(super) fn entries(&self) -> Vec<(String, LazyValue<'_>)> {
        match self {
            Self::Root(document) => {
                document.entries.iter().map(|(key, value)| (key.to_string(), value.clone())).collect()
            }
            Self::Inner(value) => entries(value),
        }
    }
}

/// The entries of an object value.
pub(super) fn entries<'a>(value: &'a LazyValue<'a>) -> Vec<(String, LazyValue<'a>)> {
    sonic_rs::to_object_iter(value.as_raw_str())
        .map_while(Result::ok)
        .map(|(key, value)| (key.to_string(), value))
        .collect()
}

/// A text, number or truth value as text; `None` for the others and for null.
pub(super) fn scalar(value: &LazyValue<'_>) -> Option<String> {
    match value.get_type() {
        JsonType::String => value.as_str().map(str::to_owned),
        JsonType::Number | JsonType::Boolean => Some(value.as_raw_str().to_owned()),
        JsonType::Null | JsonType::Object | JsonType::Array => None,
    }
}
