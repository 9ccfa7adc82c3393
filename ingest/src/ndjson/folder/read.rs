//! Reads a page of lines from the files of the folder. All of it blocks.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat, openat2};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::config::Config;
use super::failing::Failing;
use super::position::{At, Mark, Position, Stage, may_be_same};
use super::scan::{Denied, Found, Scan, born, id_of, modified, scan, text_of};
use super::warnings::Warnings;
use crate::lines::{Content, End, Gathered, Limits, Place, Records, is_of_content, plain, unpacked};
use crate::source::Record;

/// So many bytes before an offset tell whether the file is still the one that was read.
const CHECKED_BYTES: u64 = 64;
/// The most files that are remembered as denied. Beyond that, they are tried again.
const DENIED_MAX: usize = 10_000;
const BUFFER_BYTES: usize = 64 << 10;
const TOO_MANY: &str = "more files than have a place wait: for the rest of a line, or packed ones until they rest; others are read \
                        when one of these is done";
const FAILED: &str = "cannot read a file; it is tried again at each look";
const GIVEN_UP: &str = "cannot read a file for a minute or more; the others wait no longer, and once they are read it may count as \
                        read; mend it, then `headrace sources rewind ndjson.folder` reads it";
const SET_BACK: &str = "files that were read are dated ahead of this machine's clock; if it was set back, new files count as read \
                        until it has passed that date: run `headrace sources rewind ndjson.folder` then; if only a file server's \
                        clock is ahead, nothing is missed";

/// Reads the folder. It keeps nothing that the position does not have, but for warnings and a packed file that is open.
pub(super) struct Reader {
    root: PathBuf,
    config: Config,
    records: Arc<dyn Records>,
    /// What bounds a page.
    pub(super) limits: Limits,
    warnings: Warnings,
    denied: Denied,
    pub(super) failing: Failing,
    open: Option<Open>,
}

/// A packed file that is open between two pages, so that it need not be unpacked from its beginning for each.
struct Open {
    id: String,
    modified: i64,
    offset: u64,
    lines: Content,
}

/// A file that is being read.
struct Opened<'a> {
    found: &'a Found,
    /// The file itself, unless it is packed.
    plain: Option<File>,
    modified: i64,
}

/// What one look gave.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) records: Vec<Record>,
    pub(super) position: Position,
    pub(super) has_more: bool,
}

/// A page as it is made.
struct Draft {
    gathered: Gathered,
    position: Position,
}

impl Reader {
    pub(super) fn new(config: &Config, records: Arc<dyn Records>) -> Self {
        Self {
            root: config.path(),
            config: config.clone(),
            records,
            limits: Limits::default(),
            warnings: Warnings::default(),
            denied: Denied::default(),
            failing: Failing::default(),
            open: None,
        }
    }

    /// The lines behind `position`.
    pub(super) fn page(&mut self, position: Position) -> io::Result<Page> {
        let before = position.clone();
        let suffixes: BTreeSet<&str> = self.config.suffixes.iter().map(String::as_str).collect();
        let suffixes = hash_of(suffixes.into_iter());
        let mut position = position.fit(&folder_id(&self.root), &suffixes);
        if position.floor.as_ref().is_some_and(|floor| floor.changed > now()) {
            self.warnings.tell(Path::new("."), SET_BACK);
        }
        let mut found = self.look(&position)?;
        if found.is_passed_over {
            tracing::info!("a subfolder was moved in; files that were given up are read again");
            position.drop_floor();
            found = self.look(&position)?;
        }
        position.files.extend(std::mem::take(&mut found.marked.completed));
        position.know(std::mem::take(&mut found.folders), found.marked.is_whole);
        let folder = open(&self.root, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY, Mode::empty())?;
        let folder = File::from(folder);
        let mut draft = Draft { gathered: Gathered::new(self.limits), position };
        let mut is_cut = found.is_cut;
        for file in &found.unread {
            if draft.gathered.is_full() {
                is_cut = true;
                break;
            }
            let is_known = draft.position.has_mark(&file.id, file.born);
            let unread = found.least.iter().chain([&file.key]).min();
            let has_room =
                draft.position.files.contains_key(&file.id) || draft.position.make_room(&found.marked, unread);
            // One that settled late may be older than all that were read. It takes the place of the youngest of them.
            let is_oldest = unread == Some(&file.key);
            let may_be_read = has_room || (is_oldest && draft.position.youngest_done(&found.marked).is_some());
            if !may_be_read {
                // Once for all of them.
                self.warnings.tell(Path::new("."), TOO_MANY);
                continue;
            }
            match self.file(&folder, file, &mut draft) {
                Ok(()) => {
                    self.failing.forget(file);
                    found.marked.keys.insert(file.id.clone(), file.key.clone());
                    if !has_room {
                        draft.position.give_up_youngest(&found.marked);
                    }
                }
                Err(error) => {
                    // If it has no room, all others wait for it: not for ever.
                    let is_given_up = self.failing.is_over(file) && !has_room;
                    self.skip(file, &error, if is_given_up { GIVEN_UP } else { FAILED });
                    // It is still unread, so nothing younger may be taken for read because of it.
                    if !is_known && !is_given_up && error.kind() != ErrorKind::PermissionDenied {
                        found.least = found.least.take().into_iter().chain([file.key.clone()]).min();
                    }
                }
            }
        }
        let has_more = (is_cut || draft.gathered.is_full()) && draft.position != before;
        Ok(Page { records: draft.gathered.records, position: draft.position, has_more })
    }

