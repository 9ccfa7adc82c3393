//! The two sinks: what they check before they begin, and where their rows go. How is in `write/insert.rs`.

use std::time::Duration;

use async_trait::async_trait;
use headrace_runtime::component::batch::Batch;
use headrace_runtime::component::sink::{BatchResult, Sink};
use headrace_runtime::fault::Fault;
use headrace_runtime::message::payload::RawDelivery;
use headrace_schemas::event::Event;

use super::Config;
use super::owner::Watch;
use super::write::insert::{Rows, Table};
use super::write::migrate::Migrator;

/// How long a few suspects wait for others. Each insert of them makes a part with times of many days, which every look-up
/// reads until it is merged.
const SUSPECTS_LINGER: Duration = Duration::from_secs(4);

/// Scored events → table `events`.
pub struct Events {
    pub(super) table: Table,
    pub(super) config: Config,
    pub(super) migrator: Migrator,
    pub(super) owner: Watch,
}

#[async_trait]
impl Sink for Events {
    type Item = Event;

    async fn check(&self) -> Result<(), Fault> {
        self.config.begin(&self.migrator, &self.owner).await?;
        self.table.check_columns::<Event>().await
    }

    fn suspects_linger(&self) -> Duration {
        SUSPECTS_LINGER
    }

    async fn deliver(&self, batch: &Batch<Event>) -> BatchResult {
        deliver(&self.table, &self.owner, batch).await
    }
}

/// Bodies → table `raw`.
pub struct Raw {
    pub(super) table: Table,
    pub(super) config: Config,
    pub(super) migrator: Migrator,
    pub(super) owner: Watch,
}

#[async_trait]
impl Sink for Raw {
    type Item = RawDelivery;

    async fn check(&self) -> Result<(), Fault> {
        self.config.begin(&self.migrator, &self.owner).await?;
        self.table.check_columns::<RawDelivery>().await
    }

    fn suspects_linger(&self) -> Duration {
        SUSPECTS_LINGER
    }

    async fn deliver(&self, batch: &Batch<RawDelivery>) -> BatchResult {
        deliver(&self.table, &self.owner, batch).await
    }
}

/// Inserts `batch`, unless the database is no longer that of the sink.
async fn deliver<T: Rows>(table: &Table, owner: &Watch, batch: &Batch<T>) -> BatchResult {
    if let Err(fault) = owner.still_ours().await {
        return BatchResult::Whole(fault);
    }
    owner.during(table.deliver(batch)).await
}
