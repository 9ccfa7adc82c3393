//! The answer, carried from the statement's thread to the connection's task: a head once something is known, then
//! pieces under back-pressure. An error after the head has gone out cannot change the status any more, so it is written
//! in ClickHouse's in-band form and the connection is broken off: no client may take half an answer for a whole one.

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

/// Pieces under way to one client; a piece is one block of the engine, some 0.5 MB.
const PIECES_MAX: usize = 2;
/// The most that an answer held back until the end may take, in bytes; a longer one begins before its end.
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

/// The client went away or takes nothing; the statement is to be dropped.
#[derive(Debug)]
pub(super) struct Disconnected;

/// How an answer is to be sent.
pub(super) struct OutputOptions {
    pub(super) encoding: Encoding,
    /// Nothing goes out before the end.
    pub(super) hold: bool,
    /// Marks an error inside of an answer; the client learns it from the head.
    pub(super) tag: String,
    pub(super) idle_max: Duration,
}

/// The statement thread's end.
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

/// A piece of an answer, with the permit of its statement: it is given back when the last piece has gone out. Otherwise
/// clients that read nothing could let answers pile up, as many as there are connections.
struct PermittedPiece {
    bytes: Bytes,
    _permit: Arc<Permit>,
}

impl AsRef<[u8]> for PermittedPiece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Pieces up to this size, in bytes, hold no permit: the connection's own buffers take them, and whoever has read an answer
/// may ask again at once.
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

    /// Keeps the statement's permit until its answer has gone out.
    pub(super) fn hold(&mut self, permit: Permit) {
        self.permit = Some(Arc::new(permit));
    }

    /// Names the format that the pieces are in; before the first piece.
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
            // The client may be gone; then nobody is left to be told.
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

    /// Lets the head go out, once.
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
