//! The data directory of `up`, which one process at a time may use. It keeps the secrets of this installation.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use headrace_runtime::secret::Secret;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tokio::time::{Instant, sleep};

use crate::installation::{last_up, private};

/// How long to try for the lock. An `up` that was killed holds it until the kernel has ended it, and other commands that
/// check it hold it for microseconds.
const LOCKED_MAX: Duration = Duration::from_secs(2);
/// How often to try.
const LOCK_EVERY: Duration = Duration::from_millis(10);
/// The user of the embedded ClickHouse that may write, and the file with its password.
pub(crate) const CLICKHOUSE_USER: &str = "default";
pub(crate) const CLICKHOUSE_PASSWORD: &str = "clickhouse-password";
/// The user who only reads, and the file with its password.
pub(crate) const CLICKHOUSE_READER: &str = "reader";
pub(crate) const CLICKHOUSE_READER_PASSWORD: &str = "clickhouse-reader-password";
const WEBHOOK_SECRET: &str = "webhook-secret";
/// An `up` holds a lock on this file for as long as it runs. The file holds its process id.
const LOCK: &str = "lock";
/// More bytes than a process id has.
const PROCESS_ID_BYTES_MAX: u64 = 32;
/// Only an `up` makes files of these names. Other programs have a file `lock`, too.
const MARKS: [&str; 3] = [WEBHOOK_SECRET, CLICKHOUSE_PASSWORD, last_up::FILE];

/// A data directory that belongs to this process until this is dropped.
pub(crate) struct DataDir {
    path: PathBuf,
    // Kept for its lock. The system releases the lock when the process ends, in whatever way.
    _lock: File,
}

impl DataDir {
    /// Makes the directory if it is absent, and takes it.
    pub(crate) async fn open(path: &Path) -> anyhow::Result<Self> {
        let problem = || format!("cannot use the data directory {}; choose another with --data-dir", path.display());
        let path = private::directory(path, is_of_up).with_context(problem)?;
        let mut lock = open_lock(&path, OFlags::RDWR | OFlags::CREATE).with_context(problem)?;
        if let Err(refused) = take(&lock, LOCKED_MAX).await {
            if let TryLockError::Error(error) = refused {
                return Err(error).with_context(problem);
            }
            let mut owner = String::new();
            lock.read_to_string(&mut owner).with_context(problem)?;
            // Empty between the lock and the number, and while the disk is full.
            let owner = match owner.trim() {
                "" => String::new(),
                owner => format!(" (process {owner})"),
            };
            anyhow::bail!(
                "another `headrace up`{owner} runs on the data directory {}; stop it, or choose another directory with --data-dir",
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
        let Ok(lock) = open_lock(path, OFlags::RDONLY) else { return path.join(LOCK).exists() };
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
        self.join(WEBHOOK_SECRET)
    }

    /// The webhook secret. Made if there is none.
    pub(crate) fn webhook_secret(&self) -> anyhow::Result<Secret> {
        self.secret(WEBHOOK_SECRET)
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
        // Write it in one step, because the next start would take half a secret for a whole one.
        private::write(&path, format!("{secret}\n").as_bytes()).with_context(problem)?;
        Ok(Secret::new(secret))
    }
}

/// Takes the lock, if it becomes free within `max`.
async fn take(lock: &File, max: Duration) -> Result<(), TryLockError> {
    let deadline = Instant::now() + max;
    loop {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => sleep(LOCK_EVERY).await,
            told => return told,
        }
    }
}

/// Opens the lock file. While the directory was open to others, they could have put a link there, to a file that they
/// want emptied, or a pipe, which would make us wait. So follow no link and wait for nobody.
fn open_lock(directory: &Path, flags: OFlags) -> io::Result<File> {
    let path = directory.join(LOCK);
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR) {
        Ok(handle) => {
            let file = File::from(handle);
            if file.metadata()?.is_file() { Ok(file) } else { Err(not_regular(&path)) }
        }
        Err(Errno::LOOP) => Err(not_regular(&path)),
        Err(error) => Err(error.into()),
    }
}

fn not_regular(path: &Path) -> io::Error {
    let problem = format!("expected {} to be a regular file, found something else; remove it", path.display());
    io::Error::new(ErrorKind::InvalidInput, problem)
}

