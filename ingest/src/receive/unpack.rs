//! Unpacks a verified body. Its sender chose the unpacked size, so room is taken for each piece before it is made.
//!
//! What is unpacked of the packed body is freed at once. So both together seldom need more room than the unpacked body
//! alone: what is left of the packed one is smaller than what will be made of it.

use std::collections::VecDeque;
use std::io::{self, Read};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::admission::Reservation;
use crate::config::Config;
use crate::source::Refusal;

/// How many bytes are unpacked at a time: a few milliseconds of work, away from the reactor.
const PIECE_BYTES: usize = 1 << 20;

/// A packed body, cut into pieces that are freed as they are read.
struct Pieces(VecDeque<Bytes>);

impl Pieces {
    /// Cuts `packed` from its end, and gives the memory back with each cut.
    fn of(packed: Bytes) -> Self {
        let (mut whole, mut pieces) = (Vec::from(packed), VecDeque::new());
        while whole.len() > PIECE_BYTES {
            pieces.push_front(Bytes::from(whole.split_off(whole.len() - PIECE_BYTES)));
            whole.shrink_to_fit();
        }
        pieces.push_front(whole.into());
        Self(pieces)
    }

    /// The most bytes that are left in memory.
    fn held(&self) -> usize {
        self.0.len() * PIECE_BYTES
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(first) = self.0.front_mut() else { return Ok(0) };
        let count = first.len().min(buffer.len());
        buffer[..count].copy_from_slice(&first.split_to(count));
        if first.is_empty() {
            self.0.pop_front();
        }
        Ok(count)
    }
}

/// The bytes that `packed` holds, at most `body_max_bytes`. The room for both is taken from `reservation`.
pub(super) async fn gzip(
    packed: Bytes,
    reservation: &mut Reservation<'_>,
    config: &Config,
    deadline: Instant,
) -> Result<Bytes, Refusal> {
    let max = config.body_max_bytes;
    let pieces = spawn_blocking(move || Pieces::of(packed)).await.map_err(|_| Refusal::Saturated)?;
    let mut decoder = MultiGzDecoder::new(pieces);
    let mut whole = Vec::new();
    loop {
        if Instant::now() >= deadline {
            return Err(Refusal::BodySlow(config.answer_max()));
        }
        // One byte more than is allowed tells a body that is too large from one that fits exactly.
        let piece = PIECE_BYTES.min(max + 1 - whole.len());
        let bytes = decoder.get_ref().held() + whole.len() + piece;
        reservation.grow(bytes, bytes, deadline).await?;
        let unpack = move || {
            whole.reserve_exact(piece);
            let read = decoder.by_ref().take(piece as u64).read_to_end(&mut whole);
            (decoder, whole, read)
        };
        let (back, so_far, read) = spawn_blocking(unpack).await.map_err(|_| Refusal::Saturated)?;
        (decoder, whole) = (back, so_far);
        match read {
            Ok(_) if whole.len() > max => return Err(Refusal::BodyTooLarge { max }),
            Ok(read) if read < piece => return Ok(whole.into()),
            Ok(_) => {}
            Err(error) => return Err(Refusal::BodyUnpackable(error.to_string())),
        }
    }
}
