//! Keeps bodies, events and secrets from other accounts of this machine.
//!
//! The umask closes everything that this process and its children make. [`directory`] closes directories that existed
//! before. [`write()`] replaces files that others may read at any moment in one step. `kept.rs` reads them.
//! `ancestors.rs` looks at the directories above.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::Mode;
use rustix::process::{geteuid, umask};

use crate::installation::ancestors;

/// The mode bits of the group and all others.
const OTHERS: u32 = 0o077;
/// The mode bits with which they may write.
const WRITING: u32 = 0o022;
/// The mode of a file that only its owner may read.
const OWNER_ONLY: u32 = 0o600;
/// A new file system has this directory. It says nothing about whose the file system is.
const LOST_AND_FOUND: &str = "lost+found";
/// How many entries of a strange directory an error names.
const NAMED_MAX: usize = 3;

/// From now on, only this account may use new files of this process and its children. Call it before the first thread
/// exists.
pub(crate) fn close_new_files() {
    umask(Mode::RWXG | Mode::RWXO);
}

/// Makes the directory if it is absent, and closes it to all other accounts. Returns its path without links.
///
/// `is_known` gets the path and the entries of a directory that is not empty, and tells whether an earlier process like
/// this one made it.
///
/// # Errors
/// If the directory cannot be used, if it belongs to another account, which could read and replace everything in it, or
/// if it is for something else.
pub(crate) fn directory(path: &Path, is_known: impl FnOnce(&Path, &[OsString]) -> bool) -> anyhow::Result<PathBuf> {
    let problem = || format!("cannot use the directory {}", path.display());
    // The owner of a link decides where it leads.
    if let Ok(found) = path.symlink_metadata() {
        refuse_foreign(path, found.uid())?;
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(problem)?;
    let path = path.canonicalize().with_context(problem)?;
    // Check and close the directory by one handle, so that nobody can exchange it in between.
    let opened = File::open(&path).with_context(problem)?;
    let found = opened.metadata().with_context(problem)?;
    refuse_foreign(&path, found.uid())?;
    // Check this before the first change.
    refuse_strange(&path, is_known)?;
    ancestors::warn_if_exchangeable(&path, "a --data-dir")?;
    let mode = found.permissions().mode() & 0o7777;
    if mode & OTHERS != 0 {
        opened.set_permissions(Permissions::from_mode(mode & !OTHERS)).with_context(problem)?;
        if mode & WRITING != 0 {
            refuse_planted(&path, &path)?;
        }
        tracing::warn!(
            path = %path.display(),
            mode = format!("{mode:o}"),
            "this directory was open to other accounts of this machine and is closed now; what was in it they may have \
             read"
        );
    }
    Ok(path)
}

fn refuse_foreign(path: &Path, owner: u32) -> anyhow::Result<()> {
    let own = geteuid().as_raw();
    anyhow::ensure!(
        owner == own,
        "expected {} to belong to this account (user id {own}), found it to be that of user id {owner}, who could read \
         and replace whatever is kept there; name another directory, or hand this one over with `chown -R {own}`",
        path.display()
    );
    Ok(())
}

/// Refuses a directory that is neither empty nor `is_known`. Closing it would lock out its users, and our files would lie
/// among theirs.
fn refuse_strange(path: &Path, is_known: impl FnOnce(&Path, &[OsString]) -> bool) -> anyhow::Result<()> {
    let problem = || format!("cannot look through {}", path.display());
    let mut names: Vec<OsString> = Vec::new();
    for entry in std::fs::read_dir(path).with_context(problem)? {
        names.push(entry.with_context(problem)?.file_name());
    }
    names.retain(|name| name != LOST_AND_FOUND);
    if names.is_empty() || is_known(path, &names) {
        return Ok(());
    }
    names.sort_unstable();
    let named: Vec<String> = names.iter().take(NAMED_MAX).map(|name| format!("`{}`", name.display())).collect();
    anyhow::bail!(
        "expected an empty or absent directory, or that of an earlier start, found {} with entries such as {}; name \
         another --data-dir",
        path.display(),
        named.join(", ")
    );
}

/// Refuses files of another account below `path`. They may be from the time when the directory `open` was open to
/// others: a password of their choice, or a link to a file that they want overwritten.
fn refuse_planted(open: &Path, path: &Path) -> anyhow::Result<()> {
    let problem = || format!("cannot look through {}", path.display());
    let own = geteuid().as_raw();
    for entry in std::fs::read_dir(path).with_context(problem)? {
        let entry = entry.with_context(problem)?;
        // For a link, this is the metadata of the link itself.
        let found = entry.metadata().with_context(problem)?;
        anyhow::ensure!(
            found.uid() == own,
            "expected everything in {} to belong to this account (user id {own}), because other accounts could write there \
             until now, found {} of user id {}; remove it if you do not know it, or hand it over with `chown -h {own}`, or name \
             another directory",
            open.display(),
            entry.path().display(),
            found.uid()
        );
        if found.is_dir() {
            refuse_planted(open, &entry.path())?;
        }
    }
    Ok(())
}

/// Writes a file that only its owner may read, in one step. A reader sees either the old file or all of the new one.
///
/// # Errors
/// If its directory cannot be written to.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    write_with_mode(path, bytes, OWNER_ONLY)
}