/// Whether an `up` of this or an earlier release made the directory `path` with the entries `names`.
fn is_of_up(path: &Path, names: &[OsString]) -> bool {
    let is_file = |name: &str| path.join(name).symlink_metadata().is_ok_and(|found| found.is_file());
    if MARKS.into_iter().any(is_file) {
        return true;
    }
    let Ok(lock) = open_lock(path, OFlags::RDONLY) else { return false };
    let mut text = String::new();
    let is_read = lock.take(PROCESS_ID_BYTES_MAX).read_to_string(&mut text).is_ok();
    // The lock is empty if the disk was full at the first start. Then there is nothing else.
    let is_first = text.is_empty() && names.iter().all(|name| name == LOCK);
    is_read && (is_first || text.trim().parse::<u32>().is_ok())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType};

    use super::*;

    #[tokio::test]
    async fn the_secret_stays_and_a_second_process_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let first = DataDir::open(&path).await.unwrap();
        let secret = first.webhook_secret().unwrap();
        assert_eq!(secret.expose().len(), 64);
        let refused = DataDir::open(&path).await.err().unwrap().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        assert!(DataDir::is_taken(&path));
        // It has the lock, and has not written its number yet.
        std::fs::write(path.join(LOCK), "").unwrap();
        let refused = DataDir::open(&path).await.err().unwrap().to_string();
        assert!(refused.starts_with("another `headrace up` runs on the data directory "), "{refused}");
        drop(first);
        assert!(!DataDir::is_taken(&path));
        assert!(!DataDir::is_taken(parent.path()), "nobody ever was there");
        assert_eq!(DataDir::open(&path).await.unwrap().webhook_secret().unwrap().expose(), secret.expose());
    }

    #[tokio::test]
    async fn a_lock_that_is_about_to_be_free_is_waited_for() {
        let parent = tempfile::tempdir().unwrap();
        let first = DataDir::open(parent.path()).await.unwrap();
        let lock = open_lock(parent.path(), OFlags::RDONLY).unwrap();
        assert!(matches!(take(&lock, Duration::ZERO).await, Err(TryLockError::WouldBlock)));
        let ends = async {
            sleep(10 * LOCK_EVERY).await;
            drop(first);
        };
        let (waited, ()) = tokio::join!(take(&lock, Duration::from_secs(60)), ends);
        waited.unwrap();
    }

    #[tokio::test]
    async fn a_directory_is_taken_when_it_is_empty_or_of_an_earlier_up() {
        // Each file with its content; a name that ends in a slash is a directory.
        let cases: [(&[(&str, &str)], bool); 11] = [
            (&[], true),
            (&[("lock", "4711\n"), ("out/", "")], true),
            (&[("lock", "")], true),
            (&[("webhook-secret", "secret\n"), ("nats/", "")], true),
            (&[("clickhouse-password", "secret\n")], true),
            (&[("last-up.json", "{}"), ("notes.txt", "")], true),
            (&[("notes.txt", "")], false),
            (&[("lock", ""), ("notes.txt", "")], false),
            (&[("lock", "not a process id"), ("notes.txt", "")], false),
            (&[("lock/", ""), ("log/", "")], false),
            (&[("webhook-secret/", "")], false),
        ];
        for (entries, is_accepted) in cases {
            let parent = tempfile::tempdir().unwrap();
            let path = parent.path().join("data");
            std::fs::create_dir(&path).unwrap();
            for (name, content) in entries {
                match name.strip_suffix('/') {
                    Some(name) => std::fs::create_dir(path.join(name)).unwrap(),
                    None => std::fs::write(path.join(name), content).unwrap(),
                }
            }
            let refused = DataDir::open(&path).await.err().map(|error| format!("{error:#}"));
            assert_eq!(refused.is_none(), is_accepted, "{entries:?}: {refused:?}");
            let named = |(name, _): &(&str, &str)| path.join(name).exists();
            assert!(entries.iter().all(named), "{entries:?}");
            if let Some(refused) = refused {
                assert!(refused.contains("expected an empty or absent directory") && refused.contains("--data-dir"));
                assert_eq!(std::fs::read_dir(&path).unwrap().count(), entries.len(), "nothing was added");
            }
        }
    }

    #[tokio::test]
    async fn links_and_pipes_in_the_place_of_files_are_neither_followed_nor_waited_for() {
        let parent = tempfile::tempdir().unwrap();
        let (path, victim) = (parent.path().join("data"), parent.path().join("victim"));
        std::fs::write(&victim, "untouched").unwrap();
        assert!(DataDir::open(&path).await.unwrap().webhook_secret().is_ok());
        let lock = path.join(LOCK);
        let refused = async || format!("{:#}", DataDir::open(&path).await.err().unwrap());

        std::fs::remove_file(&lock).unwrap();
        symlink(&victim, &lock).unwrap();
        let told = refused().await;
        assert!(told.contains("lock to be a regular file"), "{told}");
        std::fs::remove_file(&lock).unwrap();
        rustix::fs::mknodat(CWD, &lock, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let told = refused().await;
        assert!(told.contains("lock to be a regular file"), "{told}");
        assert!(DataDir::is_taken(&path), "it cannot be checked");
        std::fs::remove_file(&lock).unwrap();

        // Earlier releases made the secret under this name.
        for staged in [".webhook-secret".to_owned(), format!(".webhook-secret.{}", std::process::id())] {
            symlink(&victim, path.join(staged)).unwrap();
        }
        std::fs::remove_file(path.join(WEBHOOK_SECRET)).unwrap();
        std::fs::write(path.join(CLICKHOUSE_PASSWORD), "kept").unwrap();
        let data = DataDir::open(&path).await.unwrap();
        assert_eq!(data.webhook_secret().unwrap().expose().len(), 64);
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
    }
}
