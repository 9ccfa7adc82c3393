//! Asks which deliveries the table `raw` has, for code that must know whether one arrived.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use clickhouse::{Client, Row};
use headrace_runtime::fault::Fault;
use headrace_schemas::id::EventId;
use headrace_schemas::time::Timestamp;
use serde::Deserialize;

use crate::clickhouse::LOOKUP_MAX;
use crate::clickhouse::classify::{fault, is_unknown_table};
use crate::clickhouse::place::{HAS_KEY, key_of, list, time_of};

/// Room for a look-up of [`LOOKUP_MAX`] ids, in bytes. By default ClickHouse takes 256 KiB.
const BYTES_MAX: &str = "2097152";
/// What is asked of the rows, and in which range. Named with its table: `received_at` alone would be the first reception.
const ASKED: &str = "id, tenant, event, toUnixTimestamp64Micro(min(own.received_at)) AS received_at";
const IN_RANGE: &str = "id IN ? AND own.received_at >= fromUnixTimestamp64Micro(?) \
                        AND own.received_at <= fromUnixTimestamp64Micro(?) GROUP BY id, tenant, event";

/// The table `raw` as a record of what was received, with that of an earlier release while it is there.
pub struct RawTable {
    client: Client,
    /// Whether there is no table of an earlier release. Such a table never comes back.
    earlier_is_gone: AtomicBool,
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

/// A part of the ids, and when they may have been received.
struct Asked<'a> {
    ids: Vec<&'a str>,
    from: Timestamp,
    to: Timestamp,
}

impl RawTable {
    pub(crate) fn new(client: Client) -> Self {
        let client = client.with_setting("max_query_size", BYTES_MAX).with_setting("use_query_condition_cache", "0");
        Self { client, earlier_is_gone: AtomicBool::new(false) }
    }

    /// What was received under `ids` between `from` and `to`.
    ///
    /// # Errors
    /// Transient when the server is away, broken when a person must act.
    pub async fn received(&self, ids: &[String], from: Timestamp, to: Timestamp) -> Result<Vec<Received>, Fault> {
        let mut found: BTreeMap<(String, String, String), i64> = BTreeMap::new();
        for part in ids.chunks(LOOKUP_MAX) {
            let asked = |ids| Asked { ids, from, to };
            let (timed, others): (Vec<&str>, Vec<&str>) =
                part.iter().map(String::as_str).partition(|id| time_in(id) != 0);
            // First the earlier table: no row leaves it for the other one, but the order is that of all look-ups.
            let rows = [
                self.in_earlier(&asked(part.iter().map(String::as_str).collect())).await,
                self.at_their_times(&asked(timed)).await,
                self.by_key(&asked(others)).await,
            ];
            for row in rows {
                for Received { id, tenant, event, received_at } in row.map_err(|error| fault(error).fault)? {
                    let first = found.entry((id, tenant, event)).or_insert(received_at);
                    *first = received_at.min(*first);
                }
            }
        }
        let received = |((id, tenant, event), received_at)| Received { id, tenant, event, received_at };
        Ok(found.into_iter().map(received).collect())
    }

    /// GitHub's ids tell their event time, so that nearly nothing is read.
    async fn at_their_times(&self, asked: &Asked<'_>) -> clickhouse::error::Result<Vec<Received>> {
        if asked.ids.is_empty() {
            return Ok(Vec::new());
        }
        let times = "SELECT fromUnixTimestamp64Micro(arrayJoin(CAST(?, 'Array(Int64)')), 'UTC') AS e";
        let query = self.client.query(&format!(
            "SELECT {ASKED} FROM raw AS own PREWHERE {HAS_KEY} WHERE event_time IN ({times}) \
             AND toStartOfHour(event_time) IN (SELECT toStartOfHour(e) FROM ({times})) AND {IN_RANGE}"
        ));
        let at = list(asked.ids.iter().map(|id| time_in(id).to_string()));
        asked.bind(query.bind(asked.keys()).bind(&at).bind(&at)).fetch_all().await
    }

    /// The keys of others are read from all rows of the range, or from those that an index leaves.
    async fn by_key(&self, asked: &Asked<'_>) -> clickhouse::error::Result<Vec<Received>> {
        if asked.ids.is_empty() {
            return Ok(Vec::new());
        }
        let query = self.client.query(&format!("SELECT {ASKED} FROM raw AS own PREWHERE {HAS_KEY} WHERE {IN_RANGE}"));
        asked.bind(query.bind(asked.keys())).fetch_all().await
    }

    async fn in_earlier(&self, asked: &Asked<'_>) -> clickhouse::error::Result<Vec<Received>> {
        if self.earlier_is_gone.load(Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        let query = self.client.query(&format!("SELECT {ASKED} FROM raw_1 AS own WHERE {IN_RANGE}"));
        match asked.bind(query).fetch_all().await {
            Err(error) if is_unknown_table(&error) => {
                self.earlier_is_gone.store(true, Ordering::Relaxed);
                Ok(Vec::new())
            }
            answer => answer,
        }
    }
}

impl Asked<'_> {
    fn keys(&self) -> String {
        list(self.ids.iter().map(|id| key_of(id).to_string()))
    }

    /// Binds the range, which stands last.
    fn bind(&self, query: clickhouse::query::Query) -> clickhouse::query::Query {
        query.bind(&self.ids).bind(self.from.as_micros()).bind(self.to.as_micros())
    }
}

/// The event time that an id tells, as the column has it.
fn time_in(id: &str) -> i64 {
    time_of(EventId::from_stored(id).created_at())
}
