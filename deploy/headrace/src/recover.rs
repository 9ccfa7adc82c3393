//! The role `recover`: ties the one that looks for missed deliveries to the table that knows which arrived.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use headrace_ingest::recover::Recover;
use headrace_ingest::recover::ledger::Ledger;
use headrace_runtime::broker::Broker;
use headrace_runtime::fault::Fault;
use headrace_runtime::health::Health;
use headrace_schemas::time::Timestamp;
use headrace_sinks::clickhouse;

use crate::config::Config;
use crate::roles::CLICKHOUSE_RAW;

/// The role, when it is configured.
pub(crate) fn build(config: &Config, broker: &Broker, health: &Health) -> Option<Arc<Recover>> {
    let (recover, clickhouse) = (config.recover.as_ref()?, config.sinks.clickhouse.as_ref()?);
    let ledger = Arc::new(Raw(clickhouse.ledger()));
    Some(Arc::new(Recover::new(recover, broker, ledger, CLICKHOUSE_RAW, health)))
}

/// The table `raw`.
struct Raw(clickhouse::Ledger);

#[async_trait]
impl Ledger for Raw {
    async fn received(
        &self,
        ids: &[String],
        from: Timestamp,
        to: Timestamp,
    ) -> Result<HashMap<String, Timestamp>, Fault> {
        self.0.received(ids, from, to).await
    }
}
