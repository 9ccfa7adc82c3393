//! Looks through the folder: which files have something to read, the oldest first.
//!
//! It never follows a symbolic link, and it holds a bounded number of files however many there are.

use std::collections::{BTreeSet, BinaryHeap, HashSet};
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::config::Config;
use super::position::{FOLDERS_MAX, Key, Mark, Marked, Position, Stage, may_be_same};
use super::warnings::Warnings;
use crate::lines::named;

/// The most files that one look holds. The others are found by a later one.
const UNREAD_MAX: usize = 4_096;
/// Subfolders below more of them are left out.
const DEPTH_MAX: usize = 32;

/// Files that this account may not read: their ids, and when they had last changed.
pub(super) type Denied = HashSet<(String, i64)>;

/// A file with something to read.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found {
    /// Its place in the order.
    pub(super) key: Key,
    /// Its inode, and its device if that is not the folder's.
    pub(super) id: String,
    /// Its path below the folder.
    pub(super) path: PathBuf,
    /// Where to begin.
    pub(super) offset: u64,
    /// When its content last changed, in nanoseconds since the epoch.
    pub(super) modified: i64,
    /// When it was made, in nanoseconds since the epoch, if the file system tells.
    pub(super) born: Option<i64>,
    /// Its size as it is on the disk.
    pub(super) size: u64,
    /// Whether it must be unpacked.
    pub(super) packed: bool,
    /// It has not changed for so long that what it ends with is its end.
    pub(super) is_quiet: bool,
}

/// What a look found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// The files with something to read, the oldest first.
    pub(super) unread: Vec<Found>,
    /// There are more of them.
    pub(super) is_cut: bool,
    /// The least key of a file without a mark for which it is too early.
    pub(super) least: Option<Key>,
    /// The files with a mark.
    pub(super) marked: Marked,
    /// The folder and its subfolders, one more than are remembered at most.
    pub(super) folders: BTreeSet<String>,
    /// The floor would pass over a file of a subfolder that was not there before: it was moved in, and files keep their
    /// times then.
    pub(super) is_passed_over: bool,
}

/// What to do with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// It is read to its end.
    Read,
    /// There is something, and it is too early for it.
    Early,
    /// There may be something from this offset on.
    From(u64),
}

/// For how long a file has not changed.
#[derive(Clone, Copy, Debug)]
struct Rest {
    /// For as long as a packed file must not.
    is_settled: bool,
    /// For so long that what it ends with is its end.
    is_quiet: bool,
}

/// Looks through `root`.
///
/// # Errors
/// When the folder cannot be looked at, or something other than a right is in the way of a part of it.
pub(super) fn scan(
    root: &Path,
    config: &Config,
    position: &Position,
    now: i64,
    denied: &Denied,
    warnings: &mut Warnings,
) -> io::Result<Scan> {
    let own = fs::metadata(root)?;
    let device = own.dev();
    let mut scan = Scan { marked: Marked { is_whole: true, ..Marked::default() }, ..Scan::default() };
    let mut unread = BinaryHeap::new();
    let is_new = scan.enter(id_of(&own, device), position);
    let mut folders = vec![(PathBuf::new(), 0, is_new)];
    while let Some((folder, depth, is_new)) = folders.pop() {
        let entries = match fs::read_dir(root.join(&folder)) {
            Ok(entries) => entries,
            Err(error) if depth > 0 && error.kind() == ErrorKind::NotFound => continue,
            Err(error) if depth > 0 && error.kind() == ErrorKind::PermissionDenied => {
                warnings.tell(&folder, "this account may not look into a subfolder; its files are left out");
                scan.marked.is_whole = false;
                continue;
            }
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            // Of the entry itself: a link is not followed.
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) if depth > 0 && error.kind() == ErrorKind::PermissionDenied => {
                    warnings.tell(&folder, "this account may not look into a subfolder; its files are left out");
                    scan.marked.is_whole = false;
                    break;
                }
                Err(error) => return Err(error),
            };
            if metadata.is_dir() {
                if depth < DEPTH_MAX {
                    let is_new = scan.enter(id_of(&metadata, device), position);
                    folders.push((path, depth + 1, is_new));
                } else {
                    warnings.tell(&path, "too many subfolders are in each other; this one is left out");
                }
            } else if metadata.is_symlink() {
                warn_of_link(root, &path, warnings);
            } else if metadata.is_file() {
                let file = File { path, metadata, device, is_new };
                scan.consider(file, config, position, now, denied, &mut unread);
            }
        }
    }
    scan.unread = unread.into_sorted_vec();
    Ok(scan)
}

