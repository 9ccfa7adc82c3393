//! The incarnation of a consumer: one life of what the broker remembers of it.
//!
//! A NATS server writes a consumer's state in the background, so a server that is killed forgets the latest deliveries
//! and acknowledgements. Afterwards it hands out messages as if for the first time, although others still hold them or
//! have settled them. A consumer that was removed and made anew has forgotten everything. So a message that was stored
//! before the present incarnation began is a suspect, and what was taken in an earlier incarnation is no longer ours.
//!
//! A stream that was deleted and made anew has also forgotten the ids by which the broker drops duplicates. A message
//! that is stored in it within the first duplicate window may duplicate one of the lost stream, so it is a suspect too.

use std::sync::Arc;

use anyhow::Context as _;
use async_nats::jetstream::consumer::Info;
use bytes::Bytes;
use headrace_schemas::time::Timestamp;

use crate::broker::recreate::{KV_STATE, created_at};
use crate::broker::{Broker, Stream};
use crate::state::{Entry, StateStore};

/// What the broker may have forgotten about a message, by the time at which the message was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forgotten {
    /// A message stored no later than this may have been delivered before without the broker knowing.
    pub(crate) deliveries_until: Timestamp,
    /// A message stored before this may be a duplicate that the broker did not recognize.
    pub(crate) duplicates_until: Timestamp,
}

impl Forgotten {
    /// Nothing: for readers whose repeated effects the broker itself recognizes.
    pub(crate) const NOTHING: Self =
        Self { deliveries_until: Timestamp::from_micros(i64::MIN), duplicates_until: Timestamp::from_micros(i64::MIN) };
}

/// An incarnation of a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incarnation {
    name: Arc<str>,
    /// Its `deliveries_until` is when the incarnation was first seen, by the broker's clock: no earlier than it began.
    forgotten: Forgotten,
}

impl Incarnation {
    /// The latest time at which it can have begun, by the broker's clock.
    #[must_use]
    pub const fn since(&self) -> Timestamp {
        self.forgotten.deliveries_until
    }

    pub(crate) const fn forgotten(&self) -> Forgotten {
        self.forgotten
    }

    /// The incarnation that `info`, the state of a consumer of `stream`, belongs to. `known` saves further requests
    /// when the incarnation is still the same.
    pub(crate) async fn of(broker: &Broker, stream: Stream, info: &Info, known: Option<&Self>) -> anyhow::Result<Self> {
        let leader = match &info.cluster {
            Some(cluster) => {
                let leader = cluster.leader.as_ref().context("the consumer has no leader at the moment")?;
                let since = cluster.leader_since.context(
                    "the consumer's leader does not tell since when it leads; on a cluster set `streams.replicas` to 3",
                )?;
                Some((leader, since))
            }
            // While such a consumer changes its leader, the broker may report it without a leader, and with a state
            // that cannot be believed.
            None if broker.is_replicated() => anyhow::bail!("the consumer has no leader at the moment"),
            None => None,
        };
        let life = match leader {
            Some((leader, since)) => format!("{leader}@{}", since.unix_timestamp_nanos()),
            // A single server has a new id after each start.
            None => broker.server_id(),
        };
        let made_at = info.created.unix_timestamp_nanos();
        let name: Arc<str> = format!("{life}/{made_at}").into();
        if let Some(known) = known.filter(|known| known.name == name) {
            return Ok(known.clone());
        }
        let since = match leader {
            Some((_, since)) => Timestamp::from_unix_nanos(since.unix_timestamp_nanos().max(made_at)),
            None => first_seen(broker, &info.name, &name).await?,
        };
        let duplicates_until = duplicates_unknown_until(broker, stream).await?;
        let duplicates_until = duplicates_until.unwrap_or(Forgotten::NOTHING.duplicates_until);
        if broker.is_reborn(&info.name, &name) {
            tracing::info!(
                component = info.name,
                incarnation = &*name,
                %since,
                "NATS may have forgotten its latest deliveries to this consumer: it was started again, its leader changed, \
                 or the consumer was made anew. What was stored before is looked up before it is delivered again"
            );
        } else {
            // The usual case at a start, once for each worker.
            tracing::debug!(component = info.name, incarnation = &*name, %since, "incarnation of the consumer");
        }
        Ok(Self { name, forgotten: Forgotten { deliveries_until: since, duplicates_until } })
    }
}

/// The key of the bucket `state` in which a component notes the incarnation of its consumer.
pub(crate) fn epoch_key(component: &str) -> String {
    format!("epoch.{component}")
}

/// The value that notes the same incarnation once more, so that the bucket keeps it. It says when the first was written.
pub(crate) fn renewed(entry: &Entry) -> Bytes {
    match entry.value.contains(&b'\n') {
        true => entry.value.clone(),
        false => [&entry.value[..], format!("\n{}", entry.created.as_micros()).as_bytes()].concat().into(),
    }
}

/// When `entry` was first written, if it notes the incarnation `name`.
fn seen(entry: &Entry, name: &str) -> Option<Timestamp> {
    let text = std::str::from_utf8(&entry.value).ok()?;
    match text.split_once('\n') {
        Some((noted, micros)) if noted == name => micros.parse().ok().map(Timestamp::from_micros),
        None if text == name => Some(entry.created),
        _ => None,
    }
}

/// When the first process saw this incarnation. The time is stored, because processes that start later must know it
/// too.
async fn first_seen(broker: &Broker, component: &str, name: &str) -> anyhow::Result<Timestamp> {
    let store = StateStore::open(broker).await?;
    let key = epoch_key(component);
    loop {
        let entry = store.load(&key).await.map_err(|fault| fault.source)?;
        if let Some(since) = entry.as_ref().and_then(|entry| seen(entry, name)) {
            return Ok(since);
        }
        // The first to write has seen it first. Read back the time that the broker gave the entry.
        store.save(&key, name.to_owned().into(), entry.as_ref()).await.map_err(|fault| fault.source)?;
    }
}

/// Until when the broker may not recognize duplicates in `stream`, because the earlier messages were in a deleted
/// stream of the same name; `None` when there was no such stream.
async fn duplicates_unknown_until(broker: &Broker, stream: Stream) -> anyhow::Result<Option<Timestamp>> {
    let gone = || format!("the stream {} is not there at the moment", stream.name());
    let made_at = created_at(broker, stream.name()).await?.with_context(gone)?;
    // An installation's first start makes every stream before this bucket; [`crate::broker::recreate`] makes a stream
    // after it. When both are gone at a process's start, as on an empty server, that looks like a first start.
    let gone = "the bucket `state` is not there at the moment";
    let installed_at = created_at(broker, KV_STATE).await?.context(gone)?;
    let is_anew = made_at > installed_at;
    let window = i64::try_from(broker.duplicate_window().as_micros()).unwrap_or(i64::MAX);
    Ok(is_anew.then(|| Timestamp::from_micros(made_at.as_micros().saturating_add(window))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewed_note_keeps_the_time_of_the_first() {
        let at = Timestamp::from_micros;
        let entry = |value: Bytes, created| Entry { value, revision: 1, created: at(created) };
        let first = entry("server/1".into(), 7);
        assert_eq!(seen(&first, "server/1"), Some(at(7)));
        assert_eq!(seen(&first, "server/2"), None);
        let second = entry(renewed(&first), 1_000);
        assert_eq!(seen(&second, "server/1"), Some(at(7)));
        assert_eq!(seen(&second, "server/2"), None);
        assert_eq!(seen(&entry(renewed(&second), 2_000), "server/1"), Some(at(7)));
    }
}
