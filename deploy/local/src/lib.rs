//! Real servers on this machine, for `headrace up`, tests and benches: installed by pinned version into a cache, started
//! as child processes that never outlive their parent, restarted when they die.
//! This crate knows nothing of Headrace and writes nothing to stdout. Start with [`install`], then [`nats`] and
//! [`clickhouse`]; [`child`] is what both run on.

pub mod child;
pub mod clickhouse;
pub mod install;
pub mod nats;
mod net;
pub mod poll;
mod start;

pub use self::net::{free_port, listener_on};
pub use self::start::StartError;