/// What a link inside the folder means is read under its own name.
fn warn_of_link(root: &Path, path: &Path, warnings: &mut Warnings) {
    let is_inside = fs::canonicalize(root.join(path))
        .and_then(|target| Ok(target.starts_with(fs::canonicalize(root)?)))
        .unwrap_or_default();
    if !is_inside {
        warnings.tell(path, "a symbolic link leads out of the folder or nowhere; it is not followed");
    }
}

struct File {
    path: PathBuf,
    metadata: Metadata,
    device: u64,
    /// Its folder was not there when all was last looked through.
    is_new: bool,
}

impl Scan {
    /// Notes a folder. Returns whether it was not there before.
    fn enter(&mut self, id: String, position: &Position) -> bool {
        let is_new = position.folders.as_ref().is_some_and(|known| !known.contains(&id));
        if self.folders.len() <= FOLDERS_MAX {
            self.folders.insert(id);
        }
        is_new
    }

    fn consider(
        &mut self,
        file: File,
        config: &Config,
        position: &Position,
        now: i64,
        denied: &Denied,
        unread: &mut BinaryHeap<Found>,
    ) {
        let File { path, metadata, device, is_new } = file;
        let id = id_of(&metadata, device);
        let born = born(&metadata);
        let kept = position.files.get(&id);
        let mark = kept.filter(|mark| may_be_same(mark.born, born));
        let named = named(path.file_name().unwrap_or_default(), &config.suffixes);
        // A file that is renamed keeps its inode and its birth: read what is left of it, whatever it is called now.
        let Some(packed) = named.or_else(|| mark.map(|mark| mark.packed)) else { return };
        let key = Key { changed: nanos(metadata.ctime(), metadata.ctime_nsec()), path: text_of(&path) };
        let modified = modified(&metadata);
        let age = Duration::from_nanos(u64::try_from(now.saturating_sub(key.changed)).unwrap_or_default());
        let rest = Rest { is_settled: age >= config.settle(), is_quiet: age >= config.last_line() };
        let size = metadata.len();
        if let Some(mark) = mark {
            self.marked.keys.insert(id.clone(), key.clone());
            let completed = mark.complete(born, modified, size);
            if completed != *mark {
                self.marked.completed.push((id.clone(), completed));
            }
        }
        // A file that was read and given up left no mark, so one that finds another's under its inode is unread.
        let was_read = kept.is_none() && position.was_read(&key);
        self.is_passed_over |= is_new && size > 0 && was_read;
        let look = match mark {
            // A right that is given changes the file's key.
            _ if denied.contains(&(id.clone(), key.changed)) => Look::Read,
            None if size == 0 || was_read => Look::Read,
            None if packed && !rest.is_settled => Look::Early,
            None => Look::From(0),
            Some(mark) if packed => look_packed(mark, modified, size, rest),
            Some(mark) => look_plain(mark, modified, size, rest),
        };
        if look == Look::Early && mark.is_none() && self.least.as_ref().is_none_or(|least| key < *least) {
            self.least = Some(key.clone());
        }
        if let Look::From(offset) = look {
            unread.push(Found { key, id, path, offset, modified, born, size, packed, is_quiet: rest.is_quiet });
            if unread.len() > UNREAD_MAX {
                unread.pop();
                self.is_cut = true;
            }
        }
    }
}

fn look_packed(mark: &Mark, modified: i64, size: u64, rest: Rest) -> Look {
    match mark.stage {
        // Another content, so nothing of what was read tells where. Anybody can set the time, so the size counts too.
        _ if mark.modified != modified || mark.size.is_some_and(|own| own != size) => {
            if rest.is_settled {
                Look::From(0)
            } else {
                Look::Early
            }
        }
        Stage::Done => Look::Read,
        Stage::Waiting if !rest.is_quiet => Look::Early,
        Stage::Reading | Stage::Waiting => Look::From(mark.offset),
    }
}

