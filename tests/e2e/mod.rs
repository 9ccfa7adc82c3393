//! The product as its users have it: the binary `headrace` on real servers.
//!
//! Each test has a directory and ports of its own. The code that they share is in `headrace_tests::product`. A start
//! costs about half a second, so checks that do not disturb each other use one process.

mod addressed;
mod alerts;
mod aside;
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
mod memory;
mod ndjson;
mod passwords;
mod private;
mod recovery;
mod refusals;
mod roles;
mod sinks;
mod stranger;
mod tls;
mod topology;

use headrace_tests::product::process::Launch;
use tempfile::TempDir;

/// The binary under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_headrace");

/// `up` with short limits and the top-level settings `more`. Suspects, and the messages of a process that was killed,
/// wait for these limits.
fn with_short_limits(dir: &TempDir, more: &str) -> Launch {
    let config = dir.path().join("headrace.toml");
    let text = format!(
        "nats.clock_skew_ms = 100\n{more}\n\
         sinks.clickhouse = {{ linger_ms = 50, insert_timeout_s = 1, clock_skew_ms = 200 }}\n\
         sinks.file = {{ dir = '{}', timeout_ms = 1000 }}\n",
        dir.path().join("out").display()
    );
    std::fs::write(&config, text).unwrap();
    Launch::up(PROGRAM, dir.path()).argument("--config").argument(config)
}
