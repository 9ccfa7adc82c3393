//! The product as its users have it: the binary `headrace` on real servers.
//!
//! Each test has a directory and ports of its own; what they share is in `headrace_tests::product`. A
//! start costs about half a second, so that what does not disturb each other is asked of one process.

mod alerts;
mod away;
mod chains;
mod command_line;
mod edge;
mod examples;
mod first_event;
mod full;
mod hostile;
mod layering;
mod lifecycle;
mod logs;
mod passwords;
mod private;
mod recovery;
mod refusals;
mod roles;
mod stranger;
mod tls;
mod topology;

/// The binary under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_headrace");
