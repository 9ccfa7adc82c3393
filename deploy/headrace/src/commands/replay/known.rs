//! Remembers the events that were given up before a replay begins. The replay does not count them as its own failures.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use headrace_runtime::broker::Broker;
use headrace_runtime::settle::dead_letters::{DeadLetters, Filter};
use headrace_schemas::header;
use headrace_stages::chains;

use crate::role::{CLICKHOUSE, CLICKHOUSE_RAW};

/// How many dead letters are remembered, the oldest first: 16 MiB. For all others, a failure counts as new.
const DEAD_LETTERS_MAX: usize = 1_000_000;

/// Tenant and id of the events in DEAD, as hashes.
#[derive(Debug, Default)]
pub(super) struct KnownDead(HashSet<u64>);

impl KnownDead {
    /// Reads DEAD as it is now, without payloads.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub(super) async fn read(broker: &Broker) -> anyhow::Result<Self> {
        let mut known = Self::default();
        let mut reader = DeadLetters::open(broker).await?.read(Filter::default()).await?;
        while known.0.len() < DEAD_LETTERS_MAX {
            let Some(page) = reader.page().await? else { break };
            // If only a receiver refused an event, the event may still be computed and stored.
            let of_row =
                page.iter().filter(|dead_letter| computes_or_stores(dead_letter.header(header::DEAD_COMPONENT)));
            of_row.for_each(|dead_letter| known.insert(&dead_letter.tenant, dead_letter.header(header::ID)));
        }
        reader.close().await;
        Ok(known)
    }

    fn insert(&mut self, tenant: &str, id: &str) {
        self.0.insert(hash(tenant, id));
    }

    /// Whether the event was given up before. False without an id.
    pub(super) fn contains(&self, tenant: &str, id: &str) -> bool {
        !id.is_empty() && self.0.contains(&hash(tenant, id))
    }

    #[cfg(test)]
    pub(super) fn of<'a>(events: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut known = Self::default();
        events.into_iter().for_each(|(tenant, id)| known.insert(tenant, id));
        known
    }
}

fn computes_or_stores(component: &str) -> bool {
    chains::ORDER.contains(&component) || [CLICKHOUSE, CLICKHOUSE_RAW].contains(&component)
}

fn hash(tenant: &str, id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (tenant, id).hash(&mut hasher);
    hasher.finish()
}
