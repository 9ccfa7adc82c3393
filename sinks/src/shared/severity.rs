//! The setting `min_severity`, which several sinks have.

use headrace_schemas::event::Severity;
use schemars::{Schema, SchemaGenerator, json_schema};

/// Every severity's word, from the least to the worst.
pub(crate) fn words() -> Vec<&'static str> {
    std::iter::once(Severity::None).chain(Severity::MATCHED).map(Severity::as_str).collect()
}

/// The schema of a severity in the configuration: one of its words.
pub(crate) fn schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": words() })
}
