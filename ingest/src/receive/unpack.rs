//! Unpacks a verified body. Its sender chose the unpacked size, so room is taken for each piece before it is made.

use std::io::Read as _;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::admission::Reservation;
use crate::config::Config;
use crate::source::Refusal;

/// How many bytes are unpacked at a time: a few milliseconds of work, away from the reactor.
const PIECE_BYTES: usize = 1 << 20;

/// The bytes that `packed` holds, at most `body_max_bytes`. The room for both is taken from `reservation`.
pub(super) async fn gzip(
    packed: Bytes,
    reservation: &mut Reservation<'_>,
    config: &Config,
    deadline: Instant,
) -> Result<Bytes, Refusal> {
    let max = config.body_max_bytes;
    let held = packed.len();
    let mut decoder = MultiGzDecoder::new(std::io::Cursor::new(packed));
    let mut whole = Vec::new();
    loop {
        if Instant::now() >= deadline {
            return Err(Refusal::BodySlow(config.answer_max()));
        }
        // One byte more than is allowed tells a body that is too large from one that fits exactly.
        let piece = PIECE_BYTES.min(max + 1 - whole.len());
        reservation.grow(held + whole.len() + piece, held + max + 1, deadline).await?;
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
