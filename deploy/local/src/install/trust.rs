//! Who may put files into the cache: programs and libraries from there run as this account.
//!
//! Only this account and root may own the cache and what is used from it, and not everybody may write there. Files are
//! looked at through handles of their directories, and links are not followed.

use std::fs::{DirBuilder, File, Metadata, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::error::Error;

const ROOT: u32 = 0;
/// That every account may write. A group may: with the umask 002 of many systems, each account has a group of its own.
const ALL_WRITE: u32 = 0o002;
/// That the group or all others may write.
const OTHERS_WRITE: u32 = 0o022;

/// A directory into which no other account can put anything.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    handle: File,
}

impl Directory {
    /// The directory `path`, made if it is absent, and then closed to other accounts.
    ///
    /// # Errors
    /// [`Error::Foreign`] if another account can change it.
    pub(super) fn make(path: &Path) -> Result<Self, Error> {
        let given = std::path::absolute(path).map_err(Error::io("find", path))?;
        DirBuilder::new().recursive(true).mode(0o700).create(&given).map_err(Error::io("create", &given))?;
        // The path without links is used from here on: the owner of a link could lead it elsewhere later.
        let path = given.canonicalize().map_err(Error::io("find", &given))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&path, flags, Mode::empty());
        let handle = File::from(opened.map_err(|error| Error::io("open", &path)(error.into()))?);
        refuse_foreign(&path, &handle.metadata().map_err(Error::io("look at", &path))?)?;
        Ok(Self { path, handle })
    }

    /// Its path, without links.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory `name` in it. `None` if it is absent, or no directory.
    ///
    /// # Errors
    /// [`Error::Foreign`] if another account can change it.
    pub(super) fn directory(&self, name: &str) -> Result<Option<Self>, Error> {
        let opened = self.open(name, OFlags::PATH | OFlags::DIRECTORY)?;
        Ok(opened.map(|(handle, _)| Self { path: self.path.join(name), handle }))
    }

    /// The file `name` in it, for reading, and its size in bytes. `None` if it is absent, or no regular file.
    ///
    /// # Errors
    /// [`Error::Foreign`] if another account can change it.
    pub(super) fn file(&self, name: &str) -> Result<Option<(File, u64)>, Error> {
        // Without NONBLOCK, opening a named pipe would wait for its writer.
        let opened = self.open(name, OFlags::RDONLY | OFlags::NONBLOCK)?;
        Ok(opened.filter(|(_, found)| found.is_file()).map(|(file, found)| (file, found.len())))
    }

    fn open(&self, name: &str, flags: OFlags) -> Result<Option<(File, Metadata)>, Error> {
        let path = self.path.join(name);
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match rustix::fs::openat(&self.handle, name, flags, Mode::empty()) {
            Ok(handle) => File::from(handle),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(error) => return Err(Error::io("open", path)(error.into())),
        };
        let found = opened.metadata().map_err(Error::io("look at", &path))?;
        refuse_foreign(&path, &found)?;
        Ok(Some((opened, found)))
    }
}

/// Takes the right to write from the group and others. A umask of 0 would have left it to them.
pub(super) fn close(path: &Path) -> Result<(), Error> {
    let found = path.metadata().map_err(Error::io("look at", path))?;
    let mode = found.permissions().mode() & !OTHERS_WRITE;
    std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(Error::io("close", path))
}

fn refuse_foreign(path: &Path, found: &Metadata) -> Result<(), Error> {
    let own = geteuid().as_raw();
    if is_trusted(found.uid(), own) && found.mode() & ALL_WRITE == 0 {
        return Ok(());
    }
    Err(refusal(path, found, own))
}

fn is_trusted(owner: u32, own: u32) -> bool {
    owner == own || owner == ROOT
}

