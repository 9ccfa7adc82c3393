//! Lines, for every source that reads them from somewhere: how they are cut out, and how a page of records is made of
//! them.
//!
//! It knows neither where lines come from nor what is in them. A source says what a line becomes ([`Records`]), and
//! whoever reads keeps its place by [`Line::length`].

mod content;
mod named;
mod reader;

use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

pub(crate) use self::content::{Content, is_of_content, plain, unpacked};
pub(crate) use self::named::named;
pub(crate) use self::reader::{End, HEAD_BYTES_MAX, Line, Lines};
use crate::source::Record;

/// What lines become: the part of a source that knows them.
pub(crate) trait Records: Send + Sync + 'static {
    /// The record of `line`, which has no line end.
    fn record(&self, line: Bytes) -> Result<Record, Unfit>;

    /// The record that stands for a line, or a file, that can never be read, for `reason`. `own` names it among all that
    /// the source ever gives.
    fn unreadable(&self, own: &str, head: Bytes, reason: &str) -> Record;
}

/// Why a line makes no record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// It never will, for this reason.
    Never(String),
    /// Its time is ahead of the clock. It will after this long.
    Early(Duration),
}

/// What bounds a page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The most lines.
    pub(crate) lines: usize,
    /// The most bytes of lines. The last line may go beyond it.
    pub(crate) bytes: usize,
    /// The most bytes that are read for it, also of lines that are passed over.
    pub(crate) read: u64,
    /// The longest time.
    pub(crate) time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { lines: 1_000, bytes: 4 << 20, read: 512 << 20, time: Duration::from_secs(20) }
    }
}

/// What a record takes in memory besides its line, with the message that is made of it.
const RECORD_BYTES: usize = 3 << 10;

impl Limits {
    /// The most bytes of memory that a page takes: its lines, of which the last may have `line_bytes_max` and is copied
    /// while it grows, and its records.
    pub(crate) const fn page_bytes_max(&self, line_bytes_max: usize) -> usize {
        self.bytes + 2 * line_bytes_max + self.lines * RECORD_BYTES
    }
}

/// The records of a page as it is made.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub(crate) records: Vec<Record>,
    limits: Limits,
    until: Instant,
    bytes: usize,
    read: u64,
}

/// Where a line stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// The file or object.
    pub(crate) name: &'a str,
    /// Where the line begins there. Of what is packed: after unpacking.
    pub(crate) offset: u64,
}

impl Gathered {
    /// An empty page.
    pub(crate) fn new(limits: Limits) -> Self {
        Self { records: Vec::new(), limits, until: Instant::now() + limits.time, bytes: 0, read: 0 }
    }

    /// Whether the page must end.
    pub(crate) fn is_full(&self) -> bool {
        self.records.len() >= self.limits.lines
            || self.bytes >= self.limits.bytes
            || self.read >= self.limits.read
            || Instant::now() >= self.until
    }

    /// Counts bytes that were read and gave nothing.
    pub(crate) fn count(&mut self, bytes: u64) {
        self.read = self.read.saturating_add(bytes);
    }

    /// Adds a line. Lines beyond `bytes_max` are told to be too long.
    ///
    /// # Errors
    /// After how long to come again, if the line is not to be read yet.
    pub(crate) fn take(
        &mut self,
        records: &dyn Records,
        place: Place<'_>,
        line: &Line,
        bytes_max: usize,
    ) -> Result<(), Duration> {
        if let Some(hash) = line.too_long {
            let why = format!("expected a line of at most {bytes_max} bytes, found one of {}", line.length);
            self.count(line.length);
            self.unreadable(records, place, &line.bytes, hash, &why);
            return Ok(());
        }
        let bytes = match line.bytes.split_last() {
            Some((b'\r', _)) => line.bytes.slice(..line.bytes.len() - 1),
            _ => line.bytes.clone(),
        };
        if bytes.iter().all(u8::is_ascii_whitespace) {
            self.count(line.length);
            return Ok(());
        }
        match records.record(bytes.clone()) {
            Ok(record) => {
                self.bytes += bytes.len();
                self.records.push(record);
            }
            Err(Unfit::Early(wait)) => return Err(wait),
            Err(Unfit::Never(why)) => self.unreadable(records, place, &bytes, Sha256::digest(&bytes).into(), &why),
        }
        self.count(line.length);
        Ok(())
    }

    /// Adds a record that stands for `bytes`, which can never be read.
    pub(crate) fn unreadable(
        &mut self,
        records: &dyn Records,
        place: Place<'_>,
        bytes: &[u8],
        hash: [u8; 32],
        why: &str,
    ) {
        let Place { name, offset } = place;
        let own = Sha256::new().chain_update(name).chain_update(b"\0").chain_update(offset.to_be_bytes());
        let own = format!("unreadable:{}", hex::encode(own.chain_update(hash).finalize()));
        let head = Bytes::copy_from_slice(&bytes[..bytes.len().min(HEAD_BYTES_MAX)]);
        self.bytes += head.len();
        self.records.push(records.unreadable(&own, head, &format!("{name} at byte {offset}: {why}")));
    }
}
