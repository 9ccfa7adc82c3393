//! Whether anything is left to do.

use std::time::Duration;

use async_nats::jetstream;
use headrace_local::poll;
use headrace_runtime::broker::Stream;

use super::Testbed;
use crate::harness::consumed;

impl Testbed {
    /// Waits until every message is settled by every component, and no component misses anything.
    pub(in crate::faults) async fn settled(&self, within: Duration) -> anyhow::Result<()> {
        let settled = async || self.left().await.ok().filter(Vec::is_empty);
        if let Err(error) = poll::until("every message is settled", within, settled).await {
            anyhow::bail!("{error}; left: {:?}\n{}", self.left().await, self.logs());
        }
        Ok(())
    }

    /// What is left to do.
    async fn left(&self) -> anyhow::Result<Vec<String>> {
        let mut left = Vec::new();
        for stream in [Stream::Raw, Stream::Events, Stream::Alerts, Stream::Dead] {
            left.extend(self.waiting(stream).await?);
        }
        // In this order: what a component does not take from EVENTS is written down first, and then comes to CATCHUP.
        left.extend(self.behind().await?.iter().map(|behind| format!("{behind:?}")));
        left.extend(self.waiting(Stream::CatchUp).await?);
        Ok(left)
    }

    pub(super) async fn waiting(&self, stream: Stream) -> anyhow::Result<impl Iterator<Item = String>> {
        let stream = jetstream::new(self.client.clone()).get_stream(stream.name()).await?;
        let behind = consumed::behind(&stream).await?;
        Ok(behind.into_iter().map(|(consumer, waiting, unsettled)| {
            format!("{consumer}: {waiting} messages wait, {unsettled} are not settled")
        }))
    }

    pub(in crate::faults) async fn dead_letters(&self) -> anyhow::Result<u64> {
        let dead = jetstream::new(self.client.clone()).get_stream(Stream::Dead.name()).await?;
        Ok(dead.cached_info().state.messages)
    }
}
