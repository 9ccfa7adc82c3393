//! Carries the answer from the statement's thread to the connection's task: first the head, then pieces. A slow client
//! slows the statement down.
//!
//! Once the head has gone out, an error cannot change the status. So we write the error in ClickHouse's in-band form
//! and break the connection off: a client must never take half an answer for a whole one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::admission::Permit;
use super::codec::{Encoder, Encoding};
use super::failure::Failure;
use crate::engine::{Exception, Stats};

/// How many pieces may be under way to one client. A piece is one block of the engine, some 0.5 MB.
const PIECES_MAX: usize = 2;
/// The most memory for an answer that is held back until its end, in bytes. A longer one goes out early.
const HELD_BYTES_MAX: usize = 64 << 20;

/// What the connection's task gets.
pub(super) enum Answer {
    Failed(Failure),
    Started { format: String, stats: Stats, payload: Payload },
}

/// The body of an answer.
pub(super) enum Payload {
    Whole(Bytes),
    Pieces(mpsc::Receiver<io::Result<Bytes>>),
}

/// The client went away or reads nothing. The statement is to be dropped.
#[derive(Debug)]
pub(super) struct Disconnected;

/// How an answer is to be sent.
pub(super) struct OutputOptions {
    pub(super) encoding: Encoding,
    /// Nothing goes out before the end.
    pub(super) hold: bool,
    /// Marks an error inside an answer. The client learns the mark from the head.
    pub(super) tag: String,
    pub(super) idle_max: Duration,
}

/// The sending half, for the statement's thread.
pub(super) struct Output {
    answer: Option<oneshot::Sender<Answer>>,
    pieces: Option<mpsc::Sender<io::Result<Bytes>>>,
    held: Vec<u8>,
    encoder: Encoder,
    options: OutputOptions,
    format: String,
    runtime: Handle,
    permit: Option<Arc<Permit>>,
}

/// A piece of an answer, with its statement's permit. The permit is given back when the last piece has gone out.
/// Otherwise clients that read nothing could pile up answers, one for each connection.
struct PermittedPiece {
    bytes: Bytes,
    _permit: Arc<Permit>,
}

impl AsRef<[u8]> for PermittedPiece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A piece of at most this many bytes holds no permit. It fits into the connection's own buffers. So a client that has
/// read its answer may ask again at once.
const SMALL_BYTES_MAX: usize = 64 << 10;

fn with_permit(bytes: Bytes, permit: Option<&Arc<Permit>>) -> Bytes {
    match permit.filter(|_| bytes.len() > SMALL_BYTES_MAX) {
        Some(permit) => Bytes::from_owner(PermittedPiece { bytes, _permit: Arc::clone(permit) }),
        None => bytes,
    }
}

impl Output {
    pub(super) fn new(answer: oneshot::Sender<Answer>, options: OutputOptions, runtime: Handle) -> Self {
        let encoder = Encoder::new(options.encoding);
        let (answer, format) = (Some(answer), String::new());
        Self { answer, pieces: None, held: Vec::new(), encoder, options, format, runtime, permit: None }
    }

    /// Keeps the statement's permit until the answer has gone out.
    pub(super) fn hold(&mut self, permit: Permit) {
        self.permit = Some(Arc::new(permit));
    }

    /// Names the format of the pieces. Call it before the first piece.
    pub(super) fn set_format(&mut self, format: &str) {
        self.format = format.to_owned();
    }

    /// Sends a piece. Blocks while the client is slower than the engine.
    pub(super) fn write(&mut self, data: &[u8], stats: &Stats) -> Result<(), Disconnected> {
        if data.is_empty() {
            return Ok(());
        }
        let piece = self.encoder.encode(data);
        if self.options.hold && self.held.len() + piece.len() <= HELD_BYTES_MAX {
            self.held.extend_from_slice(&piece);
            return Ok(());
        }
        self.start(stats)?;
        self.send(Ok(piece))
    }

    /// Ends the answer.
    pub(super) fn finish(mut self, stats: &Stats) {
        let encoder = std::mem::replace(&mut self.encoder, Encoder::Plain);
        let last = encoder.finish();
        let permit = self.permit.take();
        if let Some(answer) = self.answer.take() {
            self.held.extend_from_slice(&last);
            // If this fails, the client is gone.
            let payload = Payload::Whole(with_permit(self.held.into(), permit.as_ref()));
            drop(permit);
            let _ = answer.send(Answer::Started { format: self.format, stats: *stats, payload });
        } else if !last.is_empty() {
            drop(permit);
            let _ = self.send(Ok(last));
        }
    }

    /// Ends the answer with an error.
    pub(super) fn fail(mut self, failure: Failure) {
        self.permit = None;
        if let Some(answer) = self.answer.take() {
            let _ = answer.send(Answer::Failed(failure));
            return;
        }
        let mut encoder = std::mem::replace(&mut self.encoder, Encoder::Plain);
        let piece = encoder.encode(in_band(&failure.exception, &self.options.tag).as_bytes());
        let last = encoder.finish();
        if self.send(Ok(piece)).is_ok() && self.send(Ok(last)).is_ok() {
            let _ = self.send(Err(io::Error::other("the statement failed after its answer had begun")));
        }
    }

    /// Sends the head, once.
    fn start(&mut self, stats: &Stats) -> Result<(), Disconnected> {
        let Some(answer) = self.answer.take() else { return Ok(()) };
        let (sender, receiver) = mpsc::channel(PIECES_MAX);
        let format = std::mem::take(&mut self.format);
        let started = Answer::Started { format, stats: *stats, payload: Payload::Pieces(receiver) };
        answer.send(started).map_err(|_| Disconnected)?;
        self.pieces = Some(sender);
        let held = std::mem::take(&mut self.held);
        if held.is_empty() { Ok(()) } else { self.send(Ok(held.into())) }
    }

    fn send(&self, piece: io::Result<Bytes>) -> Result<(), Disconnected> {
        let Some(pieces) = &self.pieces else { return Err(Disconnected) };
        let piece = piece.map(|bytes| with_permit(bytes, self.permit.as_ref()));
        let sending = async { tokio::time::timeout(self.options.idle_max, pieces.send(piece)).await };
        self.runtime.block_on(sending).map_err(|_| Disconnected)?.map_err(|_| Disconnected)
    }
}

/// How ClickHouse (since 25.11) writes an error into an answer that has begun.
fn in_band(exception: &Exception, tag: &str) -> String {
    let text = exception.text();
    let length = text.len() + 1;
    format!("\r\n__exception__\r\n{tag}\r\n{text}\n{length} {tag}\r\n__exception__\r\n")
}
