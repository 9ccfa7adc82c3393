//! Who connects to NATS with which rights, and the connections of a process.

pub(crate) mod connections;
pub mod users;
