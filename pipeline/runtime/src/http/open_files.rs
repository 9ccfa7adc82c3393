//! How many descriptors the process may have open. Each connection takes one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors left for everything else: NATS, ClickHouse, receivers, files.
const RESERVED: u64 = 256;

/// How many connections the process can hold. Raises the limit first, as far as the process may. `None` means that
/// nothing bounds them.
pub(super) fn connections_max() -> Option<usize> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Shells start programs with a limit of 1,024 for the sake of `select(2)`, which nothing here calls.
    let current = if limit.current != limit.maximum && setrlimit(Resource::Nofile, raised).is_ok() {
        limit.maximum
    } else {
        limit.current
    };
    current.map(|current| usize::try_from(current - RESERVED.min(current / 2)).unwrap_or(usize::MAX).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_as_far_as_it_may_be() {
        let maximum = getrlimit(Resource::Nofile).maximum;
        // No lower than this, for the sake of the tests beside it.
        let lowered = maximum.map_or(65_536, |maximum| maximum - 1);
        setrlimit(Resource::Nofile, Rlimit { current: Some(lowered), maximum }).unwrap();
        let possible = connections_max();
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
        assert_eq!(possible.map(|possible| possible as u64 + RESERVED), maximum);
    }
}
