//! The SHA-256 of a body. It tells two bodies under the same id apart.

use bytes::Bytes;
use headrace_runtime::message::payload::RawDelivery;

/// Without SHA instructions in the processor, hashing this many bytes takes about half a millisecond. Longer bodies
/// leave the reactor.
const INLINE_MAX_BYTES: usize = 128 << 10;

/// The SHA-256 of `body`, in hexadecimal digits.
pub(crate) async fn sha256(body: &Bytes) -> String {
    if body.len() <= INLINE_MAX_BYTES {
        return RawDelivery::sha256_of(body);
    }
    let body = body.clone();
    let computed = tokio::task::spawn_blocking(move || RawDelivery::sha256_of(&body)).await;
    computed.expect("hashing cannot panic, and nothing cancels it")
}
