//! Decides how much memory the engine may take: a share of the machine's memory, or of its control group's limit.

use std::fs;
use std::path::{Path, PathBuf};

/// The engine's own default is 0.9 of the machine. Headrace and the broker run there too, so it gets less.
const SHARE: f64 = 0.5;
/// The most that one statement may take, in bytes, on a large machine.
const STATEMENT_BYTES_MAX: u64 = 4 << 30;
/// The memory that we assume if the system does not say how much the machine has, in bytes.
const UNKNOWN_BYTES: u64 = 4 << 30;
/// The least memory with which the engine starts, in bytes.
pub(super) const BYTES_MIN: u64 = 256 << 20;

/// Bounds, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    /// For all statements, caches and merges together.
    pub(super) all_bytes: u64,
    /// For one statement: at most half of all, so that one statement leaves memory for the others.
    pub(super) statement_bytes: u64,
    /// For one statement of the user `reader`. Together, all that may run at once take at most half of the memory.
    pub(super) read_bytes: u64,
}

impl Memory {
    /// The bounds: as configured, else a share of the machine's memory. `reads_max` statements of the user `reader` may
    /// run at once.
    pub(super) fn new(configured: Option<u64>, reads_max: usize) -> Self {
        let all_bytes = configured.unwrap_or_else(|| (machine_bytes() as f64 * SHARE) as u64).max(BYTES_MIN);
        let statement_bytes = (all_bytes / 2).min(STATEMENT_BYTES_MAX);
        Self { all_bytes, statement_bytes, read_bytes: (all_bytes / 2 / reads_max.max(1) as u64).min(statement_bytes) }
    }
}

fn machine_bytes() -> u64 {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = limit_files(&own).into_iter().filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    limits.chain(total_bytes()).min().unwrap_or(UNKNOWN_BYTES)
}

/// The limit files of the control group that `own` names, and of all groups around it. `own` is the text of
/// `/proc/self/cgroup`.
fn limit_files(own: &str) -> Vec<PathBuf> {
    let group = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let groups = Path::new(group).ancestors().map(|group| Path::new("/sys/fs/cgroup").join(group).join("memory.max"));
    groups.chain([PathBuf::from("/sys/fs/cgroup/memory/memory.limit_in_bytes")]).collect()
}

fn total_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"))?;
    Some(kib.parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::{BYTES_MIN, Memory, STATEMENT_BYTES_MAX, limit_files};

    #[test]
    fn every_group_around_the_own_one_may_have_a_limit() {
        let of = |own| limit_files(own).iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        let expected = [
            "/sys/fs/cgroup/system.slice/a.service/memory.max",
            "/sys/fs/cgroup/system.slice/memory.max",
            "/sys/fs/cgroup/memory.max",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        ];
        assert_eq!(of("12:cpu:/x\n0::/system.slice/a.service\n"), expected);
        assert_eq!(of(""), expected[2..]);
    }

    #[test]
    fn one_statement_gets_half_and_never_more_than_its_bound() {
        let of = |all: u64| Memory::new(Some(all), 8).statement_bytes;
        assert_eq!((of(1 << 30), of(64 << 30)), (1 << 29, STATEMENT_BYTES_MAX));
        assert_eq!(Memory::new(Some(1), 8).all_bytes, BYTES_MIN);
        assert_eq!(Memory::new(Some(16 << 30), 8).read_bytes, 1 << 30);
        let own = Memory::new(None, 8);
        assert!(own.statement_bytes <= own.all_bytes / 2 && own.all_bytes >= BYTES_MIN);
    }
}
