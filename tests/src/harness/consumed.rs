//! What consumers have left to do.

use async_nats::jetstream::consumer::Info;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use futures::TryStreamExt as _;

/// Messages of `stream`, as it was opened, that `consumer` was not given yet. The server's own count follows its PubAck
/// by a moment: it can be 0 when there is one.
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
    // What was removed is given to nobody.
    let last = if state.messages == 0 { 0 } else { last.unwrap_or(state.last_sequence) };
    Ok(consumer.num_pending.max(u64::from(consumer.delivered.stream_sequence < last)))
}

/// Consumers of `stream`, as it was opened, with work left: their name, messages that wait, messages that are not
/// settled.
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
