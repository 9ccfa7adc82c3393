//! The commands, one module each. Their arguments come from [`crate::cli`].

pub(crate) mod check;
pub(crate) mod clickhouse;
pub(crate) mod context;
pub(crate) mod dead;
pub(crate) mod gaps;
mod http;
pub(crate) mod query;
pub(crate) mod replay;
pub(crate) mod run;
pub(crate) mod send;
pub(crate) mod shell;
pub(crate) mod sinks;
pub(crate) mod sources;
mod target;
pub(crate) mod up;
