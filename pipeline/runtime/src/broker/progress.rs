//! How far a component has come in its stream. Whoever looks into a receiver needs this, to know what the receiver
//! cannot have yet.

use anyhow::Context as _;
use async_nats::jetstream::consumer::Info;
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use headrace_schemas::time::Timestamp;
use serde_json::Value;

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

/// About how many messages of `stream` up to `sequence` the component has not settled: 0 when it has settled all of
/// them, `None` when it has never run.
///
/// # Errors
/// When the broker does not answer.
pub async fn unsettled(broker: &Broker, stream: Stream, component: &str, sequence: u64) -> anyhow::Result<Option<u64>> {
    let Some(info) = state_of(broker, stream, component).await? else { return Ok(None) };
    let oldest = oldest_unsettled(broker, stream, &info).await?;
    if oldest.is_none_or(|message| message.sequence > sequence) {
        return Ok(Some(0));
    }
    // The server confirms a message a moment before it counts it as pending.
    let waiting = info.num_pending.saturating_add(info.num_ack_pending as u64).max(1);
    Ok(Some(sequence.saturating_sub(info.ack_floor.stream_sequence).min(waiting)))
}

/// The time by the clock of the broker's server that looks after `stream`.
pub(crate) async fn time_at(broker: &Broker, stream: Stream) -> anyhow::Result<Timestamp> {
    // The client leaves out this field of the answer.
    let told: Value = broker.jetstream().request(format!("STREAM.INFO.{}", stream.name()), &()).await?;
    let time = told["ts"].as_str().and_then(Timestamp::parse);
    time.with_context(|| format!("expected the broker's time with the state of {}, found none", stream.name()))
}

/// What the broker knows about the component's consumer; `None` when the component has never run.
pub(crate) async fn state_of(broker: &Broker, stream: Stream, component: &str) -> anyhow::Result<Option<Info>> {
    let handle = broker.jetstream().get_stream_no_info(stream.name()).await.context("cannot open the stream")?;
    match handle.consumer_info(component).await {
        Ok(info) => Ok(Some(info)),
        Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read the state of {component}")),
    }
}

/// The time before which `component` has settled everything that was stored in `stream`; `None` when the component has
/// never run.
///
/// # Errors
/// When the broker does not answer.
pub async fn settled_through(broker: &Broker, stream: Stream, component: &str) -> anyhow::Result<Option<Timestamp>> {
    // Take the time before asking: the answer does not cover what is stored while we ask.
    let asked_at = Timestamp::now();
    let Some(info) = state_of(broker, stream, component).await? else { return Ok(None) };
    let oldest = oldest_unsettled(broker, stream, &info).await?;
    Ok(Some(oldest.map_or(asked_at, |message| Timestamp::from_unix_nanos(message.time.unix_timestamp_nanos()))))
}

/// The first message above the acknowledgement floor of `consumer` that the consumer reads. Sequences above the floor
/// may be gone, or may never have been the consumer's own. The floor of a consumer of few subjects stays at its own
/// last message.
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
        // Ask the stream's leader: a replica may not have the newest messages yet.
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
