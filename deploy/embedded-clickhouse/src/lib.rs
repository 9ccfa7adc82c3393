//! ClickHouse without a ClickHouse server: the engine as a library ([`engine`]) behind its own HTTP protocol
//! ([`front`]).
//!
//! It loads 566 MB, so that it belongs into a process of its own; `headrace_local::clickhouse` starts and supervises
//! one. What clients may do there is said in `policy` and `access`. This crate knows nothing of Headrace.

mod access;
mod confine;
mod engine;
pub mod front;
mod memory;
mod policy;

pub use self::confine::{Confinement, confine};
pub use self::engine::EngineError;
