//! What consumers have left to do. This only asks the server and changes nothing.

use async_nats::jetstream::consumer::Info;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use futures::TryStreamExt as _;

/// How many messages of `stream` were not yet delivered to `consumer`. `stream` counts as it was when it was opened.
/// The server updates its own count a moment after the PubAck, so that count can be 0 when there is one.
pub(crate) async fn waiting(stream: &Stream, consumer: &Info) -> anyhow::Result<u64> {
    let config = &consumer.config;
    let filters = config.filter_subjects.iter().chain([&config.filter_subject]).filter(|subject| !subject.is_empty());
    let mut last = None;
    for subject in filters {
        let sequence = match stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => message.sequence,
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => 0,
            Err(error) => return Err(error.into()),
        };
        last = last.max(Some(sequence));
    }
    let state = &stream.cached_info().state;
    // Nobody is given a message that was removed.
    let last = if state.messages == 0 { 0 } else { last.unwrap_or(state.last_sequence) };
    Ok(consumer.num_pending.max(u64::from(consumer.delivered.stream_sequence < last)))
}

/// The consumers of `stream` with work left: their name, the messages that wait, the messages that are not settled.
/// `stream` counts as it was when it was opened.
pub(crate) async fn behind(stream: &Stream) -> anyhow::Result<Vec<(String, u64, usize)>> {
    let consumers: Vec<Info> = stream.consumers().try_collect().await?;
    let mut behind = Vec::new();
    for consumer in consumers {
        let waiting = waiting(stream, &consumer).await?;
        if waiting > 0 || consumer.num_ack_pending > 0 {
            behind.push((consumer.name, waiting, consumer.num_ack_pending));
        }
    }
    Ok(behind)
}