    fn look(&mut self, position: &Position) -> io::Result<Scan> {
        scan(&self.root, &self.config, position, now(), &self.denied, &mut self.warnings)
    }

    fn skip(&mut self, file: &Found, error: &io::Error, problem: &'static str) {
        match error.kind() {
            // It went away since the look.
            ErrorKind::NotFound => {}
            ErrorKind::PermissionDenied => {
                if self.denied.len() >= DENIED_MAX {
                    self.denied.clear();
                }
                self.denied.insert((file.id.clone(), file.key.changed));
                self.warnings
                    .tell(&file.path, "this account may not read a file; it is left out until its rights change");
            }
            _ => {
                tracing::debug!(%error, path = file.key.path, "cannot read a file");
                self.warnings.tell(&file.path, problem);
            }
        }
    }

    /// Reads what is left of a file, as far as the page has room.
    fn file(&mut self, folder: &File, found: &Found, draft: &mut Draft) -> io::Result<()> {
        let file = open_below(folder, &found.path)?;
        let metadata = file.metadata()?;
        // It was replaced since the look. The next look finds it.
        let is_same = id_of(&metadata, folder.metadata()?.dev()) == found.id;
        if !metadata.is_file() || !is_same || !may_be_same(born(&metadata), found.born) {
            return Err(ErrorKind::NotFound.into());
        }
        let modified = modified(&metadata);
        // If it has changed since the look, what it ends with may not be its end.
        let found = &Found { is_quiet: found.is_quiet && modified == found.modified, ..found.clone() };
        let mark = draft.position.files.get(&found.id).copied();
        let mut offset = found.offset;
        if !found.packed && offset > 0 && mark.is_some_and(|mark| check(&file, offset).ok() != Some(mark.check)) {
            tracing::info!(path = found.key.path, "a file is not the one that was read; reading it from its beginning");
            offset = 0;
        }
        let begun_at = offset;
        let plain = if found.packed { None } else { Some(file.try_clone()?) };
        let opened = Opened { found, plain, modified };
        let stage = match self.lines(&opened, file, offset, draft) {
            Ok(Some(mut lines)) => {
                let stage = self.read(&opened, &mut lines, &mut offset, &mut draft.gathered)?;
                if found.packed && stage == Stage::Reading {
                    self.open = Some(Open { id: found.id.clone(), modified, offset, lines });
                }
                stage
            }
            Ok(None) => Stage::Reading,
            Err(error) if found.packed && is_of_content(&error) => {
                self.broken(found, &error, &[], &mut offset, &mut draft.gathered)
            }
            Err(error) => return Err(error),
        };
        let check = opened.plain.as_ref().map_or(Ok(0), |plain| check(plain, offset))?;
        let (packed, born) = (found.packed, found.born);
        let mark = Mark { offset, modified, check, stage, packed, born, size: packed.then_some(metadata.len()) };
        draft.position.files.insert(found.id.clone(), mark);
        if offset != begun_at {
            draft.position.at = Some(At { key: found.key.clone(), offset });
        }
        Ok(())
    }

    /// The lines of a file from `offset` on. `None` if the page must end before a packed file is unpacked so far; the next
    /// page goes on with that.
    fn lines(
        &mut self,
        opened: &Opened<'_>,
        mut file: File,
        offset: u64,
        draft: &mut Draft,
    ) -> io::Result<Option<Content>> {
        let lines_max = self.config.line_bytes_max;
        let Opened { found, modified, .. } = opened;
        if !found.packed {
            file.seek(SeekFrom::Start(offset))?;
            return Ok(Some(plain(BufReader::with_capacity(BUFFER_BYTES, file), lines_max)));
        }
        let is_same = |open: &Open| open.id == found.id && open.modified == *modified && open.offset <= offset;
        let mut open = self.open.take().filter(is_same).unwrap_or_else(|| {
            let lines = unpacked(BufReader::with_capacity(BUFFER_BYTES, file), lines_max);
            Open { id: found.id.clone(), modified: *modified, offset: 0, lines }
        });
        draft.position.unpacked = None;
        if !draft.gathered.pass_over(&mut open.lines, &mut open.offset, offset)? {
            // The cursor says so, because a page with more must move it.
            draft.position.unpacked = Some(open.offset);
            self.open = Some(open);
            return Ok(None);
        }
        Ok(Some(open.lines))
    }

