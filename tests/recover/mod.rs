//! The recovery of missed deliveries: the real binary, with a stand-in for GitHub that sends each delivery once.
//!
//! [`testbed`] starts GitHub and `up`, [`servers`] the roles as processes of their own. Intervals are seconds here, and
//! every wait is for a condition.

mod ailing;
mod forgotten;
mod missed;
mod roles;
mod servers;
mod testbed;

/// The binary under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_headrace");
