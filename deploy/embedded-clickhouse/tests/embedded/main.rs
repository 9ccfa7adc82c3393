//! The embedded ClickHouse as its clients see it, and as those who attack it do.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a test is its own supervisor")]

mod clients;
mod closed;
mod places;
mod process;
mod protocol;
mod support;
