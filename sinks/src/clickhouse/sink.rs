//! The two sinks: what they check before they begin, and where their rows go. How is in `write/insert.rs`.

use async_trait::async_trait;
use headrace_runtime::component::batch::Batch;
use headrace_runtime::component::sink::{BatchResult, Sink};
use headrace_runtime::fault::Fault;
use headrace_runtime::message::payload::RawDelivery;
use headrace_schemas::event::Event;

use super::Config;
use super::write::insert::Table;

/// Scored events → table `events`.
pub struct Events {
    pub(super) table: Table,
    pub(super) config: Config,
    pub(super) instance: String,
}

#[async_trait]
impl Sink for Events {
    type Item = Event;

    async fn check(&self) -> Result<(), Fault> {
        self.config.begin(&self.instance).await?;
        self.table.check_columns::<Event>().await
    }

    async fn deliver(&self, batch: &Batch<Event>) -> BatchResult {
        self.table.deliver(batch).await
    }
}

/// Bodies → table `raw`.
pub struct Raw {
    pub(super) table: Table,
    pub(super) config: Config,
    pub(super) instance: String,
}

#[async_trait]
impl Sink for Raw {
    type Item = RawDelivery;

    async fn check(&self) -> Result<(), Fault> {
        self.config.begin(&self.instance).await?;
        self.table.check_columns::<RawDelivery>().await
    }

    async fn deliver(&self, batch: &Batch<RawDelivery>) -> BatchResult {
        self.table.deliver(batch).await
    }
}
