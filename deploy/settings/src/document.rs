//! Parses the TOML text as far as possible, so that one syntax error does not hide other problems.

use std::collections::BTreeSet;

use toml::de::DeTable;

use crate::Table;
use crate::origin::Sources;
use crate::problem::{Cause, Finding};

/// Parses a document, with a finding for each syntax error.
pub(crate) fn parse(text: &str) -> (Table<'_>, Vec<Finding>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    let findings = errors.into_iter().map(|error| {
        let span = error.span().unwrap_or(text.len()..text.len());
        Finding::new(span, "", format!("not valid TOML: {}", error.message()))
    });
    (table.into_inner(), findings.collect())
}

/// Joins the syntax errors with the findings of the checks, without those that may only follow from a syntax error.
///
/// After a syntax error the parser guesses. So it may be the cause of later errors on the same line, of findings on that
/// line, and of missing keys.
pub(crate) fn without_echoes(
    mut findings: Vec<Finding>,
    mut broken: Vec<Finding>,
    sources: &Sources<'_>,
) -> Vec<Finding> {
    if broken.is_empty() {
        return findings;
    }
    // Of a line's errors the parser reports the cause first, even if another is further left.
    let mut lines = BTreeSet::new();
    broken.retain(|finding| lines.insert(sources.lines(&finding.span).start));
    findings.retain(|finding| {
        let touched = sources.lines(&finding.span);
        finding.cause == Cause::Written && !lines.iter().any(|line| touched.contains(line))
    });
    findings.append(&mut broken);
    findings
}
