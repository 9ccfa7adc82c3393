//! Which deliveries the table `raw` has: asked by those who must know whether one arrived.

use std::collections::HashMap;

use clickhouse::Client;
use headrace_runtime::fault::Fault;
use headrace_schemas::time::Timestamp;

use super::classify::fault;
use super::insert::LOOKUP_MAX;

/// The table `raw` as a record of what was received.
pub struct Ledger {
    client: Client,
}

impl Ledger {
    pub(super) const fn new(client: Client) -> Self {
        Self { client }
    }

    /// Which of `ids` were received between `from` and `to`, and when; an id that is there twice, the earliest.
    ///
    /// # Errors
    /// Transient when the server is away, broken when a person must act.
    pub async fn received(
        &self,
        ids: &[String],
        from: Timestamp,
        to: Timestamp,
    ) -> Result<HashMap<String, Timestamp>, Fault> {
        let mut found = HashMap::new();
        for part in ids.chunks(LOOKUP_MAX) {
            // The times by which parts and granules are skipped; without them the whole table would be read.
            let query = self
                .client
                .query(
                    "SELECT id, toUnixTimestamp64Micro(min(received_at)) FROM raw WHERE id IN ? \
                     AND received_at >= fromUnixTimestamp64Micro(?) AND received_at <= fromUnixTimestamp64Micro(?) \
                     GROUP BY id",
                )
                .bind(part)
                .bind(from.as_micros())
                .bind(to.as_micros());
            let rows = query.fetch_all::<(String, i64)>().await.map_err(|error| fault(error).fault)?;
            found.extend(rows.into_iter().map(|(id, micros)| (id, Timestamp::from_micros(micros))));
        }
        Ok(found)
    }
}
