//! Asks which deliveries the table `raw` has, for code that must know whether one arrived.

use clickhouse::{Client, Row};
use headrace_runtime::fault::Fault;
use headrace_schemas::time::Timestamp;
use serde::Deserialize;

use crate::clickhouse::LOOKUP_MAX;
use crate::clickhouse::classify::fault;

/// The table `raw` as a record of what was received.
pub struct RawTable {
    client: Client,
}

/// What was received under an id. There is one for each tenant and kind that came under it.
#[derive(Clone, Debug, PartialEq, Eq, Row, Deserialize)]
pub struct Received {
    /// The event's id.
    pub id: String,
    /// The tenant, as a subject token.
    pub tenant: String,
    /// The source's name of the kind.
    pub event: String,
    /// When it first came, in microseconds since the Unix epoch.
    pub received_at: i64,
}

impl RawTable {
    pub(crate) const fn new(client: Client) -> Self {
        Self { client }
    }

    /// What was received under `ids` between `from` and `to`.
    ///
    /// # Errors
    /// Transient when the server is away, broken when a person must act.
    pub async fn received(&self, ids: &[String], from: Timestamp, to: Timestamp) -> Result<Vec<Received>, Fault> {
        let mut found = Vec::new();
        for part in ids.chunks(LOOKUP_MAX) {
            // The times let ClickHouse skip parts and granules. Without them it would read the whole table.
            let query = self
                .client
                .query(
                    "SELECT id, tenant, event, toUnixTimestamp64Micro(min(raw.received_at)) AS received_at FROM raw \
                     WHERE id IN ? AND raw.received_at >= fromUnixTimestamp64Micro(?) \
                     AND raw.received_at <= fromUnixTimestamp64Micro(?) GROUP BY id, tenant, event",
                )
                .bind(part)
                .bind(from.as_micros())
                .bind(to.as_micros());
            found.extend(query.fetch_all::<Received>().await.map_err(|error| fault(error).fault)?);
        }
        Ok(found)
    }
}
