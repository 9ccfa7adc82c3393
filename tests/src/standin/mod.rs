//! Strict stand-ins for receivers. They follow the published protocol, refuse what the real receivers refuse, record
//! what they receive, and fail on command.
//!
//! [`server`] is what they share. A stand-in proves that a sink follows the published protocol. It cannot prove that
//! the real receiver does.

pub mod clickhouse;
pub mod github;
pub mod jira;
pub mod s3;
pub mod server;
pub mod splunk;
