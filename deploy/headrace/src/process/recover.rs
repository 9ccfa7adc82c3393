//! The role `recover`. It connects the search for missed deliveries to two tables: `raw` knows which deliveries
//! arrived, and `gaps` shows the result.

use std::sync::Arc;

use async_trait::async_trait;
use headrace_ingest::github::recovery::Recover;
use headrace_ingest::github::recovery::lookup::{DeliveryStore, Received};
use headrace_ingest::github::recovery::report::Exporter;
use headrace_ingest::github::recovery::report::{Counts, HourReport};
use headrace_runtime::broker::Broker;
use headrace_runtime::fault::Fault;
use headrace_runtime::observe::health::Health;
use headrace_schemas::time::Timestamp;
use headrace_sinks::clickhouse::{self, GapsRow};

use crate::config::Config;
use crate::role::CLICKHOUSE_RAW;

/// The role, if it is configured.
pub(crate) fn build(config: &Config, broker: &Broker, health: &Health) -> Option<Arc<Recover>> {
    let (recover, clickhouse) = (config.recover.as_ref()?, config.clickhouse()?);
    let (deliveries, exporter) = (Arc::new(Raw(clickhouse.raw_table())), Arc::new(Gaps(clickhouse.gaps())));
    Some(Arc::new(Recover::new(recover, &config.tenants, broker, deliveries, exporter, CLICKHOUSE_RAW, health)))
}

/// The table `raw`.
struct Raw(clickhouse::RawTable);

#[async_trait]
impl DeliveryStore for Raw {
    async fn received(&self, ids: &[String], from: Timestamp, to: Timestamp) -> Result<Vec<Received>, Fault> {
        let found = self.0.received(ids, from, to).await?;
        let received = |clickhouse::Received { id, tenant, event, received_at }| Received {
            id,
            tenant,
            event,
            at: Timestamp::from_micros(received_at),
        };
        Ok(found.into_iter().map(received).collect())
    }
}

/// The table `gaps`.
struct Gaps(clickhouse::Gaps);

#[async_trait]
impl Exporter for Gaps {
    async fn export(&self, hook: &str, hours: &[HourReport], checked_at: Timestamp) -> Result<(), Fault> {
        let row = |HourReport { hour, counts }: &HourReport| {
            let Counts { delivered, seen, recovered, waiting, missing, refused, too_old } = *counts;
            GapsRow {
                hook: hook.to_owned(),
                hour: GapsRow::hour_of(*hour),
                delivered,
                seen,
                recovered,
                waiting,
                missing,
                refused,
                too_old,
                checked_at: checked_at.as_micros(),
            }
        };
        self.0.write(&hours.iter().map(row).collect::<Vec<_>>()).await
    }
}
