//! The embedded ClickHouse, as its clients and its attackers see it.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a test is its own supervisor")]

mod attacks;
mod bounds;
mod clients;
mod closed;
mod places;
mod process;
mod protocol;
mod support;
