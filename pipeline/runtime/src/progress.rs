//! How far a component has come in its stream, for those who ask its receiver what it has.

use anyhow::Context as _;
use async_nats::jetstream::consumer::Info;
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use headrace_schemas::time::Timestamp;

use crate::broker::{Broker, Stream};

/// The moment before which everything that was stored in `stream` has been settled by `component`; `None`
/// when the component has never run.
///
/// # Errors
/// When the broker does not answer.
pub async fn settled_through(broker: &Broker, stream: Stream, component: &str) -> anyhow::Result<Option<Timestamp>> {
    // Before the question: what is stored while we ask is not covered by the answer.
    let asked_at = Timestamp::now();
    let handle = broker.jetstream().get_stream_no_info(stream.name()).await.context("cannot open the stream")?;
    let Info { num_pending, num_ack_pending, ack_floor, .. } = match handle.consumer_info(component).await {
        Ok(info) => info,
        Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read the state of {component}")),
    };
    if num_pending == 0 && num_ack_pending == 0 {
        return Ok(Some(asked_at));
    }
    // Sequences after the floor may be gone; the next message that is there is the oldest that is not settled.
    match handle.get_first_raw_message_by_subject(stream.subjects(), ack_floor.stream_sequence + 1).await {
        Ok(message) => {
            let micros = message.time.unix_timestamp_nanos() / 1_000;
            Ok(Some(Timestamp::from_micros(i64::try_from(micros).unwrap_or_default())))
        }
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(Some(asked_at)),
        Err(error) => Err(error).context("cannot read the oldest message that is not settled"),
    }
}
