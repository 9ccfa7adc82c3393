//! ClickHouse without a ClickHouse server: the engine is a library ([`engine`]) behind its own HTTP protocol
//! ([`front`]).
//!
//! The engine loads 566 MB, so it belongs in a process of its own. `headrace_local::clickhouse` starts and supervises
//! that process. `policy` and `access` say what clients may do. This crate must know nothing of Headrace.

mod access;
mod confine;
mod engine;
pub mod front;
mod memory;
mod policy;

pub use self::confine::{Confinement, confine};
pub use self::engine::EngineError;
