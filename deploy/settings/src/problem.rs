//! The problems of a configuration, as a person reads them: all at once.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::origin::{Origin, Sources, Span};

/// The most problems that are shown. More than a screen of them usually have one cause, such as a file that is no TOML.
const SHOWN_MAX: usize = 50;

/// One thing to correct in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where to correct it.
    pub origin: Origin,
    /// The setting. Empty when the text is no TOML.
    pub path: String,
    /// What is wrong and what is expected.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Default => write!(out, "configuration: ")?,
            origin => write!(out, "{origin}: ")?,
        }
        if !self.path.is_empty() {
            write!(out, "{}: ", self.path)?;
        }
        write!(out, "{}", self.message)
    }
}

/// Every problem of a configuration. Those of its form come first, because those of its values may follow from them.
/// Both are in the order of their positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    file: Option<Arc<str>>,
    problems: Vec<Problem>,
}

impl Problems {
    pub(crate) fn new(file: Option<Arc<str>>, form: Vec<Problem>, values: Vec<Problem>) -> Self {
        let sorted = |mut problems: Vec<Problem>| {
            problems.sort_by(|a, b| (&a.origin, &a.path).cmp(&(&b.origin, &b.path)));
            problems
        };
        Self { file, problems: [sorted(form), sorted(values)].concat() }
    }

    /// The problems in the order in which they are shown.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter()
    }

    fn place(&self) -> String {
        let in_environment = |problem: &Problem| matches!(problem.origin, Origin::Environment { .. });
        let any = self.problems.iter().any(in_environment);
        let all = self.problems.iter().all(in_environment);
        match &self.file {
            _ if all => "the environment".to_owned(),
            Some(file) if any => format!("{file} and the environment"),
            Some(file) => file.to_string(),
            None if any => "the configuration and the environment".to_owned(),
            None => "the configuration".to_owned(),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in self.problems.iter().take(SHOWN_MAX) {
            writeln!(out, "{problem}")?;
        }
        if let Some(more @ 1..) = self.problems.len().checked_sub(SHOWN_MAX) {
            writeln!(out, "… and {more} more")?;
        }
        let noun = if self.problems.len() == 1 { "problem" } else { "problems" };
        write!(out, "{} {noun} in {}", self.problems.len(), self.place())
    }
}

impl std::error::Error for Problems {}

/// A problem whose origin is still a range of offsets.
pub(crate) struct Finding {
    pub(crate) span: Span,
    path: String,
    message: String,
    pub(crate) cause: Cause,
    /// The setting that was probably meant. Its value is therefore unknown.
    meant: Option<String>,
}

/// Whether something written is wrong, or something is missing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    Written,
    Missing,
}

impl Finding {
    pub(crate) fn new(span: Span, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { span, path: path.into(), message: message.into(), cause: Cause::Written, meant: None }
    }

    pub(crate) fn missing(span: Span, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { cause: Cause::Missing, ..Self::new(span, path, message) }
    }

    /// Notes which setting was probably meant.
    pub(crate) fn meaning(self, path: String) -> Self {
        Self { meant: Some(path), ..self }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn meant(&self) -> Option<&str> {
        self.meant.as_deref()
    }

    /// Whether a problem at `path` may follow from this one: `path` is the same setting, one in it, or one around it.
    pub(crate) fn explains(&self, path: &str) -> bool {
        [Some(&self.path), self.meant.as_ref()].into_iter().flatten().any(|known| touches(known, path))
    }

    pub(crate) fn at(self, sources: &Sources<'_>) -> Problem {
        Problem { origin: sources.origin(&self.span), path: self.path, message: self.message }
    }
}

/// Drops each missing key that was given under a wrong name.
pub(crate) fn without_consequences(mut findings: Vec<Finding>) -> Vec<Finding> {
    let meant: BTreeSet<String> = findings.iter().filter_map(|finding| finding.meant.clone()).collect();
    findings.retain(|finding| finding.cause == Cause::Written || !meant.contains(&finding.path));
    findings
}

/// Whether two paths are equal, or one is within the other.
fn touches(known: &str, found: &str) -> bool {
    let within = |outer: &str, inner: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    !known.is_empty() && (within(known, found) || within(found, known))
}
