//! How much memory this process may have: the least of what the machine has and what was granted of it.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

/// Where control groups are.
const GROUPS: &str = "/sys/fs/cgroup";

/// The most memory that this process may have, in bytes. `None` where nothing says it.
#[must_use]
pub fn limit() -> Option<usize> {
    let groups = read_to_string("/proc/self/cgroup").map(|text| group_files(&text)).unwrap_or_default();
    let of_groups = groups.iter().filter_map(|file| read_to_string(file).ok()?.trim().parse::<u64>().ok());
    let of_machine = read_to_string("/proc/meminfo").ok().and_then(|text| machine(&text));
    let of_process = [Resource::Data, Resource::As].into_iter().filter_map(|resource| getrlimit(resource).current);
    let least = of_groups.chain(of_machine).chain(of_process).min()?;
    Some(usize::try_from(least).unwrap_or(usize::MAX))
}

/// The files that may hold a limit for a process in the control groups `told`, as `/proc/<pid>/cgroup` tells them. Each
/// group may have one, up to the root. In a container the root is the container's own group. A file that is not there, or
/// says `max`, limits nothing.
fn group_files(told: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in told.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => (Path::new(GROUPS).to_path_buf(), "memory.max"),
            "memory" => (Path::new(GROUPS).join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        let groups = Path::new(group.trim_start_matches('/')).ancestors();
        files.extend(groups.map(|group| root.join(group).join(file)));
    }
    files
}

/// The machine's memory, as `/proc/meminfo` tells it.
fn machine(told: &str) -> Option<u64> {
    let kib = told.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix(" kB")?;
    Some(kib.parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_up_to_the_root_may_have_a_limit() {
        let files =
            |told: &str| -> Vec<String> { group_files(told).iter().map(|file| file.display().to_string()).collect() };
        assert_eq!(
            files("0::/system.slice/headrace.service\n"),
            [
                "/sys/fs/cgroup/system.slice/headrace.service/memory.max",
                "/sys/fs/cgroup/system.slice/memory.max",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        assert_eq!(
            files("9:cpu:/a\n4:memory:/a:b\n0::/"),
            [
                "/sys/fs/cgroup/memory/a:b/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        assert_eq!(files("nonsense"), [""; 0]);
    }

    #[test]
    fn the_machine_tells_its_memory() {
        assert_eq!(machine("MemTotal:       24684000 kB\nMemFree: 1 kB\n"), Some(24_684_000 << 10));
        assert_eq!(machine("MemFree: 1 kB\n"), None);
        assert!(limit().is_some_and(|bytes| bytes > 1 << 20), "this machine has memory");
    }
}
