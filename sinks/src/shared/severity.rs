//! The words of severities, in the configuration.

use headrace_schemas::event::Severity;

/// Every severity's word, from the least to the worst.
pub(crate) fn words() -> Vec<&'static str> {
    Severity::ALL.iter().copied().map(Severity::as_str).collect()
}
