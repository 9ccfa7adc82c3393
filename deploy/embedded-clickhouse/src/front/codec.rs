//! Compression on the wire, both ways: ClickHouse's own blocks (`compress=1`, `decompress=1`) and HTTP content
//! encodings. The code blocks and streams, and must never hold more than one block. We bound the size of a block,
//! because the client chooses the size in the block's header.

use std::io::{self, Read, Write as _};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use lz4_flex::frame::{FrameDecoder, FrameEncoder};

/// The most bytes in one block of a request, packed or unpacked. Official clients send at most 1 MiB.
const BLOCK_BYTES_MAX: usize = 64 << 20;
/// How many bytes go into one block of an answer. ClickHouse itself uses this size.
const BLOCK_BYTES: usize = 1 << 20;
/// The method byte and the two sizes. The checksum covers them too.
const HEADER_BYTES: usize = 9;
const CHECKSUM_BYTES: usize = 16;
const METHOD_NONE: u8 = 0x02;
const METHOD_LZ4: u8 = 0x82;

/// A content encoding of HTTP, or ClickHouse's own blocks. Clients ask for blocks by URL parameters, not by a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    /// `deflate`, which means a zlib stream.
    Deflate,
    /// An LZ4 frame, not ClickHouse's blocks.
    Lz4,
    /// `compress=1`, `decompress=1`.
    Blocks,
}

impl Encoding {
    /// Reads `Content-Encoding`. `None` for an encoding that this server cannot undo.
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Some(Self::Identity),
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "deflate" => Some(Self::Deflate),
            "lz4" => Some(Self::Lz4),
            _ => None,
        }
    }

    /// Chooses the answer's encoding from `Accept-Encoding`.
    pub(super) fn negotiate(accepted: &str) -> Self {
        let accepts = |name: &str| {
            accepted.split(',').any(|item| {
                let mut parts = item.split(';').map(str::trim);
                parts.next().is_some_and(|found| found.eq_ignore_ascii_case(name))
                    && !parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
            })
        };
        match () {
            () if accepts("lz4") => Self::Lz4,
            () if accepts("gzip") => Self::Gzip,
            () if accepts("deflate") => Self::Deflate,
            () => Self::Identity,
        }
    }

    /// The value of `Content-Encoding`. `None` if there is none to send.
    pub(super) fn name(self) -> Option<&'static str> {
        match self {
            Self::Identity | Self::Blocks => None,
            Self::Gzip => Some("gzip"),
            Self::Deflate => Some("deflate"),
            Self::Lz4 => Some("lz4"),
        }
    }

    /// Undoes the encoding.
    pub(super) fn decode<'body>(self, body: impl Read + 'body) -> Box<dyn Read + 'body> {
        match self {
            Self::Identity => Box::new(body),
            Self::Gzip => Box::new(MultiGzDecoder::new(body)),
            Self::Deflate => Box::new(ZlibDecoder::new(body)),
            Self::Lz4 => Box::new(FrameDecoder::new(body)),
            Self::Blocks => Box::new(BlockReader::new(body)),
        }
    }
}

/// Undoes ClickHouse's blocks: checksum (16 bytes), method, size with this header, size unpacked, data.
struct BlockReader<R> {
    packed: R,
    block: Vec<u8>,
    at: usize,
}

impl<R: Read> BlockReader<R> {
    fn new(packed: R) -> Self {
        Self { packed, block: Vec::new(), at: 0 }
    }

