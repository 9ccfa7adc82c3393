//! The table `gaps`: what became of the deliveries of each hook and hour, for dashboards.

use std::time::Duration;

use clickhouse::{Client, Row};
use headrace_runtime::fault::Fault;
use headrace_schemas::time::Timestamp;
use serde::Serialize;

use crate::clickhouse::classify::fault;

/// A row of `gaps`; the columns are described in `migrations/0003_gaps.sql`.
#[derive(Clone, Debug, Row, Serialize)]
pub struct GapsRow {
    /// The hook's name.
    pub hook: String,
    /// The hour's beginning, in seconds since the Unix epoch.
    pub hour: u32,
    /// Deliveries that GitHub lists.
    pub delivered: u64,
    /// Of those, the ones stored when GitHub first sent them.
    pub seen: u64,
    /// Of those, the ones stored because they were sent again.
    pub recovered: u64,
    /// Of those, the ones whose state cannot be known yet.
    pub waiting: u64,
    /// Of those, the ones not stored.
    pub missing: u64,
    /// Of the missing, the ones that GitHub refused to send again.
    pub refused: u64,
    /// Of the missing, the ones that GitHub no longer has.
    pub too_old: u64,
    /// When this was found, in microseconds since the Unix epoch. Of an hour's rows the latest counts.
    pub checked_at: i64,
}

impl GapsRow {
    /// `hour` as the table has it.
    #[must_use]
    pub fn hour_of(at: Timestamp) -> u32 {
        u32::try_from(at.as_micros().div_euclid(1_000_000)).unwrap_or_default()
    }
}

/// The table `gaps`.
pub struct Gaps {
    client: Client,
    limit: Duration,
}

impl Gaps {
    pub(crate) fn new(client: Client, limit: Duration) -> Self {
        let seconds = limit.as_secs().to_string();
        let client = client.with_setting("async_insert", "0").with_setting("max_execution_time", seconds);
        Self { client, limit }
    }

    /// Writes `rows`. Writing the same rows again changes nothing.
    ///
    /// # Errors
    /// Transient when the server is away, broken when a person must act.
    pub async fn write(&self, rows: &[GapsRow]) -> Result<(), Fault> {
        let send = async {
            let insert = self.client.insert::<GapsRow>("gaps").await?;
            let mut insert = insert.with_timeouts(Some(self.limit), Some(self.limit));
            for row in rows {
                insert.write(row).await?;
            }
            insert.end().await
        };
        send.await.map_err(|error| fault(error).fault)
    }
}
