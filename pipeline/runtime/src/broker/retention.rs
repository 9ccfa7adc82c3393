//! Makes room in full streams. Removes messages that every consumer has settled, and nothing else.
//!
//! A full stream refuses new messages, because dropping the oldest would lose messages that were not read yet.

use std::time::Duration;

use anyhow::Context as _;
use futures::TryStreamExt as _;
use metrics::counter;
use tokio_util::sync::CancellationToken;

use crate::broker::progress::oldest_unsettled;
use crate::broker::{Broker, Stream};
use crate::observe::metrics::PURGED;

/// How often to look.
const PERIOD: Duration = Duration::from_secs(5);
/// A stream that is fuller than this share of its bytes gets room made.
const HIGH_WATER: f64 = 0.75;
/// This share stays filled, for replay. Where consumers are behind, more stays.
const LOW_WATER: f64 = 0.5;

/// Runs until `stop`.
///
/// # Errors
/// When the broker does not answer.
pub async fn run(broker: Broker, stop: CancellationToken) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return Ok(()),
        }
        for stream in [Stream::Raw, Stream::Events, Stream::Alerts] {
            relieve(&broker, stream)
                .await
                .with_context(|| format!("cannot look after the stream {}", stream.name()))?;
        }
    }
}

async fn relieve(broker: &Broker, stream: Stream) -> anyhow::Result<()> {
    let handle = broker.jetstream().get_stream(stream.name()).await.context("cannot open it")?;
    let info = handle.cached_info();
    let (state, limit) = (&info.state, info.config.max_bytes);
    if limit <= 0 || (state.bytes as f64) < HIGH_WATER * limit as f64 {
        return Ok(());
    }
    // Without a consumer nobody knows what was read, so a stream without consumers stays as it is.
    let consumers: Vec<_> = handle.consumers().try_collect().await.context("cannot list its consumers")?;
    let mut last = None;
    for consumer in &consumers {
        let oldest = oldest_unsettled(broker, stream, consumer).await;
        let oldest = oldest.with_context(|| format!("cannot tell what {} has settled", consumer.name))?;
        // `state` was read before this, so messages that came in between stay.
        let settled = oldest.map_or(state.last_sequence, |message| message.sequence - 1);
        if last.is_none_or(|(_, least)| settled < least) {
            last = Some((consumer.name.as_str(), settled));
        }
    }
    let Some((behind, settled)) = last else { return Ok(()) };
    let surplus = 1.0 - LOW_WATER * limit as f64 / state.bytes as f64;
    let messages = state.last_sequence.saturating_sub(state.first_sequence);
    let wanted = state.first_sequence + (messages as f64 * surplus) as u64;
    let keep_from = wanted.min(settled + 1);
    if keep_from <= state.first_sequence {
        tracing::warn!(
            stream = stream.name(),
            consumer = behind,
            bytes = state.bytes,
            limit,
            "stream is nearly full of messages that a consumer has not settled; when it is full, its publishers wait"
        );
        return Ok(());
    }
    let purged = handle.purge().sequence(keep_from).await.context("cannot purge it")?.purged;
    counter!(PURGED, "stream" => stream.name()).increment(purged);
    tracing::info!(stream = stream.name(), purged, "made room: removed messages that every consumer has settled");
    Ok(())
}
