//! The TOML text: parsed as far as it goes, so that one typing error does not hide the others.

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

/// Joins syntax errors with what the checks found, without the echoes of a syntax error.
///
/// The parser recovers by guessing: later errors of a line, and anything found on a line it guessed
/// at or missing from the document, may be its invention.
pub(crate) fn screen(mut findings: Vec<Finding>, mut broken: Vec<Finding>, sources: &Sources<'_>) -> Vec<Finding> {
    if broken.is_empty() {
        return findings;
    }
    // The parser reports the cause of a line's errors first, though its echo may stand further left.
    let mut lines = BTreeSet::new();
    broken.retain(|finding| lines.insert(sources.lines(&finding.span).start));
    findings.retain(|finding| {
        let touched = sources.lines(&finding.span);
        finding.cause == Cause::Written && !lines.iter().any(|line| touched.contains(line))
    });
    findings.append(&mut broken);
    findings
}