fn refusal(path: &Path, found: &Metadata, own: u32) -> Error {
    let expected = match own {
        ROOT => "root".to_owned(),
        own => format!("this account (user id {own}) or root"),
    };
    Error::Foreign { path: path.to_owned(), expected, owner: found.uid(), mode: found.mode() & 0o7777 }
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir, set_permissions, write};
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    /// What is said against using `cache/piece/file`, if anything.
    fn refused(cache: &Path) -> Option<String> {
        let look = || Directory::make(cache)?.directory("piece")?.expect("it is there").file("file");
        look().map(|found| assert_eq!(found.expect("it is there").1, 4)).err().map(|error| error.to_string())
    }

    /// A cache with one file in a folder.
    fn cache(parent: &Path) -> [PathBuf; 3] {
        let parent = parent.canonicalize().unwrap();
        let [cache, piece, file] = ["cache", "cache/piece", "cache/piece/file"].map(|name| parent.join(name));
        for directory in [&cache, &piece] {
            create_dir(directory).unwrap();
            set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
        }
        write(&file, "kept").unwrap();
        set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        [cache, piece, file]
    }

    #[test]
    fn what_everybody_may_write_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let [cache, piece, file] = cache(parent.path());
        for (path, mode, is_refused) in [
            (&cache, 0o700, false),
            (&cache, 0o775, false),
            (&cache, 0o1777, true),
            (&cache, 0o755, false),
            (&piece, 0o757, true),
            (&piece, 0o775, false),
            (&file, 0o664, false),
            (&file, 0o646, true),
            (&file, 0o444, false),
        ] {
            set_permissions(path, Permissions::from_mode(mode)).unwrap();
            let found = refused(&cache);
            assert_eq!(found.is_some(), is_refused, "{} with {mode:o}: {found:?}", path.display());
            if let Some(text) = found {
                let told = [path.display().to_string(), format!("{mode:o}"), "HEADRACE_CACHE_DIR".to_owned()];
                assert!(told.iter().all(|part| text.contains(part)), "{text}");
                set_permissions(path, Permissions::from_mode(0o700)).unwrap();
            }
        }
    }

    #[test]
    fn what_belongs_to_another_account_is_refused() {
        // Only root can give something away. The rule for other accounts is below.
        if geteuid().is_root() {
            let parent = tempfile::tempdir().unwrap();
            let [cache, piece, file] = cache(parent.path());
            for path in [&cache, &piece, &file] {
                chown(path, Some(65_534), None).unwrap();
                let text = refused(&cache).unwrap();
                assert!(text.contains(&path.display().to_string()) && text.contains("user id 65534"), "{text}");
                chown(path, Some(ROOT), None).unwrap();
            }
        }
        let cases = [(ROOT, ROOT, true), (ROOT, 7, false), (7, 7, true), (7, ROOT, true), (7, 8, false)];
        for (own, owner, expected) in cases {
            assert_eq!(is_trusted(owner, own), expected, "{own} uses what is {owner}'s");
        }
    }

    #[test]
    fn a_new_cache_is_closed_and_a_link_in_it_is_not_followed() {
        let parent = tempfile::tempdir().unwrap();
        let made = Directory::make(&parent.path().join("a/new")).unwrap();
        for path in [made.path(), made.path().parent().unwrap()] {
            assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o700, "{}", path.display());
        }
        write(parent.path().join("elsewhere"), "kept").unwrap();
        symlink(parent.path().join("elsewhere"), made.path().join("file")).unwrap();
        symlink(parent.path(), made.path().join("directory")).unwrap();
        assert!(made.file("file").unwrap().is_none() && made.directory("directory").unwrap().is_none());
        assert!(made.file("nowhere").unwrap().is_none() && made.directory("nowhere").unwrap().is_none());
        // A link to the cache itself is replaced by what it leads to now.
        symlink(made.path(), parent.path().join("link")).unwrap();
        assert_eq!(Directory::make(&parent.path().join("link")).unwrap().path(), made.path());
    }
}
