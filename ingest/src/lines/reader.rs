//! The lines of a stream of bytes, each with its length there. It holds no more than one line of the allowed length.

use std::io::{self, BufRead, ErrorKind};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

/// So much is kept of a line that can never be read.
pub(crate) const HEAD_BYTES_MAX: usize = 64 << 10;
/// A line that is too long is cut into pieces of at most about this many bytes, so that one look at it ends in time.
const PIECE_BYTES_MAX: u64 = 256 << 20;

/// A line, or what there is of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Its bytes without the line end, or the first of them if it is too long.
    pub(crate) bytes: Bytes,
    /// How many bytes it takes in the stream, with its line end.
    pub(crate) length: u64,
    /// How it ends.
    pub(crate) end: End,
    /// The SHA-256 of all its bytes, if it is too long.
    pub(crate) too_long: Option<[u8; 32]>,
}

/// How a line ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With a line end, or because it is too long for another piece.
    Whole,
    /// With the stream: more may come.
    Open,
}

/// Reads lines.
pub(crate) struct Lines<R> {
    reader: R,
    bytes_max: usize,
    /// A line that was given back.
    kept: Option<Line>,
    /// A line whose end has not come in time.
    begun: Option<Begun>,
}

/// A line that is being read.
#[derive(Default)]
struct Begun {
    /// What is kept of it: all of it, or its beginning if it is too long.
    bytes: Vec<u8>,
    length: u64,
    /// Of all its bytes, if it is too long.
    hash: Option<Sha256>,
}

impl<R: BufRead> Lines<R> {
    /// The lines of `reader`. Those beyond `bytes_max` are too long.
    pub(crate) const fn new(reader: R, bytes_max: usize) -> Self {
        Self { reader, bytes_max, kept: None, begun: None }
    }

    /// Reads over at most `bytes`, and counts them in `skipped`, also those before an error.
    pub(crate) fn skip(&mut self, bytes: u64, skipped: &mut u64) -> io::Result<()> {
        let end = skipped.saturating_add(bytes);
        while *skipped < end {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                break;
            }
            let wanted = usize::try_from(end - *skipped).unwrap_or(usize::MAX).min(buffer.len());
            self.reader.consume(wanted);
            *skipped += wanted as u64;
        }
        Ok(())
    }

    /// Gives a line back, to be the next one.
    pub(crate) fn put_back(&mut self, line: Line) {
        self.kept = Some(line);
    }

    /// The next line. `None` at the end. After an error, `so_far` has what was read of it. After one of the kind
    /// `TimedOut`, the next call goes on where this one ended.
    pub(crate) fn next(&mut self, so_far: &mut Vec<u8>) -> io::Result<Option<Line>> {
        so_far.clear();
        if let Some(line) = self.kept.take() {
            return Ok(Some(line));
        }
        let Begun { bytes, mut length, mut hash } = self.begun.take().unwrap_or_default();
        *so_far = bytes;
        let end = loop {
            let buffer = match self.reader.fill_buf() {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    self.begun = Some(Begun { bytes: std::mem::take(so_far), length, hash });
                    return Err(error);
                }
                filled => filled?,
            };
            if buffer.is_empty() {
                break End::Open;
            }
            let line_end = memchr::memchr(b'\n', buffer);
            let part = &buffer[..line_end.unwrap_or(buffer.len())];
            match &mut hash {
                Some(hash) => hash.update(part),
                None if so_far.len() + part.len() <= self.bytes_max => so_far.extend_from_slice(part),
                None => {
                    let mut own = Sha256::new();
                    own.update(&*so_far);
                    own.update(part);
                    hash = Some(own);
                    so_far.extend_from_slice(&part[..part.len().min(HEAD_BYTES_MAX)]);
                    so_far.truncate(HEAD_BYTES_MAX);
                    so_far.shrink_to_fit();
                }
            }
            let taken = part.len() + usize::from(line_end.is_some());
            self.reader.consume(taken);
            length += taken as u64;
            if line_end.is_some() || (hash.is_some() && length >= PIECE_BYTES_MAX) {
                break End::Whole;
            }
        };
        if length == 0 {
            return Ok(None);
        }
        let too_long = hash.map(|hash| hash.finalize().into());
        Ok(Some(Line { bytes: std::mem::take(so_far).into(), length, end, too_long }))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Read};

    use proptest::prelude::{Just, any};
    use proptest::{collection, prop_assert_eq, prop_oneof, proptest};

    use super::*;

    fn all(bytes: &[u8], buffer: usize, bytes_max: usize) -> Vec<Line> {
        let mut lines = Lines::new(BufReader::with_capacity(buffer, bytes), bytes_max);
        let mut found = Vec::new();
        while let Some(line) = lines.next(&mut Vec::new()).unwrap() {
            found.push(line);
        }
        found
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over_and_named_by_all_its_bytes() {
        let text = [vec![b'a'; 100_000], b"\nshort\nopen".to_vec()].concat();
        for buffer in [1, 7, 4_096, 1 << 20] {
            let [long, short, open] = &all(&text, buffer, 99_999)[..] else { panic!("three lines") };
            assert_eq!((long.bytes.len(), long.length, long.end), (HEAD_BYTES_MAX, 100_001, End::Whole));
            assert_eq!(long.too_long, Some(Sha256::digest(&text[..100_000]).into()));
            assert_eq!((&*short.bytes, short.length, short.too_long), (&b"short"[..], 6, None));
            assert_eq!((&*open.bytes, open.length, open.end), (&b"open"[..], 4, End::Open));
        }
        assert_eq!(all(&text, 4_096, 100_000)[0].too_long, None, "as long as it may be");
    }

    /// Gives a few bytes, and then nothing in time, in turn.
    struct Halting<'b> {
        bytes: &'b [u8],
        is_late: bool,
    }

    impl Read for Halting<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let bytes = self.fill_buf()?.read(into)?;
            self.consume(bytes);
            Ok(bytes)
        }
    }

    impl BufRead for Halting<'_> {
        fn fill_buf(&mut self) -> io::Result<&[u8]> {
            if self.is_late {
                self.is_late = false;
                return Err(ErrorKind::TimedOut.into());
            }
            Ok(&self.bytes[..self.bytes.len().min(3)])
        }

        fn consume(&mut self, bytes: usize) {
            self.bytes = &self.bytes[bytes..];
            self.is_late = true;
        }
    }

    #[test]
    fn a_line_whose_end_does_not_come_in_time_is_read_on_later() {
        let text = b"a line that is too long\nshort\nopen";
        for bytes_max in [5, 100] {
            let mut lines = Lines::new(Halting { bytes: text, is_late: true }, bytes_max);
            let (mut found, mut late) = (Vec::new(), 0);
            loop {
                match lines.next(&mut Vec::new()) {
                    Ok(Some(line)) => found.push(line),
                    Ok(None) => break,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::TimedOut);
                        late += 1;
                    }
                }
            }
            assert_eq!(found, all(text, 3, bytes_max));
            assert!(late > 5, "{late}");
        }
    }

    proptest! {
        #[test]
        fn lines_are_what_lies_between_line_ends(
            bytes in collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200), buffer in 1_usize..50,
        ) {
            let lines = all(&bytes, buffer, usize::MAX);
            let joined: Vec<u8> = lines.iter().flat_map(|line| {
                let end: &[u8] = if line.end == End::Whole { b"\n" } else { b"" };
                [&line.bytes[..], end].concat()
            }).collect();
            prop_assert_eq!(&joined, &bytes);
            prop_assert_eq!(lines.iter().map(|line| line.length).sum::<u64>(), bytes.len() as u64);
        }
    }
}
