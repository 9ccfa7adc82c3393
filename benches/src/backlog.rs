//! How far the parts of the chain are behind, by the counts of NATS. NATS answers at almost no cost. A query would take
//! ClickHouse's time, which the case measures.

use anyhow::Context as _;
use async_nats::jetstream::{self, stream};
use headrace_runtime::broker::Stream;
use serde::Serialize;

/// Reads the backlog of each consumer.
pub(crate) struct Backlog {
    raw: stream::Stream,
    events: stream::Stream,
    dead: stream::Stream,
}

/// Messages that are not settled yet, by the consumer that must settle them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Waiting {
    /// Bodies for the stages.
    pub(crate) normalize: u64,
    /// Scored events for the table `events`.
    pub(crate) clickhouse: u64,
    /// Bodies for the table `raw`.
    pub(crate) clickhouse_raw: u64,
    /// Scored events with a match, for the stage alert.
    pub(crate) alert: u64,
}

impl Waiting {
    /// Events that were accepted but are not in the table `events` yet.
    pub(crate) const fn events(&self) -> u64 {
        self.normalize + self.clickhouse
    }

    /// Events that were accepted but are not in both tables yet.
    pub(crate) fn rows(&self) -> u64 {
        self.events().max(self.clickhouse_raw)
    }
}

impl Backlog {
    pub(crate) async fn open(client: &async_nats::Client) -> anyhow::Result<Self> {
        let jetstream = jetstream::new(client.clone());
        let open = async |stream: Stream| {
            jetstream.get_stream(stream.name()).await.with_context(|| format!("cannot open {}", stream.name()))
        };
        Ok(Self { raw: open(Stream::Raw).await?, events: open(Stream::Events).await?, dead: open(Stream::Dead).await? })
    }

    /// The messages that wait now.
    pub(crate) async fn waiting(&self) -> anyhow::Result<Waiting> {
        let (normalize, clickhouse, clickhouse_raw, alert) = tokio::try_join!(
            unsettled(&self.raw, "normalize"),
            unsettled(&self.events, "clickhouse"),
            unsettled(&self.raw, "clickhouse-raw"),
            unsettled(&self.events, "alert"),
        )?;
        Ok(Waiting { normalize, clickhouse, clickhouse_raw, alert })
    }

    /// How many messages RAW has received.
    pub(crate) async fn stored(&self) -> anyhow::Result<u64> {
        Ok(self.raw.get_info().await.context("RAW does not answer")?.state.last_sequence)
    }

    /// How many dead letters there are.
    pub(crate) async fn dead_letters(&self) -> anyhow::Result<u64> {
        Ok(self.dead.get_info().await.context("DEAD does not answer")?.state.messages)
    }
}

async fn unsettled(stream: &stream::Stream, consumer: &str) -> anyhow::Result<u64> {
    let info = stream.consumer_info(consumer).await;
    let info = info.with_context(|| format!("the consumer {consumer} does not answer"))?;
    Ok(info.num_pending + info.num_ack_pending as u64)
}
