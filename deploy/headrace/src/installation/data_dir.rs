//! The data directory of `up`, which one process at a time may use. It keeps the secrets of this installation.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use headrace_runtime::secret::Secret;

use crate::installation::private;

/// How often to try for the lock while other commands check it, which takes them microseconds.
const TRIES_MAX: u32 = 1_000;
/// The user of the embedded ClickHouse that may write, and the file with its password.
pub(crate) const CLICKHOUSE_USER: &str = "default";
pub(crate) const CLICKHOUSE_PASSWORD: &str = "clickhouse-password";
/// The user who only reads, and the file with its password.
pub(crate) const CLICKHOUSE_READER: &str = "reader";
pub(crate) const CLICKHOUSE_READER_PASSWORD: &str = "clickhouse-reader-password";
/// An `up` holds a lock on this file for as long as it runs.
const LOCK: &str = "lock";

/// A data directory that belongs to this process until this is dropped.
pub(crate) struct DataDir {
    path: PathBuf,
    // Kept for its lock. The system releases the lock when the process ends, in whatever way.
    _lock: File,
}

impl DataDir {
    /// Makes the directory if it is absent, and takes it.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let problem = || format!("cannot use the data directory {}; choose another with --data-dir", path.display());
        let path = private::directory(path).with_context(problem)?;
        let mut lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(path.join(LOCK))
            .with_context(problem)?;
        if let Err(refused) = take(&lock) {
            if let TryLockError::Error(error) = refused {
                return Err(error).with_context(problem);
            }
            let mut owner = String::new();
            lock.read_to_string(&mut owner).with_context(problem)?;
            anyhow::bail!(
                "another `headrace up` (process {}) runs on the data directory {}; stop it, or choose another directory with --data-dir",
                owner.trim(),
                path.display()
            );
        }
        lock.set_len(0).with_context(problem)?;
        writeln!(lock, "{}", std::process::id()).with_context(problem)?;
        Ok(Self { path, _lock: lock })
    }

    /// Whether an `up` runs on the directory `path`, judged by its lock. True if the lock cannot be checked, such as by
    /// another account.
    pub(crate) fn is_taken(path: &Path) -> bool {
        let Ok(lock) = File::open(path.join(LOCK)) else { return path.join(LOCK).exists() };
        lock.try_lock_shared().is_err()
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file with the webhook secret.
    pub(crate) fn webhook_secret_path(&self) -> PathBuf {
        self.join("webhook-secret")
    }

    /// The webhook secret. Made if there is none.
    pub(crate) fn webhook_secret(&self) -> anyhow::Result<Secret> {
        self.secret("webhook-secret")
    }

    /// The secret in the file `name`, which only its owner may read. Made of 256 random bits if there is none.
    pub(crate) fn secret(&self, name: &str) -> anyhow::Result<Secret> {
        let path = self.join(name);
        let problem = || format!("cannot keep a secret in {}; is the disk full or read-only?", path.display());
        match std::fs::read_to_string(&path) {
            Ok(text) if !text.trim().is_empty() => return Ok(Secret::new(text.trim())),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(problem),
        }
        let secret = hex::encode(rand::random::<[u8; 32]>());
        // Write to a second file and rename it, because the next start would take half a secret for a whole one.
        let staged = self.join(&format!(".{name}"));
        let mut file = create_private(&staged).with_context(problem)?;
        writeln!(file, "{secret}").with_context(problem)?;
        file.sync_all().with_context(problem)?;
        std::fs::rename(&staged, &path).with_context(problem)?;
        Ok(Secret::new(secret))
    }
}

/// Takes the lock. [`DataDir::is_taken`] of another process may hold it shared for a moment, so try again. Another `up`
/// holds it exclusively.
fn take(lock: &File) -> Result<(), TryLockError> {
    for _ in 0..TRIES_MAX {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) if lock.try_lock_shared().is_ok() => std::thread::yield_now(),
            told => return told,
        }
    }
    lock.try_lock()
}

/// Creates a file that only its owner may read, empty.
fn create_private(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_stays_and_a_second_process_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let first = DataDir::open(&path).unwrap();
        let secret = first.webhook_secret().unwrap();
        assert_eq!(secret.expose().len(), 64);
        let refused = DataDir::open(&path).err().unwrap().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        assert!(DataDir::is_taken(&path));
        drop(first);
        assert!(!DataDir::is_taken(&path));
        assert!(!DataDir::is_taken(parent.path()), "nobody ever was there");
        assert_eq!(DataDir::open(&path).unwrap().webhook_secret().unwrap().expose(), secret.expose());
    }
}
