//! Reads a page of lines from the files of the folder. All of it blocks.

use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader, ErrorKind, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use headrace_schemas::time::Timestamp;
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat, openat2};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::config::Config;
use super::lines::{End, HEAD_BYTES_MAX, Line, Lines};
use super::position::{At, Key, Mark, Position, Stage};
use super::scan::{Denied, Found, id_of, scan};
use super::warnings::Warnings;
use crate::ndjson::split::{Split, check_ahead};
use crate::source::Record;

/// The most lines of a page.
const LINES_MAX: usize = 1_000;
/// The most bytes of a page's lines. The last line may go beyond it.
const BYTES_MAX: usize = 4 << 20;
/// The most bytes that are read for a page, also of lines that are passed over.
const READ_BYTES_MAX: u64 = 512 << 20;
/// So many bytes before an offset tell whether the file is still the one that was read.
const CHECKED_BYTES: u64 = 64;
/// The most files that are remembered as denied. Beyond that, they are tried again.
const DENIED_MAX: usize = 10_000;
const BUFFER_BYTES: usize = 64 << 10;
/// What a record takes in memory besides its line, and the message that is made of it.
const RECORD_BYTES: usize = 3 << 10;

type Reading = Lines<Box<dyn BufRead + Send>>;

/// The most bytes of memory that a page takes: its lines, of which the last may be as long as `line_bytes_max` allows and is
/// copied while it grows, and its records.
pub(super) const fn page_bytes_max(line_bytes_max: usize) -> usize {
    BYTES_MAX + 2 * line_bytes_max + LINES_MAX * RECORD_BYTES
}

/// Reads the folder. It keeps nothing that the position does not have, but for warnings and a packed file that is open.
pub(super) struct Reader {
    root: PathBuf,
    config: Config,
    split: Split,
    warnings: Warnings,
    denied: Denied,
    open: Option<Open>,
}

/// A packed file that is open between two pages, so that it need not be unpacked from its beginning for each.
struct Open {
    id: String,
    modified: i64,
    offset: u64,
    lines: Reading,
}

/// What one look gave.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) records: Vec<Record>,
    pub(super) position: Position,
    pub(super) has_more: bool,
    bytes: usize,
    read: u64,
}

impl Page {
    fn is_full(&self) -> bool {
        self.records.len() >= LINES_MAX || self.bytes >= BYTES_MAX || self.read >= READ_BYTES_MAX
    }
}

impl Reader {
    pub(super) fn new(config: &Config, split: Split) -> Self {
        Self {
            root: config.path(),
            config: config.clone(),
            split,
            warnings: Warnings::default(),
            denied: Denied::default(),
            open: None,
        }
    }

    /// The lines behind `position`.
    pub(super) fn page(&mut self, position: Position) -> io::Result<Page> {
        let before = position.clone();
        let mut found = scan(&self.root, &self.config, &position, now(), &self.denied, &mut self.warnings)?;
        let folder = open(&self.root, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY, Mode::empty())?;
        let folder = File::from(folder);
        let mut page = Page { position, has_more: found.is_cut, ..Page::default() };
        for file in &found.unread {
            if page.is_full() {
                page.has_more = true;
                break;
            }
            let is_known = page.position.files.contains_key(&file.id);
            let unread = found.least.iter().chain([&file.key]).min();
            if !is_known && !page.position.make_room(&found.marked, unread) {
                self.warnings.tell(&file.path, "too many files have a line that is not complete; this one has to wait");
                continue;
            }
            match self.file(&folder, file, &mut page) {
                Ok(()) => _ = found.marked.insert(file.id.clone(), file.key.clone()),
                Err(error) => {
                    self.skip(file, &error);
                    // It is still unread, so nothing younger may be taken for read because of it.
                    if !is_known && error.kind() != ErrorKind::PermissionDenied {
                        found.least = found.least.take().into_iter().chain([file.key.clone()]).min();
                    }
                }
            }
        }
        page.has_more = (page.has_more || page.is_full()) && page.position != before;
        Ok(page)
    }

