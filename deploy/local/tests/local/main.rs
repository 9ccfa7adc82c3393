//! Servers on this machine: installed, started, kept running.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a test is its own supervisor")]

mod install;
mod nats;
mod support;