    /// Reads the next block. Returns false at the end of the data. An end inside a block is an error.
    fn next_block(&mut self) -> io::Result<bool> {
        let mut head = [0_u8; CHECKSUM_BYTES + HEADER_BYTES];
        let mut filled = 0;
        while filled < head.len() {
            match self.packed.read(&mut head[filled..])? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        let (checksum, header) = head.split_at(CHECKSUM_BYTES);
        let size =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
        let (packed_size, unpacked_size) = (size(1), size(5));
        if !(HEADER_BYTES..=BLOCK_BYTES_MAX).contains(&packed_size) || unpacked_size > BLOCK_BYTES_MAX {
            return Err(invalid(format!(
                "a compressed block of {packed_size} bytes, {unpacked_size} unpacked; at most {BLOCK_BYTES_MAX} are taken"
            )));
        }
        let mut packed = header.to_vec();
        packed.resize(packed_size, 0);
        self.packed.read_exact(&mut packed[HEADER_BYTES..])?;
        if checksum_of(&packed) != checksum {
            return Err(invalid("checksum of a compressed block does not match: corrupted data".into()));
        }
        self.block = unpack(&packed, unpacked_size)?;
        self.at = 0;
        Ok(true)
    }
}

impl<R: Read> Read for BlockReader<R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() {
            if !self.next_block()? {
                return Ok(0);
            }
        }
        let count = target.len().min(self.block.len() - self.at);
        target[..count].copy_from_slice(&self.block[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

fn unpack(packed: &[u8], size: usize) -> io::Result<Vec<u8>> {
    let (method, data) = (packed[0], &packed[HEADER_BYTES..]);
    let block = match method {
        METHOD_LZ4 => lz4_flex::block::decompress(data, size).map_err(|error| invalid(error.to_string()))?,
        METHOD_NONE => data.to_vec(),
        other => return Err(invalid(format!("compression method {other:#04x}; this server takes LZ4 and NONE"))),
    };
    if block.len() != size {
        return Err(invalid(format!("a compressed block holds {} bytes and announces {size}", block.len())));
    }
    Ok(block)
}

/// ClickHouse writes the high half of the hash first.
fn checksum_of(block: &[u8]) -> [u8; CHECKSUM_BYTES] {
    cityhash_rs::cityhash_102_128(block).rotate_right(64).to_le_bytes()
}

fn pack(data: &[u8], target: &mut Vec<u8>) {
    let start = target.len();
    target.extend_from_slice(&[0; CHECKSUM_BYTES]);
    let packed = lz4_flex::block::compress(data);
    target.push(METHOD_LZ4);
    // Both fit into 32 bits: a block is at most `BLOCK_BYTES`, and LZ4 adds less than one percent.
    target.extend_from_slice(&((packed.len() + HEADER_BYTES) as u32).to_le_bytes());
    target.extend_from_slice(&(data.len() as u32).to_le_bytes());
    target.extend_from_slice(&packed);
    let checksum = checksum_of(&target[start + CHECKSUM_BYTES..]);
    target[start..start + CHECKSUM_BYTES].copy_from_slice(&checksum);
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Encodes an answer piece by piece. The client can decode each piece when it arrives, so it sees rows early.
pub(super) enum Encoder {
    Plain,
    /// ClickHouse's blocks.
    Blocks,
    Gzip(GzEncoder<Vec<u8>>),
    Deflate(ZlibEncoder<Vec<u8>>),
    Lz4(FrameEncoder<Vec<u8>>),
}

impl Encoder {
    pub(super) fn new(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Blocks => Self::Blocks,
            Encoding::Gzip => Self::Gzip(GzEncoder::new(Vec::new(), Compression::fast())),
            Encoding::Deflate => Self::Deflate(ZlibEncoder::new(Vec::new(), Compression::fast())),
            Encoding::Lz4 => Self::Lz4(FrameEncoder::new(Vec::new())),
            Encoding::Identity => Self::Plain,
        }
    }

    pub(super) fn encode(&mut self, data: &[u8]) -> Bytes {
        const INFALLIBLE: &str = "writing to memory cannot fail";
        match self {
            Self::Plain => Bytes::copy_from_slice(data),
            Self::Blocks => {
                let mut target = Vec::with_capacity(data.len() / 2 + CHECKSUM_BYTES + HEADER_BYTES);
                data.chunks(BLOCK_BYTES).for_each(|block| pack(block, &mut target));
                target.into()
            }
            Self::Gzip(encoder) => {
                encoder.write_all(data).and_then(|()| encoder.flush()).expect(INFALLIBLE);
                std::mem::take(encoder.get_mut()).into()
            }
            Self::Deflate(encoder) => {
                encoder.write_all(data).and_then(|()| encoder.flush()).expect(INFALLIBLE);
                std::mem::take(encoder.get_mut()).into()
            }
            Self::Lz4(encoder) => {
                encoder.write_all(data).and_then(|()| encoder.flush()).expect(INFALLIBLE);
                std::mem::take(encoder.get_mut()).into()
            }
        }
    }

    /// What the encoding writes at its end.
    pub(super) fn finish(self) -> Bytes {
        const INFALLIBLE: &str = "writing to memory cannot fail";
        match self {
            Self::Plain | Self::Blocks => Bytes::new(),
            Self::Gzip(encoder) => encoder.finish().expect(INFALLIBLE).into(),
            Self::Deflate(encoder) => encoder.finish().expect(INFALLIBLE).into(),
            Self::Lz4(encoder) => encoder.finish().expect(INFALLIBLE).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::{Strategy as _, any, prop_assert_eq, proptest};

    use super::{BlockReader, Encoder, Encoding, METHOD_NONE, checksum_of};

    fn unpack(packed: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut data = Vec::new();
        BlockReader::new(packed).read_to_end(&mut data).map(|_| data)
    }

    proptest! {
        #[test]
        fn encoded_pieces_decode_to_what_went_in(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3000), 0..5)
                .prop_map(|pieces| pieces.into_iter().map(|piece| piece.repeat(3)).collect::<Vec<_>>())
        ) {
            for encoding in [Encoding::Blocks, Encoding::Gzip, Encoding::Deflate, Encoding::Lz4, Encoding::Identity] {
                let mut encoder = Encoder::new(encoding);
                let mut wire: Vec<u8> = pieces.iter().flat_map(|piece| encoder.encode(piece)).collect();
                wire.extend(encoder.finish());
                let mut found = Vec::new();
                encoding.decode(wire.as_slice()).read_to_end(&mut found).unwrap();
                prop_assert_eq!(&found, &pieces.concat());
            }
        }
    }

    #[test]
    fn damaged_blocks_are_refused() {
        let good = Encoder::Blocks.encode(b"some data, some data, some data");
        assert_eq!(unpack(&good).unwrap(), b"some data, some data, some data");
        for at in 0..good.len() {
            let mut bad = good.to_vec();
            bad[at] ^= 1;
            assert!(unpack(&bad).is_err(), "a flipped bit at {at} went unseen");
        }
        assert!(unpack(&good[..good.len() - 1]).is_err());
    }

    #[test]
    fn uncompressed_blocks_are_taken() {
        let mut block = vec![METHOD_NONE, 12, 0, 0, 0, 3, 0, 0, 0, b'a', b'b', b'c'];
        let mut packed = checksum_of(&block).to_vec();
        packed.append(&mut block);
        assert_eq!(unpack(&packed).unwrap(), b"abc");
    }

    #[test]
    fn encodings_are_negotiated() {
        assert_eq!(Encoding::negotiate("zstd, lz4, gzip;q=0.5"), Encoding::Lz4);
        assert_eq!(Encoding::negotiate("br, gzip;q=0.5"), Encoding::Gzip);
        assert_eq!(Encoding::negotiate("gzip;q=0, deflate"), Encoding::Deflate);
        assert_eq!(Encoding::negotiate("br"), Encoding::Identity);
        assert_eq!(Encoding::parse("zstd"), None);
    }
}
