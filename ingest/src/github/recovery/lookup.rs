//! Asks the permanent record which deliveries arrived. It only reads.
//!
//! The record is ClickHouse's table `raw`, not the stream RAW. The table answers for a thousand GUIDs by its index, and
//! it also shows when the broker lost what it had confirmed. The sink that fills it lags behind RAW by seconds, or by
//! hours after ClickHouse was away. [`settled_through`] says by how much, so that a backlog is not taken for a loss.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use headrace_runtime::broker::progress::settled_through;
use headrace_runtime::broker::{Broker, Stream};
use headrace_runtime::fault::Fault;
use headrace_schemas::id::EventId;
use headrace_schemas::time::Timestamp;
use tokio::time::timeout;

use super::classify::{Record, later};
use super::config::Config;

/// How far the clocks of GitHub, the gateways and the broker may differ, and how long a delivery may be under way.
const CLOCK_SKEW: Duration = Duration::from_secs(600);

/// The permanent record of deliveries.
#[async_trait]
pub trait DeliveryStore: Send + Sync {
    /// What was received under `ids` between `from` and `to`: one entry for each tenant and kind under an id.
    ///
    /// # Errors
    /// When the record does not answer.
    async fn received(&self, ids: &[String], from: Timestamp, to: Timestamp) -> Result<Vec<Received>, Fault>;
}

/// What was received under an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The event's id.
    pub id: String,
    /// The tenant, as a subject token.
    pub tenant: String,
    /// GitHub's name of the kind.
    pub event: String,
    /// When it first arrived.
    pub at: Timestamp,
}

/// What identifies a delivery in the record. The id is not enough, because GitHub does not sign it: whoever holds any
/// valid secret can send bodies of its own under an id that it has seen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct DeliveryKey {
    pub(super) id: EventId,
    pub(super) event: String,
}

/// When each delivery that was found had arrived.
pub(super) type Found = HashMap<DeliveryKey, Timestamp>;

/// Asks the delivery store, for one run.
pub(super) struct Reader<'a> {
    deliveries: &'a dyn DeliveryStore,
    timeout: Duration,
    grace: Duration,
    /// Only deliveries of these tenants count, as subject tokens. Empty means any tenant.
    tenants: Vec<String>,
    /// Everything that RAW took before this time is in the delivery store, or was settled in another way.
    complete_until: Option<Timestamp>,
    /// Why the delivery store cannot tell what arrived.
    pub(super) problem: Option<String>,
}

impl<'a> Reader<'a> {
    /// A reader for one run. `component` is the sink that fills the delivery store from RAW. `tenants` are those whose
    /// deliveries are sought, if they are known.
    pub(super) async fn open(
        deliveries: &'a dyn DeliveryStore,
        broker: &Broker,
        component: &str,
        tenants: Vec<String>,
        config: &Config,
    ) -> Self {
        let (timeout, grace) = (config.timeout(), config.grace());
        let mut reader = Self { deliveries, timeout, grace, tenants, complete_until: None, problem: None };
        match settled_through(broker, Stream::Raw, component).await {
            Ok(Some(at)) => reader.complete_until = Some(at),
            Ok(None) => {
                reader.problem = Some(format!("the sink {component} has never run; is the role `sinks` running?"));
            }
            Err(error) => reader.problem = Some(format!("{error:#}")),
        }
        reader
    }

    /// Which of `sought` are in the store. They were first sent between `first` and `last`.
    pub(super) async fn read(
        &mut self,
        sought: &[DeliveryKey],
        first: Timestamp,
        last: Timestamp,
        now: Timestamp,
    ) -> Found {
        let (from, to) = (first.minus(CLOCK_SKEW), later(last, CLOCK_SKEW));
        let mut found = self.received(sought.iter(), from, to).await;
        let absent: Vec<&DeliveryKey> = sought.iter().filter(|sought| !found.contains_key(sought)).collect();
        let end = later(now, CLOCK_SKEW);
        // A narrow range of the table has nearly all of them. The others may have arrived by a redelivery.
        if !absent.is_empty() && to < end {
            found.extend(self.received(absent.into_iter(), from, end).await);
        }
        found
    }

    /// What the delivery store says of one delivery whose last attempt was at `sent_last`.
    pub(super) fn record(&self, found: &Found, sought: &DeliveryKey, sent_last: Timestamp) -> Record {
        match found.get(sought) {
            Some(received_at) => Record::Stored(*received_at),
            // The delivery may have taken the grace time to reach RAW, and may still be in the sink's backlog.
            None if self.problem.is_none() && self.complete_until >= Some(later(sent_last, self.grace)) => {
                Record::Absent
            }
            None => Record::Unknown,
        }
    }

    async fn received(&mut self, sought: impl Iterator<Item = &DeliveryKey>, from: Timestamp, to: Timestamp) -> Found {
        // Ask a store that is away only once in a run.
        if self.problem.is_some() {
            return Found::new();
        }
        let ids: Vec<String> = sought.map(|sought| sought.id.as_str().to_owned()).collect();
        let answer = timeout(self.timeout, self.deliveries.received(&ids, from, to)).await;
        let problem = match answer {
            Ok(Ok(rows)) => return found_in(rows, &self.tenants),
            Ok(Err(fault)) => fault.to_string(),
            Err(_) => "it did not answer in time".to_owned(),
        };
        self.problem = Some(format!("cannot ask ClickHouse which deliveries are stored: {problem}"));
        Found::new()
    }
}

/// The deliveries in `rows` that count: those of `tenants`, or of any tenant if there are none. Of equal keys the
/// earliest counts.
fn found_in(rows: Vec<Received>, tenants: &[String]) -> Found {
    let mut found = Found::new();
    for Received { id, tenant: own, event, at } in rows {
        if tenants.is_empty() || tenants.contains(&own) {
            let sought = DeliveryKey { id: EventId::from_stored(id), event };
            found.entry(sought).and_modify(|first| *first = at.min(*first)).or_insert(at);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_tenant_and_kind_count() {
        let row = |tenant: &str, event: &str, micros| Received {
            id: "1".to_owned(),
            tenant: tenant.to_owned(),
            event: event.to_owned(),
            at: Timestamp::from_micros(micros),
        };
        let rows = || vec![row("octo", "push", 1), row("acme", "push", 3), row("acme", "member", 2)];
        let at = |tenants: &[&str], event: &str| {
            let tenants: Vec<String> = tenants.iter().map(|tenant| (*tenant).to_owned()).collect();
            let sought = DeliveryKey { id: EventId::from_stored("1".to_owned()), event: event.to_owned() };
            found_in(rows(), &tenants).get(&sought).map(|at| at.as_micros())
        };
        assert_eq!(at(&["acme"], "push"), Some(3));
        assert_eq!(at(&["other", "acme"], "member"), Some(2), "as it was mapped, or was not");
        assert_eq!(at(&["acme"], "star"), None);
        assert_eq!(at(&["other"], "push"), None);
        assert_eq!(at(&[], "push"), Some(1), "the earliest");
    }
}
