//! Real servers on this machine, for `headrace up`, tests and benches. Pinned versions are installed into a cache. The
//! servers run as child processes that never outlive their parent, and are restarted when they die.
//!
//! This crate must know nothing of Headrace and write nothing to stdout. Start with [`install`], then [`nats`] and
//! [`clickhouse`]. Both run on [`child`].

pub mod child;
pub mod clickhouse;
pub mod install;
pub mod nats;
mod net;
pub mod poll;
mod start;

pub use self::net::{free_port, listener_on};
pub use self::start::StartError;
