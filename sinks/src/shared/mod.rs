//! What several sinks use.

pub(crate) mod http;
pub(crate) mod severity;