    fn skip(&mut self, file: &Found, error: &io::Error) {
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
                self.warnings.tell(&file.path, "cannot read a file; it is tried again at each look");
            }
        }
    }

    /// Reads what is left of a file, as far as the page has room.
    fn file(&mut self, folder: &File, found: &Found, page: &mut Page) -> io::Result<()> {
        let file = open_below(folder, &found.path)?;
        let metadata = file.metadata()?;
        // It was replaced since the look. The next look finds it.
        if !metadata.is_file() || id_of(&metadata, folder.metadata()?.dev()) != found.id {
            return Err(ErrorKind::NotFound.into());
        }
        let modified = modified(&metadata);
        // If it has changed since the look, what it ends with may not be its end.
        let found = &Found { is_quiet: found.is_quiet && modified == found.modified, ..found.clone() };
        let mark = page.position.files.get(&found.id).copied();
        let mut offset = found.offset;
        if !found.packed && offset > 0 && mark.is_some_and(|mark| check(&file, offset).ok() != Some(mark.check)) {
            tracing::info!(path = found.key.path, "a file is not the one that was read; reading it from its beginning");
            offset = 0;
        }
        let begun_at = offset;
        let plain = if found.packed { None } else { Some(file.try_clone()?) };
        let stage = match self.lines(found, file, modified, offset) {
            Ok(mut lines) => {
                let stage = self.read(found, &mut lines, &mut offset, page)?;
                if found.packed && stage == Stage::Reading {
                    self.open = Some(Open { id: found.id.clone(), modified, offset, lines });
                }
                stage
            }
            Err(error) if found.packed && is_of_content(&error) => self.broken(found, &error, &[], &mut offset, page),
            Err(error) => return Err(error),
        };
        let check = plain.map_or(Ok(0), |plain| check(&plain, offset))?;
        let mark = Mark { offset, modified, check, stage, packed: found.packed };
        page.position.files.insert(found.id.clone(), mark);
        if offset != begun_at {
            page.position.at = Some(At { key: found.key.clone(), offset });
        }
        Ok(())
    }

    /// The lines of a file from `offset` on.
    fn lines(&mut self, found: &Found, mut file: File, modified: i64, offset: u64) -> io::Result<Reading> {
        if !found.packed {
            file.seek(SeekFrom::Start(offset))?;
            return Ok(Lines::new(Box::new(BufReader::with_capacity(BUFFER_BYTES, file)), self.config.line_bytes_max));
        }
        let kept = self.open.take();
        let is_same = |open: &Open| open.id == found.id && open.modified == modified && open.offset == offset;
        if let Some(open) = kept.filter(is_same) {
            return Ok(open.lines);
        }
        let unpacked = MultiGzDecoder::new(BufReader::with_capacity(BUFFER_BYTES, file));
        let mut lines: Reading =
            Lines::new(Box::new(BufReader::with_capacity(BUFFER_BYTES, unpacked)), self.config.line_bytes_max);
        lines.skip(offset)?;
        Ok(lines)
    }

    fn read(&self, found: &Found, lines: &mut Reading, offset: &mut u64, page: &mut Page) -> io::Result<Stage> {
        let mut so_far = Vec::new();
        loop {
            if page.is_full() {
                return Ok(Stage::Reading);
            }
            match lines.next(&mut so_far) {
                Ok(None) => return Ok(Stage::Done),
                // A packed file that ends is whole.
                Ok(Some(Line { end: End::Open, .. })) if !found.packed && !found.is_quiet => return Ok(Stage::Waiting),
                Ok(Some(line)) => {
                    let length = line.length;
                    self.take(&found.key, *offset, line, page);
                    *offset += length;
                }
                Err(error) if found.packed && is_of_content(&error) => {
                    return Ok(self.broken(found, &error, &so_far, offset, page));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A packed file cannot be unpacked from here on. If it only ends too early, the rest may still come.
    fn broken(&self, found: &Found, error: &io::Error, so_far: &[u8], offset: &mut u64, page: &mut Page) -> Stage {
        if error.kind() == ErrorKind::UnexpectedEof && !found.is_quiet {
            return Stage::Waiting;
        }
        let why = format!("cannot unpack the file from here on ({error})");
        self.unreadable(&found.key, *offset, so_far, Sha256::digest(so_far).into(), &why, page);
        *offset += so_far.len() as u64;
        Stage::Done
    }

    /// Adds a line to the page.
    fn take(&self, key: &Key, offset: u64, line: Line, page: &mut Page) {
        page.read += line.length;
        let Line { mut bytes, length, too_long, .. } = line;
        if let Some(hash) = too_long {
            let why = format!("expected a line of at most {} bytes, found one of {length}", self.config.line_bytes_max);
            return self.unreadable(key, offset, &bytes, hash, &why, page);
        }
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        let bytes = Bytes::from(bytes);
        let record = self.split.record(bytes.clone());
        match record.and_then(|record| check_ahead(&record, Timestamp::now()).map(|()| record)) {
            Ok(record) => {
                page.bytes += bytes.len();
                page.records.push(record);
            }
            Err(bad) => {
                self.unreadable(key, offset, &bytes, Sha256::digest(&bytes).into(), &bad.to_string(), page);
            }
        }
    }

    fn unreadable(&self, key: &Key, offset: u64, bytes: &[u8], hash: [u8; 32], why: &str, page: &mut Page) {
        let place = Sha256::new().chain_update(&key.path).chain_update(b"\0").chain_update(offset.to_be_bytes());
        let own = format!("unreadable:{}", hex::encode(place.chain_update(hash).finalize()));
        let head = Bytes::copy_from_slice(&bytes[..bytes.len().min(HEAD_BYTES_MAX)]);
        let reason = format!("{} at byte {offset}: {why}", key.path);
        page.bytes += head.len();
        page.records.push(self.split.unreadable(&own, head, &reason));
    }
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

/// Whether what a file holds is to blame for a failure to unpack it, not the disk or the network that it is on.
fn is_of_content(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::InvalidData | ErrorKind::UnexpectedEof)
}

fn modified(metadata: &Metadata) -> i64 {
    metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())
}

/// The clock that file systems use, in nanoseconds since the epoch.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
