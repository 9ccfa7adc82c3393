//! One growing file of whole lines: append and sync, set aside when large, repair when opened.
//!
//! It blocks, and it is for one process at a time: a lock file keeps a second one out. Nothing here knows what is in a
//! line.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use headrace_runtime::crash::{self, Point};
use rustix::process::geteuid;

/// How many bytes are read at once while searching for the last line break from the end.
const REPAIR_STEP_BYTES: u64 = 64 << 10;

/// Only the account that writes the events may read the file. Who else may read them is decided where they are passed
/// on.
const FILE_MODE: u32 = 0o600;
/// The same for a directory that is made here. A directory that was there before stays as somebody wanted it.
const DIRECTORY_MODE: u32 = 0o700;

/// When a file is set aside, and how many such files are kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rotation {
    pub(super) rotate_bytes: u64,
    /// 0 keeps all.
    pub(super) keep_files: usize,
}

/// Why the file cannot be opened.
#[derive(Debug)]
pub(super) enum OpenError {
    /// Another process has it.
    InUse,
    /// The system's reason.
    Io(io::Error),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The open file.
#[derive(Debug)]
pub(super) struct Writer {
    dir: PathBuf,
    name: &'static str,
    rotation: Rotation,
    file: File,
    bytes: u64,
    /// Held as long as this process may write.
    _lock: Lock,
}

/// Keeps other processes out.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    name: &'static str,
}

impl Lock {
    /// Makes the directory if absent and takes the lock `<dir>/<name>.lock`.
    pub(super) fn take(dir: &Path, name: &'static str) -> Result<Self, OpenError> {
        DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(dir)?;
        let mut file = OpenOptions::new();
        file.create(true).truncate(false).write(true).mode(FILE_MODE);
        let file = file.open(dir.join(format!("{name}.lock")))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { file, name }),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse),
            Err(TryLockError::Error(error)) => Err(OpenError::Io(error)),
        }
    }

    /// Whether it still locks this directory.
    pub(super) fn is_in_place(&self, dir: &Path) -> bool {
        is_named(&self.file, &dir.join(format!("{}.lock", self.name)))
    }
}

impl Writer {
    /// Opens `<dir>/<name>.jsonl`, making both if absent, and cuts off half a line at its end.
    pub(super) fn open(dir: &Path, name: &'static str, rotation: Rotation) -> Result<Self, OpenError> {
        let lock = Lock::take(dir, name)?;
        let (file, bytes) = open_repaired(&dir.join(format!("{name}.jsonl")))?;
        for (_, aside) in numbered(dir, name)? {
            close_to_others(&File::open(aside)?)?;
        }
        sync_dir(dir)?;
        Ok(Self { dir: dir.to_owned(), name, rotation, file, bytes, _lock: lock })
    }

    /// Whether the file is still the one under its name. If somebody moved or deleted it, everything written to it
    /// would go with it.
    pub(super) fn is_in_place(&self) -> bool {
        is_named(&self.file, &self.dir.join(format!("{}.jsonl", self.name)))
    }

    /// Appends `lines`, whole ones, and returns once they are on disk.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + lines.len() as u64 > self.rotation.rotate_bytes {
            self.rotate()?;
        }
        let written = self.file.write_all(lines).and_then(|()| {
            crash::pass(Point::BeforeSync);
            self.file.sync_data()
        });
        if let Err(error) = written {
            // Leave no half line behind; if this fails too, the next opening repairs it.
            let _ = self.file.set_len(self.bytes);
            return Err(error);
        }
        self.bytes += lines.len() as u64;
        Ok(())
    }

    /// Sets the file aside under the next number and begins a new one.
    fn rotate(&mut self) -> io::Result<()> {
        let aside = numbered(&self.dir, self.name)?;
        let next = aside.last().map_or(1, |(number, _)| number + 1);
        let current = self.dir.join(format!("{}.jsonl", self.name));
        fs::rename(&current, self.dir.join(format!("{}.{next:06}.jsonl", self.name)))?;
        crash::pass(Point::AfterRename);
        (self.file, self.bytes) = open_repaired(&current)?;
        if self.rotation.keep_files > 0 {
            let surplus = (aside.len() + 1).saturating_sub(self.rotation.keep_files);
            for (_, path) in &aside[..surplus.min(aside.len())] {
                fs::remove_file(path)?;
            }
        }
        crash::pass(Point::AfterRotation);
        sync_dir(&self.dir)
    }
}

impl Drop for Lock {
    /// Closing the file is not enough: a child process that is just being started holds the file too, and with it the
    /// lock, until it runs its own program.
    fn drop(&mut self) {
        if let Err(error) = self.file.unlock() {
            tracing::warn!(name = self.name, %error, "cannot unlock the file; it is free when this process ends");
        }
    }
}

fn is_named(file: &File, path: &Path) -> bool {
    let (Ok(named), Ok(open)) = (fs::metadata(path), file.metadata()) else { return false };
    (named.dev(), named.ino()) == (open.dev(), open.ino())
}

