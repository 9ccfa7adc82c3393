//! How many descriptors the process may have open: each connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Left to everything that is no connection: NATS, ClickHouse, receivers, files.
const RESERVED: u64 = 256;

/// How many connections the process can hold, after its limit was raised as far as it may raise it itself.
/// `None` means that nothing bounds them.
pub(super) fn connections_max() -> Option<usize> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Shells start programs with 1,024 for the sake of `select(2)`, which nothing here calls.
    let current = if limit.current != limit.maximum && setrlimit(Resource::Nofile, raised).is_ok() {
        limit.maximum
    } else {
        limit.current
    };
    current.map(|current| usize::try_from(current - RESERVED.min(current / 2)).unwrap_or(usize::MAX).max(1))
}
