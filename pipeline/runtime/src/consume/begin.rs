//! Where a consumer begins, and the note by which a sink that has begun is known.
//!
//! A new sink may begin at the next message. A consumer that was there before and is gone must not: what came since
//! would be lost. So the bucket `state` notes that a sink has begun, and a consumer that is made anew begins at the
//! oldest message, where what was delivered is recognized.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{Consumer, DeliverPolicy, Info};
use headrace_schemas::time::Timestamp;
use tokio::time::Instant;

use crate::broker::progress::{last_sequence, state_of};
use crate::broker::{Broker, Stream};
use crate::component::subscription::{Start, Subscription};
use crate::consume::leftover::Presence;
use crate::message::incarnation::{epoch_key, renewed};
use crate::state::StateStore;

/// How often to see to the note while a process runs.
const NOTE_PERIOD: Duration = Duration::from_secs(3_600);
/// The note is written anew when it is older. The bucket forgets it after seven days.
const NOTE_AGE_MAX: Duration = Duration::from_secs(86_400);
/// The note of a sink whose consumer's incarnation has not been noted yet.
const BEGUN: &str = "begun";

/// Makes or updates the consumer of `subscription`, which was `found` a moment ago.
pub(super) async fn consumer(
    broker: &Broker,
    subscription: &Subscription,
    config: Config,
    found: Option<&Info>,
) -> anyhow::Result<Consumer<Config>> {
    let (component, stream) = (subscription.component.as_str(), subscription.stream);
    let open = async |deliver_policy: DeliverPolicy| {
        let config = Config { deliver_policy, ..config.clone() };
        broker.jetstream().create_consumer_on_stream(config, stream.name()).await
    };
    // NATS refuses to change where an existing consumer began.
    let policy = match found {
        Some(info) => info.config.deliver_policy,
        None => first_policy(broker, subscription).await?,
    };
    let opened = match open(policy).await {
        Err(error) if found.is_none() => match state_of(broker, stream, component).await? {
            // Another process made it since we looked, and it begins where that process saw the stream's end.
            Some(made) if made.config.deliver_policy != policy => open(made.config.deliver_policy).await,
            _ => Err(error),
        },
        opened => opened,
    };
    let consumer = opened.with_context(|| format!("cannot open the consumer {component} on {}", stream.name()))?;
    // Note it only now. A note without a consumer would make a new sink begin at the oldest message.
    if subscription.sink.is_some() {
        note(broker, component).await?;
    }
    Ok(consumer)
}

/// Where a consumer begins that is not there.
async fn first_policy(broker: &Broker, subscription: &Subscription) -> anyhow::Result<DeliverPolicy> {
    let Some(sink) = subscription.sink.as_ref().filter(|sink| sink.start == Start::Now) else {
        return Ok(DeliverPolicy::All);
    };
    let (component, stream) = (subscription.component.as_str(), subscription.stream);
    let store = StateStore::open(broker).await?;
    if store.load(&epoch_key(component)).await.map_err(|fault| fault.source)?.is_some() {
        tracing::warn!(
            component,
            "the consumer of this sink is gone; it is made anew and begins at the oldest message, where what was delivered \
             is recognized"
        );
        return Ok(DeliverPolicy::All);
    }
    // The number stays in the consumer's configuration, so a broker that is killed forgets it no more than the consumer.
    // With a policy of "new" it would begin at the end that the stream then has.
    let start_sequence = last_sequence(broker, stream).await? + 1;
    tracing::info!(
        component,
        sink = sink.instance,
        stream = stream.name(),
        start_sequence,
        "this sink is new and begins at the next message, as its setting `start` says"
    );
    Ok(DeliverPolicy::ByStartSequence { start_sequence })
}

/// What a sink's process keeps known while it runs, whatever its loop does: that the sink has begun, and that its consumer
/// is read.
pub(super) struct Kept {
    component: String,
    noted_at: Instant,
    presence: Presence,
}

impl Kept {
    /// For a consumer that was opened just now. `None` unless it is a sink's.
    pub(super) fn of(subscription: &Subscription) -> Option<Self> {
        let component = subscription.component.clone();
        subscription.sink.as_ref().map(|_| Self { component, noted_at: Instant::now(), presence: Presence::default() })
    }

    /// Renews what is old. `info` is the consumer's present state.
    pub(super) async fn renew(&mut self, broker: &Broker, stream: Stream, info: &Info) -> anyhow::Result<()> {
        if self.noted_at.elapsed() >= NOTE_PERIOD {
            note(broker, &self.component).await?;
            self.noted_at = Instant::now();
        }
        self.presence.keep(broker, stream, info).await
    }
}

/// Notes that the sink `component` has begun, for as long as the bucket `state` keeps it.
async fn note(broker: &Broker, component: &str) -> anyhow::Result<()> {
    let store = StateStore::open(broker).await?;
    let key = epoch_key(component);
    let entry = store.load(&key).await.map_err(|fault| fault.source)?;
    if entry.as_ref().is_some_and(|entry| Timestamp::now().since(entry.created) < NOTE_AGE_MAX) {
        return Ok(());
    }
    let value = entry.as_ref().map_or_else(|| BEGUN.into(), renewed);
    // If somebody else has just written it, it is there.
    store.save(&key, value, entry.as_ref()).await.map_err(|fault| fault.source)?;
    Ok(())
}
