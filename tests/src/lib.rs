//! What the tests of all crates share.
//!
//! [`harness`] starts real servers and makes sample messages. [`standin`] follows the published protocols of receivers
//! that we cannot run here, and fails on command. [`conformance`] holds the suites that every sink and every stage
//! runs. Nothing here may sleep to wait: it polls conditions with a long ceiling, see [`headrace_local::poll`].

pub mod conformance;
pub mod examples;
pub mod faults;
pub mod harness;
pub mod product;
pub mod standin;
