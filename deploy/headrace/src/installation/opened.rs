//! Opens files that decide where secrets are sent, and refuses those that another account could have put there.
//!
//! Every check is made on the handle that is read, so nothing can take the file's place in between. A link is followed
//! only after its owner was checked. `kept.rs`, `contexts.rs` and `locate.rs` say whose files they take.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat};

/// The mode bits with which the group and all others may write.
pub(crate) const OTHERS_WRITE: u32 = 0o022;
/// The mode bit with which all others may write.
pub(crate) const ALL_WRITE: u32 = 0o002;
/// The longest chain of links, as in Linux itself.
const LINKS_MAX: usize = 40;

/// What is trusted.
pub(crate) struct Trust<'a> {
    /// Refuses what belongs to an account that is not trusted, by its path and the account's user id.
    pub(crate) owner: &'a dyn Fn(&Path, u32) -> anyhow::Result<()>,
    /// Mode bits that must not be set.
    pub(crate) closed: u32,
}

impl Trust<'_> {
    fn check(&self, path: &Path, found: &Metadata) -> anyhow::Result<()> {
        (self.owner)(path, found.uid())?;
        let mode = found.permissions().mode() & 0o7777;
        let writers = if self.closed == ALL_WRITE { "its owner and group" } else { "its owner" };
        anyhow::ensure!(
            mode & self.closed == 0,
            "expected {} to be writable by {writers} alone, found the mode {mode:o}: other accounts could say which \
             files are read as secrets and where they are sent; look at what is in it, then close it with `chmod go-w`",
            path.display()
        );
        Ok(())
    }
}

/// Opens the directory `path`, for [`file_in`]. `None` when there is none.
///
/// # Errors
/// When it is not trusted or cannot be opened.
pub(crate) fn directory(path: &Path, trust: &Trust<'_>) -> anyhow::Result<Option<File>> {
    let Some(Place { handle, .. }) = find(path, trust)? else { return Ok(None) };
    trust.check(path, &handle.metadata().with_context(|| format!("cannot read {}", path.display()))?)?;
    Ok(Some(handle))
}

/// Opens the file `name` of a directory and does not follow a link. `path` names the file in errors. `None` when there
/// is none.
///
/// # Errors
/// When it is not trusted, is no regular file or cannot be opened.
pub(crate) fn file_in(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    path: &Path,
    trust: &Trust<'_>,
) -> anyhow::Result<Option<File>> {
    let problem = || format!("cannot read {}", path.display());
    // Without NONBLOCK, opening a pipe would wait for somebody who writes to it.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = openat(directory, name, flags, Mode::empty());
    let Some(file) = there(opened).with_context(problem)? else { return Ok(None) };
    let found = file.metadata().with_context(problem)?;
    trust.check(path, &found)?;
    anyhow::ensure!(
        found.is_file(),
        "expected a regular file at {}, found something else; move it away",
        path.display()
    );
    Ok(Some(file))
}

/// Reads the file `path`, through links whose owners are trusted. `None` when there is none.
///
/// # Errors
/// Those of [`file_in`], and when it is no text.
pub(crate) fn read_to_string(path: &Path, trust: &Trust<'_>) -> anyhow::Result<Option<String>> {
    let Some(Place { parent, name, .. }) = find(path, trust)? else { return Ok(None) };
    let Some(mut file) = file_in(parent.as_fd(), &name, path, trust)? else { return Ok(None) };
    let mut text = String::new();
    file.read_to_string(&mut text).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Some(text))
}

/// Where something is that is no link.
struct Place {
    parent: OwnedFd,
    name: OsString,
    /// It can be looked at, and a directory can be looked into. It cannot be read.
    handle: File,
}

