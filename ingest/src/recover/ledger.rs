//! Asks the permanent record which deliveries arrived.
//!
//! ClickHouse's table `raw` is asked, not the stream RAW: it answers for a thousand GUIDs by its index, and
//! it also tells when the broker lost what it had confirmed. Its consumer lags behind RAW by seconds, or by
//! hours when ClickHouse was away; [`settled_through`] tells by how much, so that a backlog is not taken for
//! a loss.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use headrace_runtime::broker::{Broker, Stream};
use headrace_runtime::fault::Fault;
use headrace_runtime::progress::settled_through;
use headrace_schemas::id::EventId;
use headrace_schemas::time::Timestamp;
use tokio::time::timeout;

use super::config::Config;
use super::judge::{Record, later};

/// Clocks of GitHub, the gateways and the broker may differ by so much, and a delivery be under way so long.
const CLOCK_SKEW: Duration = Duration::from_secs(600);

/// The permanent record of deliveries.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Which of `ids` were received between `from` and `to`, and when.
    ///
    /// # Errors
    /// When it does not answer.
    async fn received(
        &self,
        ids: &[String],
        from: Timestamp,
        to: Timestamp,
    ) -> Result<HashMap<String, Timestamp>, Fault>;
}

/// What a run asks of the ledger.
pub(super) struct Reader<'a> {
    ledger: &'a dyn Ledger,
    timeout: Duration,
    grace: Duration,
    /// Everything that RAW took before is in the ledger, or settled otherwise.
    complete_until: Option<Timestamp>,
    /// Why it cannot tell.
    pub(super) problem: Option<String>,
}

impl<'a> Reader<'a> {
    /// A reader for one run. `component` is the sink that fills the ledger from RAW.
    pub(super) async fn open(ledger: &'a dyn Ledger, broker: &Broker, component: &str, config: &Config) -> Self {
        let (timeout, grace) = (config.timeout(), config.grace());
        let mut reader = Self { ledger, timeout, grace, complete_until: None, problem: None };
        match settled_through(broker, Stream::Raw, component).await {
            Ok(Some(at)) => reader.complete_until = Some(at),
            Ok(None) => {
                reader.problem = Some(format!("the sink {component} has never run; is the role `sinks` running?"));
            }
            Err(error) => reader.problem = Some(format!("{error:#}")),
        }
        reader
    }

    /// What is known of deliveries, by GUID, that were sent between `first` and `last`.
    pub(super) async fn read(
        &mut self,
        guids: &[&str],
        first: Timestamp,
        last: Timestamp,
        now: Timestamp,
    ) -> HashMap<String, Timestamp> {
        let ids: Vec<String> = guids.iter().map(|guid| EventId::github(guid).as_str().to_owned()).collect();
        let (from, to) = (first.minus(CLOCK_SKEW), later(last, CLOCK_SKEW));
        let mut found = self.received(&ids, from, to).await;
        let absent: Vec<String> = ids.into_iter().filter(|id| !found.contains_key(id)).collect();
        let end = later(now, CLOCK_SKEW);
        // Nearly all are found by a narrow range of the table; the others may have come by a redelivery.
        if !absent.is_empty() && to < end {
            found.extend(self.received(&absent, from, end).await);
        }
        found
    }

    /// What the ledger says of one delivery whose last attempt was at `sent_last`.
    pub(super) fn record(&self, found: &HashMap<String, Timestamp>, guid: &str, sent_last: Timestamp) -> Record {
        match found.get(EventId::github(guid).as_str()) {
            Some(received_at) => Record::Stored(*received_at),
            // It may have taken the grace time to arrive in RAW, and be in the sink's backlog.
            None if self.problem.is_none() && self.complete_until >= Some(later(sent_last, self.grace)) => {
                Record::Absent
            }
            None => Record::Unknown,
        }
    }

    async fn received(&mut self, ids: &[String], from: Timestamp, to: Timestamp) -> HashMap<String, Timestamp> {
        // One that is away is asked once in a run.
        if self.problem.is_some() {
            return HashMap::new();
        }
        let answer = timeout(self.timeout, self.ledger.received(ids, from, to)).await;
        let problem = match answer {
            Ok(Ok(found)) => return found,
            Ok(Err(fault)) => fault.to_string(),
            Err(_) => "it did not answer in time".to_owned(),
        };
        self.problem = Some(format!("cannot ask ClickHouse which deliveries are stored: {problem}"));
        HashMap::new()
    }
}
