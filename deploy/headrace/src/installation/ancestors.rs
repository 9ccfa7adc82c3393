//! Whether another account could exchange a directory for one of its own, by renaming it or a directory above it.
//!
//! Everything below a data directory is opened by path, by us and by the servers, and the servers are started from the
//! cache, again whenever one has ended. So nobody else may decide what these paths lead to. `private.rs` closes the data
//! directory itself, and the installer checks the cache.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::Context as _;
use rustix::process::{getegid, geteuid};

const ROOT: u32 = 0;
/// The mode bits with which the group, and all others, may write.
const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
/// In a directory with this mode bit, such as /tmp, nobody renames what belongs to others.
const STICKY: u32 = 0o1000;

/// Says in the log when another account could exchange the directory `path`, which has no links. It is no refusal:
/// in a container such directories are common, and there are no other accounts.
///
/// # Errors
/// If a directory above it cannot be looked at.
pub(crate) fn warn_if_exchangeable(path: &Path, remedy: &str) -> anyhow::Result<()> {
    if let Some((above, why)) = exchangeable(path)? {
        tracing::warn!(
            path = %path.display(),
            above = %above.display(),
            "another account of this machine could exchange this directory for its own, because the one above it is \
             {why}; where others have accounts, choose {remedy} below a directory of your own"
        );
    }
    Ok(())
}

/// The same for the folder in the cache that has `program`.
///
/// # Errors
/// If it or a directory above it cannot be looked at.
pub(crate) fn warn_of_cache(program: &Path) -> anyhow::Result<()> {
    let program = program.canonicalize().with_context(|| format!("cannot look at {}", program.display()))?;
    warn_if_exchangeable(&program, "$HEADRACE_CACHE_DIR")
}

/// The first directory above `path`, from the top, in which others could rename what we use, and why.
fn exchangeable(path: &Path) -> anyhow::Result<Option<(&Path, String)>> {
    let mut us = Us { user: geteuid().as_raw(), group: getegid().as_raw(), top: ROOT };
    let from_top: Vec<&Path> = path.ancestors().skip(1).collect();
    for directory in from_top.into_iter().rev() {
        let found = directory.symlink_metadata().with_context(|| format!("cannot look at {}", directory.display()))?;
        if directory.parent().is_none() {
            us.top = found.uid();
        }
        let mode = found.permissions().mode() & 0o7777;
        if let Some(why) = us.exchangeable(found.uid(), found.gid(), mode) {
            return Ok(Some((directory, why)));
        }
    }
    Ok(None)
}

/// Whose directories we trust.
struct Us {
    user: u32,
    group: u32,
    /// The owner of `/`. It is root, but a user namespace may show root as another number.
    top: u32,
}

impl Us {
    /// Why others could rename what is in a directory with this owner, group and mode.
    fn exchangeable(&self, owner: u32, group: u32, mode: u32) -> Option<String> {
        if ![self.user, self.top, ROOT].contains(&owner) {
            return Some(format!("that of user id {owner}"));
        }
        // Where the umask is 002, the group of an account's own directories is a group of its own.
        let is_own_group = owner == self.user && group == self.group;
        let is_open = mode & OTHERS_WRITE != 0 || (mode & GROUP_WRITES != 0 && !is_own_group);
        (is_open && mode & STICKY == 0).then(|| format!("writable by other accounts (mode {mode:o}, group id {group})"))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::chown;

    use super::*;

    #[test]
    fn only_this_account_and_root_may_own_or_write_what_is_above() {
        let us = Us { user: 1_000, group: 1_000, top: ROOT };
        for (owner, group, mode, is_open) in [
            (1_000, 1_000, 0o755, false),
            (ROOT, ROOT, 0o755, false),
            (1_001, 1_000, 0o755, true),
            // The owner of a sticky directory may rename everything in it.
            (1_001, 1_001, 0o1777, true),
            (ROOT, ROOT, 0o1777, false),
            (ROOT, ROOT, 0o777, true),
            (1_000, 1_000, 0o757, true),
            // A home with the umask 002.
            (1_000, 1_000, 0o775, false),
            // A directory shared by a group.
            (1_000, 2_000, 0o2775, true),
            (ROOT, 1_000, 0o2775, true),
            (ROOT, 1_000, 0o3775, false),
        ] {
            let why = us.exchangeable(owner, group, mode);
            assert_eq!(why.is_some(), is_open, "{owner}:{group} {mode:o}: {why:?}");
        }
        let root = Us { user: ROOT, group: ROOT, top: ROOT };
        assert_eq!(root.exchangeable(ROOT, ROOT, 0o775), None);
        assert!(root.exchangeable(1_000, 1_000, 0o755).is_some(), "root runs in a directory of another account");
        let namespaced = Us { user: ROOT, group: ROOT, top: 65_534 };
        assert_eq!(namespaced.exchangeable(65_534, 65_534, 0o1777), None, "root outside the namespace");
    }

    #[test]
    fn the_directory_that_others_may_write_is_named_however_far_above() {
        let parent = tempfile::tempdir().unwrap();
        let open = parent.path().canonicalize().unwrap().join("open");
        let below = [open.join("data"), open.join("deep/data")];
        below.iter().for_each(|path| std::fs::create_dir_all(path).unwrap());
        let found = |path: &Path| exchangeable(path).unwrap().map(|(above, why)| (above.to_owned(), why));
        for (mode, is_named) in [(0o755, false), (0o777, true), (0o1777, false)] {
            std::fs::set_permissions(&open, Permissions::from_mode(mode)).unwrap();
            for path in &below {
                let named = found(path);
                assert_eq!(named.is_some(), is_named, "{mode:o} {}: {named:?}", path.display());
                assert!(named.is_none_or(|(above, why)| above == open && why.contains("mode 777")));
            }
            assert_eq!(found(&open), None, "only what is above it counts");
        }
        // Only root can give a directory away.
        if geteuid().is_root() {
            chown(&open, Some(65_534), None).unwrap();
            for path in &below {
                assert_eq!(found(path), Some((open.clone(), "that of user id 65534".to_owned())));
            }
        }
    }
}