    fn read(
        &self,
        opened: &Opened<'_>,
        lines: &mut Content,
        offset: &mut u64,
        gathered: &mut Gathered,
    ) -> io::Result<Stage> {
        let found = opened.found;
        let mut so_far = Vec::new();
        loop {
            if gathered.is_full() {
                return Ok(Stage::Reading);
            }
            match lines.next(&mut so_far) {
                Ok(None) => return Ok(Stage::Done),
                // A packed file that ends is whole.
                Ok(Some(line))
                    if line.end == End::Open
                        && !found.packed
                        && !(found.is_quiet && opened.ends_at(*offset + line.length)?) =>
                {
                    return Ok(Stage::Waiting);
                }
                Ok(Some(line)) => {
                    let place = Place { name: &found.key.path, offset: *offset };
                    if gathered.take(&*self.records, place, &line, self.config.line_bytes_max).is_err() {
                        // Hold the file here. Each look comes again, until the line is not ahead of the clock.
                        lines.put_back(line);
                        return Ok(Stage::Reading);
                    }
                    *offset += line.length;
                }
                Err(error) if found.packed && is_of_content(&error) => {
                    return Ok(self.broken(found, &error, &so_far, offset, gathered));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A packed file cannot be unpacked from here on. If it only ends too early, the rest may still come.
    fn broken(
        &self,
        found: &Found,
        error: &io::Error,
        so_far: &[u8],
        offset: &mut u64,
        gathered: &mut Gathered,
    ) -> Stage {
        if error.kind() == ErrorKind::UnexpectedEof && !found.is_quiet {
            return Stage::Waiting;
        }
        let place = Place { name: &found.key.path, offset: *offset };
        gathered.cut_off(&*self.records, place, "file", so_far, error);
        *offset += so_far.len() as u64;
        Stage::Done
    }
}

impl Opened<'_> {
    /// Whether the file still ends at `end` and has not changed since it was opened. A writer may have woken up meanwhile;
    /// then half a line must not be taken for a line.
    fn ends_at(&self, end: u64) -> io::Result<bool> {
        let Some(plain) = &self.plain else { return Ok(true) };
        let metadata = plain.metadata()?;
        Ok(metadata.len() == end && modified(&metadata) == self.modified)
    }
}

/// What the position is of: the folder as it is configured.
pub(super) fn folder_id(root: &Path) -> String {
    hash_of(root.components().map(|part| text_of(Path::new(part.as_os_str())).into_bytes()))
}

fn hash_of(parts: impl Iterator<Item = impl AsRef<[u8]>>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
        hash.update(b"\0");
    }
    hex::encode(&hash.finalize()[..8])
}

/// Opens a file below `folder`. No part of its path may be a link, even if somebody puts one there just now.
fn open_below(folder: &File, path: &Path) -> io::Result<File> {
    // Without NONBLOCK, opening a pipe would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let opened = match openat2(folder, path, flags, Mode::empty(), resolve) {
        // An old kernel, or a sandbox that does not know the call: go step by step.
        Err(Errno::NOSYS | Errno::PERM) => open_stepwise(folder, path, flags),
        opened => opened,
    };
    Ok(File::from(opened?))
}

fn open_stepwise(folder: &File, path: &Path, flags: OFlags) -> rustix::io::Result<rustix::fd::OwnedFd> {
    let mut parts = path.iter().peekable();
    let mut at = openat(folder, ".", OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY, Mode::empty())?;
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        let own = if is_last { flags } else { OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW };
        at = openat(&at, Path::new(part), own, Mode::empty())?;
    }
    Ok(at)
}

/// A hash of the bytes before `offset`.
fn check(file: &File, offset: u64) -> io::Result<u32> {
    let begin = offset.saturating_sub(CHECKED_BYTES);
    let mut bytes = [0; CHECKED_BYTES as usize];
    let bytes = &mut bytes[..usize::try_from(offset - begin).unwrap_or_default()];
    file.read_exact_at(bytes, begin)?;
    let hash = Sha256::digest(bytes);
    Ok(u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]))
}

/// The clock that file systems use, in nanoseconds since the epoch.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// A writer wakes up between the look at a file and the reading of its last line.
    #[test]
    fn a_file_that_grew_while_it_was_read_does_not_end_where_reading_ended() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |text: &[u8]| File::options().append(true).open(file.path()).unwrap().write_all(text).unwrap();
        write(b"half a");
        let found = Found { is_quiet: true, size: 6, ..Found::default() };
        let plain = File::open(file.path()).unwrap();
        let modified = modified(&plain.metadata().unwrap());
        let opened = Opened { found: &found, plain: Some(plain), modified };
        assert!(opened.ends_at(6).unwrap());
        assert!(!opened.ends_at(5).unwrap());
        write(b" line\n");
        assert!(!opened.ends_at(6).unwrap());
    }
}