fn look_plain(mark: &Mark, modified: i64, size: u64, rest: Rest) -> Look {
    if size < mark.offset {
        return Look::From(0);
    }
    match mark.stage {
        _ if mark.modified != modified => Look::From(mark.offset),
        // Some file systems tell the time of a change late.
        Stage::Done if size == mark.offset => Look::Read,
        Stage::Waiting if !rest.is_quiet => Look::Early,
        Stage::Done | Stage::Reading | Stage::Waiting => Look::From(mark.offset),
    }
}

/// What a file is known by, whatever it is called.
pub(super) fn id_of(metadata: &Metadata, device: u64) -> String {
    if metadata.dev() == device {
        format!("{:x}", metadata.ino())
    } else {
        format!("{:x}-{:x}", metadata.dev(), metadata.ino())
    }
}

/// A path as text that no other path has: bytes that are no UTF-8, control characters and `%` are written `%xx`.
pub(super) fn text_of(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for char in chunk.valid().chars() {
            if char.is_control() || char == '%' {
                char.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| text.push_str(&format!("%{byte:02x}")));
            } else {
                text.push(char);
            }
        }
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("%{byte:02x}")));
    }
    text
}

/// When the content last changed, in nanoseconds since the epoch.
pub(super) fn modified(metadata: &Metadata) -> i64 {
    nanos(metadata.mtime(), metadata.mtime_nsec())
}

/// When the file was made, in nanoseconds since the epoch. `None` if the file system or the kernel does not tell.
pub(super) fn born(metadata: &Metadata) -> Option<i64> {
    let since = metadata.created().ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    // Some file systems say 0 for what they do not know.
    i64::try_from(since.as_nanos()).ok().filter(|nanos| *nanos != 0)
}

fn nanos(seconds: i64, nanos: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn every_path_has_a_text_of_its_own() {
        let text = |bytes: &[u8]| text_of(Path::new(OsStr::from_bytes(bytes)));
        assert_eq!(text("a/é.log".as_bytes()), "a/é.log");
        assert_eq!(text(b"\xff%\n.log"), "%ff%25%0a.log");
        assert_ne!(text(b"\xff"), text(b"%ff"));
    }

    #[test]
    fn what_is_left_of_a_plain_file_follows_from_size_and_time() {
        let mark = |offset, stage| Mark { offset, modified: 7, check: 0, stage, packed: false, born: None, size: None };
        for (mark, modified, size, is_quiet, expected) in [
            (mark(10, Stage::Done), 7, 10, false, Look::Read),
            (mark(10, Stage::Done), 8, 10, false, Look::From(10)),
            (mark(10, Stage::Done), 8, 15, false, Look::From(10)),
            (mark(10, Stage::Done), 7, 15, false, Look::From(10)),
            (mark(10, Stage::Done), 8, 9, false, Look::From(0)),
            (mark(10, Stage::Waiting), 7, 15, false, Look::Early),
            (mark(10, Stage::Waiting), 7, 15, true, Look::From(10)),
            (mark(10, Stage::Waiting), 8, 15, false, Look::From(10)),
            (mark(10, Stage::Reading), 7, 15, false, Look::From(10)),
        ] {
            let rest = Rest { is_settled: true, is_quiet };
            assert_eq!(look_plain(&mark, modified, size, rest), expected, "{mark:?} {modified} {size}");
        }
    }

    #[test]
    fn a_packed_file_is_read_once_it_has_settled_and_again_when_it_is_another() {
        let of_size = |stage, size| Mark { offset: 10, modified: 7, check: 0, stage, packed: true, born: None, size };
        let mark = |stage| of_size(stage, Some(20));
        for (mark, modified, size, is_settled, is_quiet, expected) in [
            (mark(Stage::Done), 7, 20, true, true, Look::Read),
            (mark(Stage::Done), 8, 20, false, false, Look::Early),
            (mark(Stage::Done), 8, 20, true, false, Look::From(0)),
            (mark(Stage::Done), 7, 21, false, false, Look::Early),
            (mark(Stage::Done), 7, 21, true, false, Look::From(0)),
            (of_size(Stage::Done, None), 7, 21, true, true, Look::Read),
            (mark(Stage::Reading), 7, 20, true, false, Look::From(10)),
            (mark(Stage::Waiting), 7, 20, true, false, Look::Early),
            (mark(Stage::Waiting), 7, 20, true, true, Look::From(10)),
        ] {
            let rest = Rest { is_settled, is_quiet };
            assert_eq!(look_packed(&mark, modified, size, rest), expected, "{mark:?} {modified} {size}");
        }
    }
}
