//! Permanently takes away what a ClickHouse server does not need: other people's files, connections to other machines,
//! other programs. This layer protects even if the statement policy fails. It uses Landlock, and a thread inherits its
//! restrictions only from the thread that started it. So this code must run before any other thread exists.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus, make_bitflags, path_beneath_rules,
};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};

/// What the engine reads besides its data: libraries, time zones, host names, and the kernel's facts about the machine
/// and this process.
const READ: [&str; 19] = [
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/share/zoneinfo",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/resolv.conf",
    "/proc/self",
    "/proc/meminfo",
    "/proc/cpuinfo",
    "/proc/stat",
    "/proc/loadavg",
    "/proc/uptime",
    "/sys/fs/cgroup",
    "/sys/devices/system",
];
/// Devices that store nothing.
const DEVICES: [&str; 4] = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"];

/// How much of the confinement the kernel enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confinement {
    /// Files and connections.
    Full,
    /// An older kernel: files, but not all connections.
    Partial,
    /// A kernel without Landlock, or with its first version. The statement policy alone protects files.
    None,
}

/// Confines this process to `data_dir`, and makes that directory if it is absent. Call it once, before any other thread
/// exists and after all other files were read. Files that the process makes afterwards are readable only by its own
/// user.
///
/// # Errors
/// When the directory cannot be made. A kernel without Landlock is no error: the log says so.
pub fn confine(data_dir: &Path, library: &Path) -> io::Result<Confinement> {
    umask(Mode::from_raw_mode(0o077));
    raise_open_files();
    fs::create_dir_all(data_dir)?;
    let confinement = restrict(data_dir, library).map_err(io::Error::other)?;
    if confinement != Confinement::Full {
        tracing::warn!(
            ?confinement,
            "this kernel does not confine ClickHouse to its directory (Landlock); only the statement policy keeps it there"
        );
    }
    Ok(confinement)
}

fn restrict(data_dir: &Path, library: &Path) -> Result<Confinement, RulesetError> {
    let abi = ABI::V4;
    let read: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let own = AccessFs::from_all(abi) & !AccessFs::Execute;
    let readable = READ.into_iter().map(PathBuf::from).chain([library.to_owned()]);
    let status = Ruleset::default()
        // The engine links and moves files between directories. Landlock's first version forbids both, so on such a
        // kernel we do not use Landlock at all.
        .set_compatibility(CompatLevel::SoftRequirement)
        .handle_access(AccessFs::Refer)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::ConnectTcp)?
        .create()?
        .add_rules(path_beneath_rules(readable, read))?
        .add_rules(path_beneath_rules(DEVICES, make_bitflags!(AccessFs::{ReadFile | WriteFile})))?
        .add_rules(path_beneath_rules([data_dir], own))?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Confinement::Full,
        RulesetStatus::PartiallyEnforced => Confinement::Partial,
        RulesetStatus::NotEnforced => Confinement::None,
    })
}

/// Connections and the parts of tables take descriptors. The soft limit is often only 1,024, and a program may raise
/// its own.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // If the system refuses, we go on with the old limit. An insert that then finds no descriptor fails on its own.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
