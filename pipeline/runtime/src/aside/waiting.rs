//! What waits in CATCHUP for one sink, in bytes. All sinks share that stream, so none may fill it for the others.

use anyhow::Context as _;

use crate::broker::{Broker, Stream};
use crate::message::payload::Outgoing;

/// What a message takes in the stream besides its subject, payload and id: NATS' own words around each, and the names of
/// the headers.
const AROUND_BYTES: usize = 256;

/// The messages that this process has brought and that are not known to be settled.
///
/// A process begins a range only when nothing waits, so it knows of all of them.
#[derive(Debug, Default)]
pub(super) struct Waiting(Vec<(u64, usize)>);

impl Waiting {
    /// Notes that a message of `bytes` bytes has the sequence `sequence` in CATCHUP.
    pub(super) fn note(&mut self, sequence: u64, bytes: usize) {
        self.0.push((sequence, bytes));
    }

    /// Forgets what the sink has settled, which is all up to `sequence`.
    pub(super) fn settled(&mut self, sequence: u64) {
        self.0.retain(|(own, _)| *own > sequence);
    }

    /// The bytes of what is left.
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// About how many bytes `outgoing` takes in the stream, rather more than less.
pub(super) fn bytes_of(outgoing: &Outgoing) -> usize {
    // The id is in a header of its own, too.
    outgoing.subject.len() + outgoing.payload.len() + outgoing.message_id.len() * 2 + AROUND_BYTES
}

/// The bytes of CATCHUP that each sink may use: as much as any other that has a consumer there.
pub(super) async fn share(broker: &Broker) -> anyhow::Result<usize> {
    let handle =
        broker.jetstream().get_stream(Stream::CatchUp.name()).await.context("cannot open the stream CATCHUP")?;
    let info = handle.cached_info();
    let whole = usize::try_from(info.config.max_bytes).unwrap_or(usize::MAX);
    Ok(whole / info.state.consumer_count.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_settled_takes_no_room() {
        let mut waiting = Waiting::default();
        // The second was there already, and has the sequence that it had.
        [(7, 100), (3, 10), (9, 1_000)].into_iter().for_each(|(sequence, bytes)| waiting.note(sequence, bytes));
        assert_eq!(waiting.bytes(), 1_110);
        waiting.settled(3);
        assert_eq!(waiting.bytes(), 1_100);
        waiting.settled(9);
        assert_eq!(waiting.bytes(), 0);
    }
}