/// Writes a file with these mode bits as [`write()`] does. It follows no link, neither at `path` nor at the name under
/// which the file is made.
///
/// # Errors
/// If its directory cannot be written to.
pub(crate) fn write_with_mode(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().context("it has no file name")?.to_string_lossy();
    let staged = directory.join(format!(".{name}.{}", std::process::id()));
    // Remove what an earlier process with this id left. If it is another account's file, the next step fails.
    let _ = std::fs::remove_file(&staged);
    let mut file = create_new(&staged).with_context(|| format!("cannot make {}", staged.display()))?;
    let written = file
        .write_all(bytes)
        .and_then(|()| file.set_permissions(Permissions::from_mode(mode)))
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&staged, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&staged);
    }
    Ok(written?)
}

/// Makes a new file and never opens an existing one. In a directory where others may write, that could be a link of
/// theirs.
fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().create_new(true).write(true).mode(OWNER_ONLY).open(path)
}

/// Removes a file. An absent file is no error.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// As [`super::directory`], for a directory that may hold anything.
    fn directory(path: &Path) -> anyhow::Result<PathBuf> {
        super::directory(path, |_, _| true)
    }

    fn mode(path: &Path) -> u32 {
        path.symlink_metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_directory_is_closed_whether_it_is_new_or_old() {
        let parent = tempfile::tempdir().unwrap();
        let (new, old) = (parent.path().join("a/new"), parent.path().join("old"));
        std::fs::create_dir(&old).unwrap();
        std::fs::set_permissions(&old, Permissions::from_mode(0o755)).unwrap();
        for path in [&new, &old] {
            directory(path).unwrap();
            assert_eq!(mode(path), 0o700, "{}", path.display());
        }
    }

    #[test]
    fn a_directory_of_something_else_is_left_as_it_is() {
        let parent = tempfile::tempdir().unwrap();
        let data = parent.path().join("data");
        std::fs::create_dir_all(data.join("lost+found")).unwrap();
        let open = || std::fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
        open();
        super::directory(&data, |_, names| panic!("{names:?} is as good as nothing")).unwrap();
        open();
        for name in ["b", "a", "d", "c"] {
            std::fs::write(data.join(name), "theirs").unwrap();
        }
        let refused = super::directory(&data, |_, names| names.len() != 4).unwrap_err().to_string();
        assert!(refused.contains("entries such as `a`, `b`, `c`; name another --data-dir"), "{refused}");
        assert_eq!(mode(&data), 0o755);
        super::directory(&data, |_, names| names.len() == 4).unwrap();
        assert_eq!(mode(&data), 0o700);
    }

    #[test]
    fn what_another_account_has_put_into_an_open_directory_is_refused() {
        // Only root can make a file that belongs to another account.
        if !geteuid().is_root() {
            return;
        }
        let parent = tempfile::tempdir().unwrap();
        for (name, mode, is_refused) in [("open", 0o777, true), ("group", 0o775, true), ("closed", 0o755, false)] {
            let data = parent.path().join(name);
            std::fs::create_dir_all(data.join("deep")).unwrap();
            std::fs::set_permissions(&data, Permissions::from_mode(mode)).unwrap();
            directory(&data).unwrap();
            std::fs::set_permissions(&data, Permissions::from_mode(mode)).unwrap();
            symlink("/nowhere", data.join("deep/lock")).unwrap();
            std::os::unix::fs::lchown(data.join("deep/lock"), Some(12_345), None).unwrap();
            let refused = directory(&data).err().map(|error| error.to_string());
            assert_eq!(refused.is_some(), is_refused, "{name}: {refused:?}");
            assert!(refused.is_none_or(|text| text.contains("deep/lock of user id 12345")));
        }
    }

    #[test]
    fn what_belongs_to_another_account_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let (foreign, link) = (parent.path().join("foreign"), parent.path().join("link"));
        // Only root can change owners. Other accounts use a directory of root's.
        let foreign = if geteuid().is_root() {
            std::fs::create_dir(&foreign).unwrap();
            std::os::unix::fs::chown(&foreign, Some(12_345), None).unwrap();
            foreign
        } else {
            PathBuf::from("/usr")
        };
        symlink(&foreign, &link).unwrap();
        for path in [&foreign, &link] {
            let refused = directory(path).unwrap_err().to_string();
            assert!(refused.contains("to belong to this account") && refused.contains("chown -R"), "{refused}");
        }
    }

    #[test]
    fn a_link_in_the_place_of_a_file_is_replaced_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("ready.json"), dir.path().join("victim"));
        std::fs::write(&victim, "untouched").unwrap();
        let staged = dir.path().join(format!(".ready.json.{}", std::process::id()));
        for planted in [&path, &staged] {
            symlink(&victim, planted).unwrap();
            write(&path, b"secret").unwrap();
            assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
            assert_eq!((std::fs::read_to_string(&path).unwrap().as_str(), mode(&path)), ("secret", 0o600));
        }
    }
}
