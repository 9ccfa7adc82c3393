//! Carries the request body from the connection's task to the statement's thread, a few frames at a time. A body that
//! broke off must never look complete: otherwise half a batch would be committed.

use std::io::{self, Read};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Frame as BodyFrame, Incoming};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::failure::Failure;

/// How many frames may be under way. A frame is what one read of the socket returned, at most some 400 KB.
const FRAMES_MAX: usize = 8;
/// How much of a body we wait for before a thread looks at it, in bytes. Most statements are shorter, so a thread in
/// its place waits only for the engine, not for the client.
const BEGINNING_BYTES: usize = 256 << 10;
/// How often a stalled body checks whether another request needs its place.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a body may stall while another request waits for its place.
const STALL_MAX: Duration = Duration::from_secs(2);
/// How much of a body we still read after its statement has failed, in bytes. If we closed the connection while the
/// client writes, many clients would report a broken pipe and not the error.
const DISCARD_BYTES_MAX: u64 = 64 << 20;

/// The bounds on a body.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyLimits {
    pub(super) bytes_max: u64,
    pub(super) idle_max: Duration,
}

enum Frame {
    Data(Bytes),
    End,
    Failed(Failure),
}

/// The beginning of a body, or all of it.
pub(super) struct Beginning {
    bytes: BytesMut,
    whole: bool,
}

/// The sending half, for the connection's task.
pub(super) struct Pump {
    frames: mpsc::Sender<Frame>,
    limits: BodyLimits,
    received: u64,
    whole: bool,
}

/// The reading half, for the statement's thread.
pub(super) struct BodyReader {
    frames: mpsc::Receiver<Frame>,
    current: Bytes,
    ended: bool,
    bytes_max: u64,
}

/// A decoded body, with the same limit as a body that came without an encoding. Otherwise a few packed bytes could fill
/// the engine's memory.
pub(super) struct Unpacked<R> {
    body: R,
    left: u64,
    bytes_max: u64,
}

/// Waits for the beginning of `body`.
pub(super) async fn begin(body: &mut Incoming, limits: &BodyLimits) -> Result<Beginning, Failure> {
    let mut beginning = Beginning { bytes: BytesMut::new(), whole: false };
    while beginning.bytes.len() < BEGINNING_BYTES {
        let frame = match tokio::time::timeout(limits.idle_max, body.frame()).await {
            Err(_) => return Err(Failure::idle(limits.idle_max.as_secs())),
            Ok(None) => {
                beginning.whole = true;
                break;
            }
            Ok(Some(Err(_))) => return Err(failure_of(&io::ErrorKind::ConnectionAborted.into())),
            Ok(Some(Ok(frame))) => frame,
        };
        if let Ok(data) = frame.into_data() {
            beginning.bytes.extend_from_slice(&data);
        }
        if beginning.bytes.len() as u64 > limits.bytes_max {
            return Err(Failure::body_too_large(limits.bytes_max));
        }
    }
    Ok(beginning)
}

pub(super) fn channel(limits: BodyLimits, beginning: Beginning) -> (Pump, BodyReader) {
    let (sender, receiver) = mpsc::channel(FRAMES_MAX);
    let Beginning { bytes, whole } = beginning;
    let received = bytes.len() as u64;
    let reader = BodyReader { frames: receiver, current: bytes.freeze(), ended: whole, bytes_max: limits.bytes_max };
    (Pump { frames: sender, limits, received, whole }, reader)
}

impl Pump {
    /// Carries `body` until it ends or fails, or until nobody reads it and enough was discarded. While `is_short` says
    /// that places are short, a silent client is dropped sooner.
    pub(super) async fn run(self, mut body: Incoming, is_short: impl Fn() -> bool) {
        let mut received = self.received;
        let mut discarded = 0_u64;
        if self.whole {
            return;
        }
        let last = loop {
            let frame = match self.frame(&mut body, &is_short).await {
                Err(waited) => break Frame::Failed(Failure::idle(waited.as_secs())),
                Ok(None) => break Frame::End,
                // The connection broke. The reader learns it from a sender that is dropped without an end.
                Ok(Some(Err(_))) => return,
                Ok(Some(Ok(frame))) => frame,
            };
            // ClickHouse reads nothing from trailers.
            let Ok(data) = frame.into_data() else { continue };
            received += data.len() as u64;
            if received > self.limits.bytes_max {
                break Frame::Failed(Failure::body_too_large(self.limits.bytes_max));
            }
            let length = data.len() as u64;
            if self.frames.send(Frame::Data(data)).await.is_err() {
                discarded += length;
                if discarded > DISCARD_BYTES_MAX {
                    return;
                }
            }
        };
        // If this fails, the reader is gone.
        let _ = self.frames.send(last).await;
    }

    /// The next frame, or how long we waited for it in vain.
    async fn frame(
        &self,
        body: &mut Incoming,
        is_short: impl Fn() -> bool,
    ) -> Result<Option<Result<BodyFrame<Bytes>, hyper::Error>>, Duration> {
        let since = Instant::now();
        loop {
            if let Ok(frame) = tokio::time::timeout(LOOK_EVERY.min(self.limits.idle_max), body.frame()).await {
                return Ok(frame);
            }
            let waited = since.elapsed();
            if waited >= self.limits.idle_max || (waited >= STALL_MAX && is_short()) {
                return Err(waited);
            }
        }
    }
}

impl Read for BodyReader {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.frames.blocking_recv() {
                Some(Frame::Data(data)) => self.current = data,
                Some(Frame::End) => self.ended = true,
                Some(Frame::Failed(failure)) => return Err(io::Error::other(BodyError(failure))),
                None => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
        let count = target.len().min(self.current.len());
        self.current.copy_to_slice(&mut target[..count]);
        Ok(count)
    }
}

impl BodyReader {
    /// The most bytes that the body may have.
    pub(super) const fn bytes_max(&self) -> u64 {
        self.bytes_max
    }
}

impl<R: Read> Unpacked<R> {
    pub(super) const fn new(body: R, bytes_max: u64) -> Self {
        Self { body, left: bytes_max, bytes_max }
    }
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let count = self.body.read(target)?;
        let left = self.left.checked_sub(count as u64);
        self.left = left.ok_or_else(|| io::Error::other(BodyError(Failure::body_too_large(self.bytes_max))))?;
        Ok(count)
    }
}

/// Carries a [`Failure`] through [`Read`] and the decoders around it.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.exception)]
struct BodyError(Failure);

/// The failure that we tell the client after an error while we read its body.
pub(super) fn failure_of(error: &io::Error) -> Failure {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<BodyError>()) {
        Some(BodyError(failure)) => failure.clone(),
        None if error.kind() == io::ErrorKind::ConnectionAborted => {
            Failure::new(hyper::StatusCode::BAD_REQUEST, 210, "NETWORK_ERROR", "the request body ended early")
        }
        None => {
            let message = format!("cannot decompress the request body: {error}");
            Failure::new(hyper::StatusCode::BAD_REQUEST, 271, "CANNOT_DECOMPRESS", &message)
        }
    }
}
