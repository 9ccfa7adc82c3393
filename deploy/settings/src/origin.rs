//! Where a setting came from, and how its path is written.
//!
//! Values keep their byte range in one space of offsets. The file comes first, and each environment variable gets the next
//! free range. So one range gives both the source and the position, in our own checks and in serde's errors.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use toml::de::DeValue;

use crate::{Document, Invalid, Problem, Problems, Table, Value};

/// A range in the space of offsets.
pub(crate) type Span = Range<usize>;

/// The range of the document as a whole. No value has it.
pub(crate) const ROOT: Span = usize::MAX..usize::MAX;

/// Where a setting was given. The order is the order in which problems are shown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The file as a whole.
    File {
        /// The file's name as given to [`load`](crate::load).
        file: Arc<str>,
    },
    /// A position in the file.
    Position {
        /// The file's name as given to [`load`](crate::load).
        file: Arc<str>,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
    },
    /// An environment variable.
    Environment {
        /// The variable's full name.
        variable: Arc<str>,
    },
    /// Nowhere. The built-in default applies.
    Default,
}

impl Origin {
    /// The whole of the file, or of a configuration that has no file.
    pub(crate) fn whole(file: Option<&Arc<str>>) -> Self {
        match file {
            Some(file) => Self::File { file: Arc::clone(file) },
            None => Self::Default,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file } => write!(out, "{file}"),
            Self::Position { file, line, column } => write!(out, "{file}:{line}:{column}"),
            Self::Environment { variable } => write!(out, "{variable}"),
            Self::Default => write!(out, "default"),
        }
    }
}

/// The file and the variables in one space of offsets.
pub(crate) struct Sources<'a> {
    file: Option<(Arc<str>, &'a str)>,
    line_starts: Vec<usize>,
    variables: Vec<(usize, Arc<str>)>,
    end: usize,
}

impl<'a> Sources<'a> {
    pub(crate) fn new(document: Option<Document<'a>>) -> Self {
        let text = document.map_or("", |document| document.text);
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1));
        Self {
            file: document.map(|document| (document.name.into(), document.text)),
            line_starts: line_starts.collect(),
            variables: Vec::new(),
            // A syntax error may be right after the last byte, so this offset belongs to the file too.
            end: text.len() + 1,
        }
    }

    pub(crate) fn file(&self) -> Option<Arc<str>> {
        self.file.as_ref().map(|(name, _)| Arc::clone(name))
    }

    /// Gives a variable the next free range.
    pub(crate) fn add_variable(&mut self, name: &str) -> Span {
        let start = self.end;
        self.variables.push((start, name.into()));
        self.end += 1;
        start..self.end
    }

    /// Whether a range lies in an environment variable.
    pub(crate) fn is_variable(&self, span: &Span) -> bool {
        *span != ROOT && self.variables.first().is_some_and(|(first, _)| span.start >= *first)
    }

    /// The lines of the file that a range touches, from 0. Empty for a range outside of the file.
    pub(crate) fn lines(&self, span: &Span) -> Range<usize> {
        if *span == ROOT || self.is_variable(span) {
            return 0..0;
        }
        let line = |offset| self.line_starts.partition_point(|start| *start <= offset);
        line(span.start) - 1..line(span.end.saturating_sub(1).max(span.start))
    }

    pub(crate) fn origin(&self, span: &Span) -> Origin {
        if *span == ROOT {
            return Origin::whole(self.file.as_ref().map(|(name, _)| name));
        }
        if let Some((_, name)) = self.variables.iter().rfind(|(start, _)| span.start >= *start) {
            return Origin::Environment { variable: Arc::clone(name) };
        }
        let Some((file, text)) = &self.file else {
            return Origin::Default;
        };
        let line = self.lines(span).start;
        let before = text.get(self.line_starts[line]..span.start).unwrap_or_default();
        // A byte order mark takes no column on the screen.
        let column = before.trim_start_matches('\u{feff}').chars().count() + 1;
        Origin::Position { file: Arc::clone(file), line: line + 1, column }
    }
}

/// The origin of every setting that was given.
#[derive(Debug)]
pub(crate) struct Origins {
    file: Option<Arc<str>>,
    given: BTreeMap<String, Origin>,
}

impl Origins {
    pub(crate) fn new(paths: &[(String, Span)], sources: &Sources<'_>) -> Self {
        let given = paths.iter().map(|(path, span)| (plain(path), sources.origin(span)));
        Self { file: sources.file(), given: given.collect() }
    }

    /// Where the setting at `path` was given.
    pub(crate) fn exact(&self, path: &str) -> Origin {
        self.given.get(&plain(path)).cloned().unwrap_or(Origin::Default)
    }

    /// Turns what validation found, if anything, into problems.
    pub(crate) fn refuse(&self, invalid: Vec<Invalid>) -> Result<(), Problems> {
        if invalid.is_empty() {
            return Ok(());
        }
        let problems = invalid.into_iter().map(|found| self.problem(found));
        Err(Problems::new(self.file.clone(), Vec::new(), problems.collect()))
    }

    pub(crate) fn problem(&self, found: Invalid) -> Problem {
        Problem { origin: self.nearest(&found.path), path: found.path, message: found.message }
    }

    /// The origin of the setting at `path`, else that of the nearest table around it.
    fn nearest(&self, path: &str) -> Origin {
        let path = plain(path);
        let mut rest = path.as_str();
        loop {
            if let Some(origin) = self.given.get(rest) {
                return origin.clone();
            }
            match rest.rfind(['.', '[']) {
                Some(end) => rest = &rest[..end],
                None => return Origin::whole(self.file.as_ref()),
            }
        }
    }
}

/// The path of `key` in the table at `parent`. The key is quoted if TOML demands it.
pub fn key_path(parent: &str, key: &str) -> String {
    let key = quoted_key(key);
    if parent.is_empty() { key } else { format!("{parent}.{key}") }
}

/// The path of the element `index`, from 0, of the array at `parent`.
pub fn item_path(parent: &str, index: usize) -> String {
    format!("{parent}[{index}]")
}

/// A key as TOML writes it.
pub(crate) fn quoted_key(key: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(is_bare) {
        return key.to_owned();
    }
    let escaped = key.chars().map(|c| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_control() => format!("\\u{:04X}", u32::from(c)),
        c => c.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

/// A path without quotes, so that it is found whether or not its keys were quoted.
pub(crate) fn plain(path: &str) -> String {
    path.replace('"', "")
}

/// The path and range of everything in a document, parents before children.
pub(crate) fn paths(table: &Table<'_>) -> Vec<(String, Span)> {
    let mut found = Vec::new();
    table_paths(table, "", &mut found);
    found
}

fn table_paths(table: &Table<'_>, path: &str, found: &mut Vec<(String, Span)>) {
    for (key, value) in table {
        let path = key_path(path, key.get_ref());
        // serde may name a key by the key's own range. The value's range comes second, because it is the one to show.
        found.push((path.clone(), key.span()));
        value_paths(value, path, found);
    }
}

fn value_paths(value: &Value<'_>, path: String, found: &mut Vec<(String, Span)>) {
    found.push((path.clone(), value.span()));
    match value.get_ref() {
        DeValue::Table(table) => table_paths(table, &path, found),
        DeValue::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                value_paths(item, item_path(&path, index), found);
            }
        }
        _ => {}
    }
}