/// Finds what `path` leads to. It checks the owners of the links and of what the last one leads to.
fn find(path: &Path, trust: &Trust<'_>) -> anyhow::Result<Option<Place>> {
    let problem = || format!("cannot read {}", path.display());
    let (mut from, mut path_from): (Option<OwnedFd>, PathBuf) = (None, path.to_owned());
    for _ in 0..=LINKS_MAX {
        let (parent, name) = split(&path_from);
        let from_fd = from.as_ref().map_or(CWD, OwnedFd::as_fd);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Some(parent) = there(openat(from_fd, parent, flags, Mode::empty())).with_context(problem)? else {
            return Ok(None);
        };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Some(handle) = there(openat(&parent, name, flags, Mode::empty())).with_context(problem)? else {
            return Ok(None);
        };
        let found = handle.metadata().with_context(problem)?;
        // Whoever owns a link decides where it leads.
        (trust.owner)(path, found.uid())?;
        let parent = OwnedFd::from(parent);
        if !found.is_symlink() {
            return Ok(Some(Place { parent, name: name.to_owned(), handle }));
        }
        // An empty name means the handle's own link.
        let target = readlinkat(&handle, "", Vec::<u8>::new()).map_err(io::Error::from).with_context(problem)?;
        // A relative link begins at its own directory.
        (from, path_from) = (Some(parent), PathBuf::from(OsString::from_vec(target.into_bytes())));
    }
    anyhow::bail!("expected {} to lead somewhere, found a chain of more than {LINKS_MAX} links", path.display())
}

/// The directory of `path`, and the name there.
fn split(path: &Path) -> (&Path, &OsStr) {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if parent.as_os_str().is_empty() => (Path::new("."), name),
        (Some(parent), Some(name)) => (parent, name),
        // `.`, `..` and `/` are no links.
        _ => (path, OsStr::new(".")),
    }
}

/// `None` when nothing is there. Any other failure may hide a file, so it is an error.
fn there(opened: rustix::io::Result<OwnedFd>) -> io::Result<Option<File>> {
    match opened.map_err(io::Error::from) {
        Ok(handle) => Ok(Some(File::from(handle))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::symlink;

    use rustix::fs::mkfifoat;

    use super::*;

    /// What is read, or why not. Any owner is trusted.
    fn read(path: &Path) -> Result<Option<String>, String> {
        let trust = Trust { owner: &|_, _| Ok(()), closed: OTHERS_WRITE };
        read_to_string(path, &trust).map_err(|error| format!("{error:#}"))
    }

    fn write(path: &Path, mode: u32) {
        std::fs::write(path, "kept").unwrap();
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn links_are_followed_to_a_file_and_nothing_else_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("deep")).unwrap();
        std::fs::set_permissions(at("deep"), Permissions::from_mode(0o700)).unwrap();
        write(&at("deep/file"), 0o600);
        for (name, target) in
            [("deep/next", "file"), ("first", "deep/next"), ("whole", at("first").to_str().unwrap()), ("loop", "loop")]
        {
            symlink(target, at(name)).unwrap();
        }
        for name in ["deep/file", "deep/next", "first", "whole", "deep/../first"] {
            assert_eq!(read(&at(name)), Ok(Some("kept".to_owned())), "{name}");
        }
        symlink("nowhere", at("dangling")).unwrap();
        for name in ["nowhere", "nowhere/file", "dangling"] {
            assert_eq!(read(&at(name)), Ok(None), "{name}");
        }
        mkfifoat(CWD, at("pipe"), Mode::RUSR | Mode::WUSR).unwrap();
        for (name, told) in [
            ("pipe", "expected a regular file at"),
            ("deep", "expected a regular file at"),
            ("loop", "more than 40 links"),
            ("deep/file/below", "cannot read"),
        ] {
            let refused = read(&at(name)).unwrap_err();
            assert!(refused.contains(told) && refused.contains(at(name).to_str().unwrap()), "{refused}");
        }
    }

    #[test]
    fn each_owner_and_the_mode_count() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        write(&file, 0o600);
        symlink("file", &link).unwrap();
        let asked = std::cell::Cell::new(0);
        let count = |_: &Path, _: u32| -> anyhow::Result<()> {
            asked.set(asked.get() + 1);
            Ok(())
        };
        read_to_string(&link, &Trust { owner: &count, closed: OTHERS_WRITE }).unwrap();
        assert_eq!(asked.get(), 3, "the link, the file, and the file again as it is read");
        let nobody =
            |path: &Path, owner: u32| -> anyhow::Result<()> { anyhow::bail!("{} is of {owner}", path.display()) };
        assert!(read_to_string(&link, &Trust { owner: &nobody, closed: 0 }).is_err());
        for (mode, closed, is_refused) in [
            (0o644, OTHERS_WRITE, false),
            (0o664, OTHERS_WRITE, true),
            (0o664, ALL_WRITE, false),
            (0o646, ALL_WRITE, true),
        ] {
            write(&file, mode);
            let read = read_to_string(&link, &Trust { owner: &|_, _| Ok(()), closed });
            assert_eq!(read.is_err(), is_refused, "{mode:o}");
        }
    }
}
