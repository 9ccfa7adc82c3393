//! How far a component has come in its stream, for those who ask its receiver what it has.

use anyhow::Context as _;
use async_nats::jetstream::consumer::Info;
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use headrace_schemas::time::Timestamp;

use crate::broker::{Broker, Stream};

/// The sequence of the last message that was stored in `stream`.
///
/// # Errors
/// When the broker does not answer.
pub async fn last_sequence(broker: &Broker, stream: Stream) -> anyhow::Result<u64> {
    let handle = broker.jetstream().get_stream(stream.name()).await;
    let handle = handle.with_context(|| format!("cannot open the stream {}", stream.name()))?;
    Ok(handle.cached_info().state.last_sequence)
}

/// How many messages of `stream` up to `sequence` the component has not settled, about; 0 when it has settled all
/// of them, `None` when it has never run.
///
/// # Errors
/// When the broker does not answer.
pub async fn unsettled(broker: &Broker, stream: Stream, component: &str, sequence: u64) -> anyhow::Result<Option<u64>> {
    let Some(info) = state_of(broker, stream, component).await? else { return Ok(None) };
    let oldest = oldest_unsettled(broker, stream, &info).await?;
    if oldest.is_none_or(|message| message.sequence > sequence) {
        return Ok(Some(0));
    }
    // The server counts a message as pending a moment after it confirmed it.
    let waiting = info.num_pending.saturating_add(info.num_ack_pending as u64).max(1);
    Ok(Some(sequence.saturating_sub(info.ack_floor.stream_sequence).min(waiting)))
}

/// What the broker knows of the component's consumer; `None` when it has never run.
pub(crate) async fn state_of(broker: &Broker, stream: Stream, component: &str) -> anyhow::Result<Option<Info>> {
    let handle = broker.jetstream().get_stream_no_info(stream.name()).await.context("cannot open the stream")?;
    match handle.consumer_info(component).await {
        Ok(info) => Ok(Some(info)),
        Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read the state of {component}")),
    }
}

/// The moment before which everything that was stored in `stream` has been settled by `component`; `None`
/// when the component has never run.
///
/// # Errors
/// When the broker does not answer.
pub async fn settled_through(broker: &Broker, stream: Stream, component: &str) -> anyhow::Result<Option<Timestamp>> {
    // Before the question: what is stored while we ask is not covered by the answer.
    let asked_at = Timestamp::now();
    let Some(info) = state_of(broker, stream, component).await? else { return Ok(None) };
    let oldest = oldest_unsettled(broker, stream, &info).await?;
    Ok(Some(oldest.map_or(asked_at, |message| Timestamp::from_unix_nanos(message.time.unix_timestamp_nanos()))))
}

/// The first message above the floor of `consumer` that it reads. Sequences above the floor may be gone, or may
/// never have been its own; the floor of a consumer of few subjects stays at the last message that was.
///
/// # Errors
/// When the broker does not answer.
pub(crate) async fn oldest_unsettled(
    broker: &Broker,
    stream: Stream,
    consumer: &Info,
) -> anyhow::Result<Option<StreamMessage>> {
    let handle = broker.jetstream().get_stream_no_info(stream.name()).await.context("cannot open the stream")?;
    let own = [&consumer.config.filter_subject].into_iter().chain(&consumer.config.filter_subjects);
    let mut subjects: Vec<&str> = own.map(String::as_str).filter(|subject| !subject.is_empty()).collect();
    if subjects.is_empty() {
        subjects.push(stream.subjects());
    }
    let mut oldest: Option<StreamMessage> = None;
    for subject in subjects {
        // From the stream's leader: a copy may not have the newest messages yet.
        match handle.get_first_raw_message_by_subject(subject, consumer.ack_floor.stream_sequence + 1).await {
            Ok(message) if oldest.as_ref().is_none_or(|oldest| message.sequence < oldest.sequence) => {
                oldest = Some(message);
            }
            Ok(_) => {}
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {}
            Err(error) => return Err(error).context("cannot read the oldest message that is not settled"),
        }
    }
    Ok(oldest)
}
