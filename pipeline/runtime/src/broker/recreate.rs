//! Watches the streams and buckets. When somebody deletes one, this makes it anew without a restart and logs an error.
//!
//! What the stream held is lost; this code cannot bring it back. Rows are still made once: the consumers of the new
//! stream have a new incarnation, and its messages are suspects for as long as the broker may not recognize duplicates of
//! lost ones ([`crate::message::incarnation`]). Without the bucket `state`, an open alert may make a second ticket.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::GetStreamErrorKind;
use headrace_schemas::time::Timestamp;
use metrics::counter;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, Stream};
use crate::config::Streams;
use crate::every::every;
use crate::observe::metrics::RECREATED;

/// How often to look. Until a deleted stream is back, the gateway refuses deliveries, and GitHub does not send them
/// again by itself.
const PERIOD: Duration = Duration::from_secs(2);

/// The streams behind the buckets.
const BUCKETS: [&str; 6] = [OBJ_BODIES, "KV_schemas", KV_STATE, "KV_recovery", KV_CURSORS, KV_ASIDES];
const OBJ_BODIES: &str = "OBJ_bodies";
pub(crate) const KV_STATE: &str = "KV_state";
const KV_CURSORS: &str = "KV_cursors";
const KV_ASIDES: &str = "KV_asides";

/// Runs until `stop`.
///
/// # Errors
/// When the broker does not answer, or does not let us make a stream.
pub async fn run(broker: Broker, streams: Streams, stop: CancellationToken) -> anyhow::Result<()> {
    let mut turns = every(PERIOD, &stop);
    while turns.next().await {
        let mut missing = Vec::new();
        for name in Stream::ALL.map(Stream::name).into_iter().chain(BUCKETS) {
            if created_at(&broker, name).await?.is_none() {
                missing.push(name);
            }
        }
        if missing.is_empty() {
            continue;
        }
        for stream in &missing {
            let remedy = remedy(stream);
            tracing::error!(stream, remedy, "somebody deleted this stream; what it held is lost, and it is made anew");
        }
        let cannot = "cannot make anew what was deleted in NATS";
        if missing.contains(&KV_STATE) {
            broker.ensure_state(&streams).await.context(cannot)?;
        }
        broker.ensure_topology(&streams).await.context(cannot)?;
        missing.into_iter().for_each(|stream| counter!(RECREATED, "stream" => stream).increment(1));
    }
    Ok(())
}

/// What a person can do about the loss.
fn remedy(stream: &str) -> &'static str {
    match stream {
        "RAW" => {
            "deliveries that were not processed yet are missing: `[recover]` asks GitHub for them again, see `headrace gaps`"
        }
        "EVENTS" => {
            "events that a sink had not delivered yet are missing there: `headrace replay --since 1d` adds the rows that \
             ClickHouse lacks, and then `headrace sinks rewind` brings all rows of a time to another sink"
        }
        "ALERTS" => "alerts that no ticket was made of yet are missing; they are in no other place",
        "DEAD" => {
            "dead letters are gone; their deliveries are in RAW while it keeps them, and in the table `raw` unless it was \
             `clickhouse-raw` that gave them up"
        }
        OBJ_BODIES => "bodies over the broker's `max_payload` that were not processed yet are missing",
        KV_STATE => "open alerts begin anew, which may file a second ticket",
        KV_ASIDES => {
            "what was missed by sinks that were set aside is forgotten, and paused sinks go on: `headrace sinks rewind` \
             brings events of a time once more, `headrace sinks pause` pauses again"
        }
        "CATCHUP" => {
            "events that a sink was being brought once more are missing there: `headrace sinks rewind` brings those of the \
             last hours again"
        }
        KV_CURSORS => "sources that are asked are read again from their beginning; what was stored is recognized",
        _ => "nothing needs to be done: it is filled again",
    }
}

/// When a stream was made, by the broker's clock; `None` when there is none of that name.
pub(crate) async fn created_at(broker: &Broker, name: &str) -> anyhow::Result<Option<Timestamp>> {
    match broker.jetstream().get_stream(name).await {
        Ok(stream) => Ok(Some(Timestamp::from_unix_nanos(stream.cached_info().created.unix_timestamp_nanos()))),
        Err(error) if is_absent(&error.kind()) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot look for the stream {name}")),
    }
}

fn is_absent(kind: &GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}
