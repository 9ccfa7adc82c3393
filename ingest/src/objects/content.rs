//! The content of an object, as a stream of bytes that asks for one piece after another. It blocks.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use flate2::read::MultiGzDecoder;
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, ObjectStore};

use super::position::Object;
use super::wait::Wait;
use crate::lines::Lines;

/// The most bytes of an object that are held as they came.
const PIECE_BYTES: u64 = 2 << 20;
const BUFFER_BYTES: usize = 64 << 10;
/// The most bytes of memory that reading takes: a piece, and the chunks that it is put together of.
pub(super) const PIECES_BYTES_MAX: usize = 2 * PIECE_BYTES as usize + BUFFER_BYTES;

/// The lines of an object.
pub(super) type Content = Lines<Box<dyn BufRead + Send>>;

/// Opens `object` at `offset`; a packed one at its beginning.
pub(super) fn open(
    store: &Arc<dyn ObjectStore>,
    wait: &Wait,
    object: &Object,
    packed: bool,
    offset: u64,
    line_bytes_max: usize,
) -> Result<Content, object_store::path::Error> {
    let pieces = Pieces {
        store: Arc::clone(store),
        wait: wait.clone(),
        path: Path::parse(&object.path)?,
        tag: object.tag.clone(),
        at: if packed { 0 } else { offset },
        size: object.size,
        piece: Bytes::new(),
    };
    let bytes: Box<dyn BufRead + Send> = if packed {
        Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(pieces)))
    } else {
        Box::new(pieces)
    };
    Ok(Lines::new(bytes, line_bytes_max))
}

struct Pieces {
    store: Arc<dyn ObjectStore>,
    wait: Wait,
    path: Path,
    tag: Option<String>,
    /// Where the next piece begins.
    at: u64,
    size: u64,
    piece: Bytes,
}

impl Pieces {
    fn next(&self) -> Result<Bytes, Error> {
        let end = self.size.min(self.at + PIECE_BYTES);
        let options = GetOptions {
            if_match: self.tag.clone(),
            range: Some(GetRange::Bounded(self.at..end)),
            ..GetOptions::default()
        };
        let piece = self.wait.on(async {
            let got = self.store.get_opts(&self.path, options).await?;
            if got.meta.size != self.size {
                return Err(Error::Precondition {
                    path: self.path.to_string(),
                    source: "its size is not what it was listed with".into(),
                });
            }
            got.bytes().await
        })?;
        let expected = end - self.at;
        if piece.len() as u64 != expected {
            let source = format!("expected {expected} bytes, found {}", piece.len()).into();
            return Err(Error::Generic { store: "bucket", source });
        }
        Ok(piece)
    }
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.piece.is_empty() && self.at < self.size {
            // A kind that unpacking never gives, so that the two are told apart.
            self.piece = self.next().map_err(io::Error::other)?;
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
