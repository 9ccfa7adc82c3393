//! Asks the permanent record which deliveries arrived.
//!
//! ClickHouse's table `raw` is asked, not the stream RAW: it answers for a thousand GUIDs by its index, and
//! it also tells when the broker lost what it had confirmed. Its consumer lags behind RAW by seconds, or by
//! hours when ClickHouse was away; [`settled_through`] tells by how much, so that a backlog is not taken for
//! a loss.

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

/// Clocks of GitHub, the gateways and the broker may differ by so much, and a delivery be under way so long.
const CLOCK_SKEW: Duration = Duration::from_secs(600);

/// The permanent record of deliveries.
#[async_trait]
pub trait DeliveryStore: Send + Sync {
    /// What was received under `ids` between `from` and `to`: one for each tenant and kind under an id.
    ///
    /// # Errors
    /// When it does not answer.
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
    /// When it came first.
    pub at: Timestamp,
}

/// A delivery that is looked for. The id alone would not do: it is outside the signature, so that whoever holds some
/// secret can send bodies of its own under an id that it has seen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct DeliveryKey {
    pub(super) id: EventId,
    pub(super) event: String,
}

/// When each delivery that was found was received.
pub(super) type Found = HashMap<DeliveryKey, Timestamp>;

/// What a run asks of the delivery store.
pub(super) struct Reader<'a> {
    deliveries: &'a dyn DeliveryStore,
    timeout: Duration,
    grace: Duration,
    /// The only tenants whose deliveries count, as subject tokens; none when any may be meant.
    tenants: Vec<String>,
    /// Everything that RAW took before is in the delivery store, or settled otherwise.
    complete_until: Option<Timestamp>,
    /// Why it cannot tell.
    pub(super) problem: Option<String>,
}

impl<'a> Reader<'a> {
    /// A reader for one run. `component` is the sink that fills the delivery store from RAW; `tenants` are whose deliveries
    /// are looked for, when that is known.
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

    /// Which of `sought`, sent between `first` and `last`, are there.
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
        // Nearly all are found by a narrow range of the table; the others may have come by a redelivery.
        if !absent.is_empty() && to < end {
            found.extend(self.received(absent.into_iter(), from, end).await);
        }
        found
    }

    /// What the delivery store says of one delivery whose last attempt was at `sent_last`.
    pub(super) fn record(&self, found: &Found, sought: &DeliveryKey, sent_last: Timestamp) -> Record {
        match found.get(sought) {
            Some(received_at) => Record::Stored(*received_at),
            // It may have taken the grace time to arrive in RAW, and be in the sink's backlog.
            None if self.problem.is_none() && self.complete_until >= Some(later(sent_last, self.grace)) => {
                Record::Absent
            }
            None => Record::Unknown,
        }
    }

    async fn received(&mut self, sought: impl Iterator<Item = &DeliveryKey>, from: Timestamp, to: Timestamp) -> Found {
        // One that is away is asked once in a run.
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

/// What of `rows` counts when deliveries of `tenants`, or of any, are looked for; of several, the earliest.
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
