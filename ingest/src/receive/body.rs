//! Reading a body: within its size, within its time, byte for byte.

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout_at};

use super::admission::Reservation;
use super::reply::Refusal;
use crate::config::Config;

/// So much of a refused body is read; whoever sends more than twice what GitHub may send is cut off.
const DISCARD_MAX_BYTES: usize = 64 << 20;

/// A body that is packed is refused: what is stored is what was signed, and nothing here unpacks anything, whose size
/// its sender would choose.
pub(crate) fn check_encoding(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    match encodings.find(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity")) {
        Some(value) => {
            Err(Refusal::UnsupportedEncoding(String::from_utf8_lossy(value.as_bytes()).chars().take(80).collect()))
        }
        None => Ok(()),
    }
}

/// The length that the request announces, when it does, checked before anything is read.
pub(crate) fn announced_length(headers: &HeaderMap, max: usize) -> Result<Option<usize>, Refusal> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    match length {
        Some(length) if length > max => Err(Refusal::BodyTooLarge { max }),
        length => Ok(length),
    }
}

/// Reads all of `body`, which has `length` bytes if it says so, and takes `room` for what comes.
pub(crate) async fn read(
    body: &mut Body,
    length: Option<usize>,
    reservation: &mut Reservation<'_>,
    config: &Config,
    deadline: Instant,
) -> Result<Bytes, Refusal> {
    let max = config.body_max_bytes;
    let mut whole = Vec::new();
    loop {
        let frame = timeout_at(deadline, body.frame()).await.map_err(|_| Refusal::BodySlow(config.answer_max()))?;
        let frame = match frame {
            None => return Ok(whole.into()),
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Err(Refusal::BodyBroken(error.to_string())),
        };
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > max {
            return Err(Refusal::BodyTooLarge { max });
        }
        reservation.grow(whole.len() + data.len(), length.unwrap_or(max), deadline).await?;
        // No more than there is room for.
        whole.reserve_exact(reservation.bytes() - whole.len());
        whole.extend_from_slice(&data);
    }
}

/// Reads the rest of a body that was refused and keeps nothing of it. A connection that is closed while
/// its peer still writes is reset, and the peer never sees the answer that tells why.
pub(crate) async fn discard(body: &mut Body, headers: &HeaderMap, deadline: Instant) {
    // Such a sender waits for leave to send the body, which reading would give.
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let mut left = DISCARD_MAX_BYTES;
    while let Ok(Some(Ok(frame))) = timeout_at(deadline, body.frame()).await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(length) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}
