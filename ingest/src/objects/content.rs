//! The content of an object, as a stream of bytes that asks for one piece after another. It blocks.

use std::io::{self, BufRead, ErrorKind, Read};

use bytes::{Buf as _, Bytes};

use super::answers::{Class, Failure};
use super::position::Object;
use super::service::Client;
use super::wait::Wait;
use crate::lines::{Content, plain, unpacked};

/// The most bytes of an object that are held as they came. What is packed begins with a header that unpacking reads in one
/// go: after a failure within it, it gives an end in place of the rest. So the header must be within the first piece.
const PIECE_BYTES: u64 = 2 << 20;
/// The most bytes of memory that reading takes: a piece, and the chunk that is added to it.
pub(super) const PIECES_BYTES_MAX: usize = 2 * PIECE_BYTES as usize;

/// Opens `object` at `offset`; a packed one at its beginning.
pub(super) fn open(
    client: &Client,
    wait: &Wait,
    object: &Object,
    packed: bool,
    offset: u64,
    line_bytes_max: usize,
) -> Content {
    let pieces = Pieces {
        client: client.clone(),
        wait: wait.clone(),
        object: object.clone(),
        at: if packed { 0 } else { offset },
        piece: Bytes::new(),
        is_begun: false,
    };
    if packed { unpacked(pieces, line_bytes_max) } else { plain(pieces, line_bytes_max) }
}

struct Pieces {
    client: Client,
    wait: Wait,
    object: Object,
    /// Where the next piece begins.
    at: u64,
    piece: Bytes,
    is_begun: bool,
}

impl Pieces {
    /// The next piece. A line may have no end, so a page's time ends between two pieces. The first one always comes.
    ///
    /// # Errors
    /// Of the kind `TimedOut` when the page's time is over; then the next page may go on. Otherwise of a kind that unpacking
    /// never gives, so that the two are told apart.
    fn next(&self) -> io::Result<Bytes> {
        if self.is_begun && self.wait.is_over() {
            let why = format!("a line is still without an end {} bytes into the object", self.at);
            return Err(io::Error::new(ErrorKind::TimedOut, Failure::new(Class::Slow, why)));
        }
        let end = self.object.size.min(self.at.saturating_add(PIECE_BYTES));
        self.wait.on(self.client.read(&self.object, self.at..end)).map_err(io::Error::other)
    }
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.piece.is_empty() && self.at < self.object.size {
            self.piece = self.next()?;
            self.is_begun = true;
            self.at += self.piece.len() as u64;
        }
        Ok(&self.piece)
    }

    fn consume(&mut self, bytes: usize) {
        self.piece.advance(bytes);
    }
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let buffer = self.fill_buf()?;
        let bytes = buffer.len().min(into.len());
        into[..bytes].copy_from_slice(&buffer[..bytes]);
        self.consume(bytes);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn the_header_of_what_is_packed_ends_within_a_piece_or_is_refused() {
        const EXTRA_NAME_AND_COMMENT: u8 = 0b1_1100;
        let begin =
            [&[0x1f, 0x8b, 8, EXTRA_NAME_AND_COMMENT, 0, 0, 0, 0, 0, 0, 0xff, 0xff][..], &[0; 0xffff][..]].concat();
        let piece = Read::chain(Cursor::new(begin), io::repeat(b'x')).take(PIECE_BYTES);
        let error = unpacked(io::BufReader::new(piece), 1_000).next(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "not for its end, which comes too soon: {error}");
    }
}
