//! Reads a body within its size and its time, and never changes a byte of it. Admission (`admission.rs`) gives the
//! room.

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout_at};

use super::admission::Reservation;
use crate::config::Config;
use crate::source::Refusal;

/// How much of a refused body is read: a little over twice what GitHub may send. A longer body is cut off.
const DISCARD_MAX_BYTES: usize = 64 << 20;

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
}

impl Encoding {
    /// What the headers say. Where `takes_gzip` is false, only the bytes that were signed are taken. The gateway unpacks
    /// no body before it knows who sent it, because the sender chooses the unpacked size.
    pub(crate) fn of(headers: &HeaderMap, takes_gzip: bool) -> Result<Self, Refusal> {
        let mut encoding = Self::Identity;
        for value in headers.get_all(header::CONTENT_ENCODING) {
            let is = |name: &[u8]| value.as_bytes().eq_ignore_ascii_case(name);
            match encoding {
                _ if is(b"identity") => {}
                Self::Identity if takes_gzip && is(b"gzip") => encoding = Self::Gzip,
                Self::Identity | Self::Gzip => {
                    let found = String::from_utf8_lossy(value.as_bytes()).chars().take(80).collect();
                    let expected = if takes_gzip {
                        "a body with the content encoding gzip, or without any"
                    } else {
                        "a body without a content encoding"
                    };
                    return Err(Refusal::UnsupportedEncoding { expected, found });
                }
            }
        }
        Ok(encoding)
    }
}

/// The length that the request announces, if any. It is checked before anything is read.
pub(crate) fn announced_length(headers: &HeaderMap, max: usize) -> Result<Option<usize>, Refusal> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    match length {
        Some(length) if length > max => Err(Refusal::BodyTooLarge { max }),
        length => Ok(length),
    }
}

/// Reads all of `body` and takes room from `reservation` for what arrives. `length` is the announced length, if any.
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
        // Allocate no more than the room that was reserved.
        whole.reserve_exact(reservation.bytes() - whole.len());
        whole.extend_from_slice(&data);
    }
}

/// Reads the rest of a refused body and throws it away. If we closed the connection while the peer still writes, it
/// would be reset, and the peer would never see the answer that says why.
pub(crate) async fn discard(body: &mut Body, headers: &HeaderMap, deadline: Instant) {
    // This sender waits for permission to send the body. Reading would give that permission.
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