/// The files set aside, by number.
fn numbered(dir: &Path, name: &str) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let number = entry
            .file_name()
            .to_str()
            .and_then(|file| file.strip_prefix(name)?.strip_prefix('.')?.strip_suffix(".jsonl")?.parse::<u64>().ok());
        if let Some(number) = number {
            files.push((number, entry.path()));
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Opens `path` for appending, after cutting off what follows its last line break.
fn open_repaired(path: &Path) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new().create(true).read(true).append(true).mode(FILE_MODE).open(path)?;
    close_to_others(&file)?;
    let length = file.metadata()?.len();
    let whole = after_last_line_break(&mut file, length)?;
    if whole < length {
        tracing::warn!(
            path = %path.display(),
            bytes = length - whole,
            "cut off half a line that a crash left; its record was not delivered and comes again"
        );
        file.set_len(whole)?;
        file.sync_data()?;
    }
    Ok((file, whole))
}

/// Denies all other accounts access to a file: an earlier release made it readable for all, or another account put it
/// there.
fn close_to_others(file: &File) -> io::Result<()> {
    let found = file.metadata()?;
    // A device is not a log of ours.
    if !found.is_file() {
        return Ok(());
    }
    if found.uid() != geteuid().as_raw() {
        let owner = found.uid();
        let message = format!("it belongs to user id {owner}, who could read what is written to it; remove it");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    if found.mode() & 0o777 != FILE_MODE {
        file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    }
    Ok(())
}

fn after_last_line_break(file: &mut File, length: u64) -> io::Result<u64> {
    let mut end = length;
    let mut buffer = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(REPAIR_STEP_BYTES);
        file.seek(SeekFrom::Start(start))?;
        buffer.clear();
        file.take(end - start).read_to_end(&mut buffer)?;
        if let Some(at) = buffer.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// A new or renamed file survives a power cut only once its directory is on disk.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROTATION: Rotation = Rotation { rotate_bytes: 20, keep_files: 2 };

    fn read(dir: &Path, file: &str) -> String {
        fs::read_to_string(dir.join(file)).unwrap()
    }

    #[test]
    fn half_a_line_is_cut_off_at_opening() {
        let long = "x".repeat(3 * REPAIR_STEP_BYTES as usize);
        for (found, left) in [
            ("", ""),
            ("{}\n", "{}\n"),
            ("{\"a\":1}\n{\"a\"", "{\"a\":1}\n"),
            ("{\"a\"", ""),
            (&format!("{{}}\n{long}"), "{}\n"),
            (&format!("{long}\n{long}"), &format!("{long}\n")),
        ] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("events.jsonl"), found).unwrap();
            let mut writer =
                Writer::open(dir.path(), "events", Rotation { rotate_bytes: 1 << 20, keep_files: 0 }).unwrap();
            writer.append(b"next\n").unwrap();
            assert_eq!(read(dir.path(), "events.jsonl"), format!("{left}next\n"));
        }
    }

    #[test]
    fn a_full_file_is_set_aside_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path(), "events", ROTATION).unwrap();
        for number in 1..=5 {
            writer.append(format!("line number {number}\n").as_bytes()).unwrap();
        }
        assert_eq!(read(dir.path(), "events.jsonl"), "line number 5\n");
        let aside = numbered(dir.path(), "events").unwrap();
        assert_eq!(aside.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(read(dir.path(), "events.000004.jsonl"), "line number 4\n");
    }

    #[test]
    fn a_batch_larger_than_a_file_stays_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path(), "events", ROTATION).unwrap();
        let batch = "a line\n".repeat(10);
        writer.append(batch.as_bytes()).unwrap();
        assert_eq!(read(dir.path(), "events.jsonl"), batch);
    }

    #[test]
    fn only_the_own_account_can_read_what_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let (out, old) = (dir.path().join("a/out"), dir.path().join("old"));
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        // What an earlier release left, with the usual umask.
        fs::create_dir(&old).unwrap();
        for name in ["events.jsonl", "events.000001.jsonl"] {
            fs::write(old.join(name), "{}\n").unwrap();
            fs::set_permissions(old.join(name), Permissions::from_mode(0o644)).unwrap();
        }
        for dir in [&out, &old] {
            let mut writer = Writer::open(dir, "events", ROTATION).unwrap();
            for number in 1..=3 {
                writer.append(format!("line number {number}\n").as_bytes()).unwrap();
            }
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                assert_eq!(mode(&path), FILE_MODE, "{}", path.display());
            }
        }
        assert_eq!((mode(&out), mode(out.parent().unwrap())), (DIRECTORY_MODE, DIRECTORY_MODE));
    }

    #[test]
    fn one_process_writes_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Writer::open(dir.path(), "events", ROTATION).unwrap();
        assert!(matches!(Writer::open(dir.path(), "events", ROTATION), Err(OpenError::InUse)));
        Writer::open(dir.path(), "alerts", ROTATION).unwrap();
        drop(first);
        Writer::open(dir.path(), "events", ROTATION).unwrap();
    }

    #[test]
    fn a_full_disk_is_reported_and_leaves_no_half_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path(), "events", Rotation { rotate_bytes: 1 << 20, keep_files: 0 }).unwrap();
        writer.append(b"whole\n").unwrap();
        // The kernel's device that is always full.
        let open = std::mem::replace(&mut writer.file, OpenOptions::new().write(true).open("/dev/full").unwrap());
        let error = writer.append(b"more\n").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        writer.file = open;
        writer.append(b"later\n").unwrap();
        assert_eq!(read(dir.path(), "events.jsonl"), "whole\nlater\n");
    }
}
