//! Strict stand-ins for receivers: they follow the published protocol, refuse what the real ones
//! refuse, record what they receive, and fail on command.
//!
//! [`server`] is what they share. A stand-in proves that a sink follows the published protocol, not
//! that the real receiver does.

pub mod clickhouse;
pub mod github;
pub mod jira;
pub mod server;
pub mod splunk;
