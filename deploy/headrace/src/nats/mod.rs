//! The users of NATS with their rights, and the connections of a process.

pub(crate) mod connections;
pub mod users;
