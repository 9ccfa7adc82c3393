//! Reads what messages carry. The number of bytes is bounded before anything is read.
//!
//! A message of a few hundred bytes may refer to a body of 25 MB, so the bodies count towards a batch's size.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt as _;
use futures::future::join_all;
use headrace_schemas::header;

use crate::broker::Broker;
use crate::crash::{self, Point};
use crate::fault::Fault;
use crate::fault::panics::caught;
use crate::memory::MESSAGE_BYTES;
use crate::message::Delivered;
use crate::message::body::is_unanswered;
use crate::message::payload::Payload;
use crate::settle::Outcome;

/// How many bodies are fetched at once. Each costs the server a consumer meanwhile.
const FETCHED_AT_ONCE: usize = 16;

/// How many of `sizes`, from the first, fit into `bytes_max` together. At least one: what is larger travels alone.
pub(crate) fn within(sizes: impl Iterator<Item = usize>, bytes_max: usize) -> usize {
    let mut sum = 0_usize;
    let fitting = sizes.take_while(|size| {
        sum = sum.saturating_add(*size);
        sum <= bytes_max
    });
    fitting.count().max(1)
}

/// What reading `message` takes in memory, where a body that it refers to is there `copies` times.
pub(crate) fn room_for<T: Payload>(message: &Delivered, copies: usize) -> usize {
    let body = if message.refers_to_body() { message.bytes_when_read() } else { 0 };
    T::decoded_bytes(message.payload().len()).saturating_add(body.saturating_mul(copies))
}

/// What `messages` take in memory by themselves.
pub(crate) fn room_of(messages: &[Delivered]) -> usize {
    messages.iter().map(|message| message.payload().len() + MESSAGE_BYTES).sum()
}

/// Reads `messages`, in their order. For a message that cannot be read, the result says what becomes of it.
///
/// A broker that gives no body costs one timeout, however many messages there are.
pub(crate) async fn read_all<T: Payload>(messages: &[Delivered], broker: &Broker) -> Vec<Result<T, Outcome>> {
    let away = AtomicBool::new(false);
    let mut values = Vec::with_capacity(messages.len());
    for chunk in messages.chunks(FETCHED_AT_ONCE) {
        if chunk.iter().any(Delivered::refers_to_body) {
            values.extend(join_all(chunk.iter().map(|message| read(message, broker, &away).boxed())).await);
            continue;
        }
        // Nothing to wait for.
        for message in chunk {
            values.push(read(message, broker, &away).await);
        }
    }
    values
}

async fn read<T: Payload>(message: &Delivered, broker: &Broker, away: &AtomicBool) -> Result<T, Outcome> {
    if message.refers_to_body() && away.load(Ordering::Relaxed) {
        return Err(Outcome::Unread(Fault::transient(anyhow::anyhow!("not read, because another body did not come"))));
    }
    crash::pass_with(Point::BeforeRead, || message.header(header::ID));
    caught("reading it", T::read(message, broker)).await.unwrap_or_else(Err).map_err(|fault| {
        // The broker is to blame, not the event, so this counts as no attempt.
        if is_unanswered(&fault) {
            away.store(true, Ordering::Relaxed);
            return Outcome::Unread(fault);
        }
        Outcome::Failed(fault)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_bounded_in_bytes_and_what_is_larger_travels_alone() {
        for (sizes, bytes_max, want) in [
            (&[4, 4, 4][..], 8, 2),
            (&[4, 4, 4], 11, 2),
            (&[4, 4, 4], 12, 3),
            (&[9, 1], 8, 1),
            (&[1, 9, 1], 8, 1),
            (&[usize::MAX, usize::MAX], 8, 1),
            (&[0, usize::MAX, usize::MAX], usize::MAX, 3),
        ] {
            assert_eq!(within(sizes.iter().copied(), bytes_max), want, "{sizes:?} within {bytes_max}");
        }
    }
}
