//! A component's share of a stream: a durable pull consumer, read by a few workers.
//!
//! A worker asks for a batch, works on it to the end and asks again. So at most workers × batch messages are in flight,
//! and none waits in a buffer while its `ack_wait` runs. Nothing here decides what becomes of a message;
//! [`crate::settle`] does. Read [`chain`] and [`sink`] next.

mod begin;
pub mod chain;
mod conflicts;
mod duplicates;
mod hold;
pub mod leftover;
mod pull;
mod read;
pub mod sink;
pub mod stranded;
pub mod stream_reader;
mod sub_batch;
mod trial;

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{self, AckPolicy, Consumer};
use futures::FutureExt as _;
use headrace_schemas::header;
use headrace_schemas::time::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::changed::ChangedBack;
use crate::broker::progress::{last_sequence, oldest_unsettled, state_of, time_at};
use crate::broker::{Broker, Stream};
use crate::component::subscription::Subscription;
use crate::consume::duplicates::Position;
use crate::consume::pull::Pull;
use crate::message::incarnation::{Forgotten, Incarnation};
use crate::message::{Delivered, Intake};
use crate::moment::Moment;

/// How long a request for messages stays open at the broker, at most.
const REQUEST_OPEN_MAX: Duration = Duration::from_secs(5);
/// How often to check that the consumer still has the configuration that we gave it.
const CONFIG_CHECK_PERIOD: Duration = Duration::from_secs(5);

/// One reader of a consumer.
pub struct Subscriber {
    consumer: Consumer<Config>,
    stream: Stream,
    broker: Broker,
    incarnation: Option<Incarnation>,
    /// The longest that a request for messages may stay open.
    open_max: Duration,
    open: Option<(Pull, Moment)>,
    intake: Intake,
    /// How many messages the last batch had. The next is about as large.
    taken: usize,
    config: ObservedConfig,
    config_seen_at: Instant,
    /// What is kept known of it. `None` unless it is a sink's.
    kept: Option<begin::Kept>,
}

/// A consumer's configuration, as the broker reports it.
#[derive(Debug, PartialEq, Eq)]
struct ObservedConfig(consumer::Config);

impl ObservedConfig {
    fn of(info: &consumer::Info) -> Self {
        // The server writes its own version into the metadata.
        Self(consumer::Config { metadata: HashMap::new(), ..info.config.clone() })
    }
}

impl Subscriber {
    /// Creates or updates the consumer and opens a worker on it.
    ///
    /// # Errors
    /// When the broker does not answer or refuses the consumer, or when the consumer is beyond the end of its stream.
    pub async fn open(broker: &Broker, subscription: &Subscription) -> anyhow::Result<Self> {
        let found = state_of(broker, subscription.stream, &subscription.component).await?;
        refuse_to_skip(broker, subscription, found.as_ref()).await?;
        let metadata = match &subscription.sink {
            Some(owner) => leftover::marks(owner, found.as_ref(), time_at(broker, subscription.stream).await?),
            None => HashMap::new(),
        };
        let config = Config {
            durable_name: Some(subscription.component.clone()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: subscription.ack_wait,
            // `settle` bounds the attempts; the broker must never give up by itself.
            max_deliver: -1,
            filter_subjects: subscription.filters.clone(),
            max_ack_pending: i64::try_from(subscription.unsettled_max).unwrap_or(i64::MAX),
            max_waiting: 512,
            metadata,
            ..Config::default()
        };
        let consumer = begin::consumer(broker, subscription, config, found.as_ref()).await?;
        let kept = begin::Kept::of(subscription);
        let (config, config_seen_at) = (ObservedConfig::of(consumer.cached_info()), Instant::now());
        let (stream, broker) = (subscription.stream, broker.clone());
        // A message counts as ours from the moment of the request, so a request may use up at most half of `ack_wait`.
        let open_max = subscription.ack_wait / 2;
        let intake = Intake::new(stream, &broker);
        Ok(Self {
            consumer,
            stream,
            broker,
            incarnation: None,
            open_max,
            open: None,
            intake,
            taken: 0,
            config,
            config_seen_at,
            kept,
        })
    }

    /// Waits for a message and returns it with those that are there by then: at most `max` messages, and a request of
    /// at most `bytes_max` bytes. Empty when none came for a while or `stop` was cancelled.
    ///
    /// # Errors
    /// When the broker refuses the request, such as after the consumer was deleted.
    pub async fn ready(
        &mut self,
        max: usize,
        bytes_max: usize,
        stop: &CancellationToken,
    ) -> anyhow::Result<Vec<Delivered>> {
        if self.open.is_none() {
            let requested_at = Moment::now();
            self.open = Some((self.request(max, bytes_max, REQUEST_OPEN_MAX.min(self.open_max)).await?, requested_at));
        }
        let Some((pull, requested_at)) = &mut self.open else { return Ok(Vec::new()) };
        let first = tokio::select! {
            first = pull.next() => first,
            () = stop.cancelled() => return Ok(Vec::new()),
        };
        let mut taken = Vec::new();
        let mut next = Some(first);
        while let Some(message) = next {
            let Some(message) = message else {
                self.open = None;
                break;
            };
            taken.push(self.intake.take(message?, *requested_at, Forgotten::NOTHING)?);
            next = if taken.len() < max { pull.next().now_or_never() } else { None };
        }
        Ok(taken)
    }

    /// Gathers up to `max` messages or `bytes_max` bytes for at most `linger`, and returns them with their incarnation.
    /// When `stop` is cancelled it returns what it has. Empty when none came.
    ///
    /// # Errors
    /// When the broker refuses the request.
    pub async fn gather(
        &mut self,
        max: usize,
        bytes_max: usize,
        linger: Duration,
        stop: &CancellationToken,
    ) -> anyhow::Result<(Vec<Delivered>, Incarnation)> {
        // Ask before the request, so that the messages are of this incarnation or a later one.
        let incarnation = self.incarnation().await?;
        let requested_at = Moment::now();
        let mut pull = self.request(max, bytes_max, linger.min(self.open_max)).await?;
        let mut taken = Vec::with_capacity(self.taken.min(max));
        loop {
            let next = tokio::select! {
                next = pull.next() => next,
                () = stop.cancelled() => break,
            };
            let Some(message) = next else { break };
            taken.push(self.intake.take(message?, requested_at, incarnation.forgotten())?);
        }
        self.taken = taken.len();
        Ok((taken, incarnation))
    }

    /// Asks for at least as many bytes as the largest message has. A message that fits into no request would never
    /// come.
    async fn request(&mut self, max: usize, bytes_max: usize, open: Duration) -> anyhow::Result<Pull> {
        self.check_config().await?;
        Pull::request(&self.broker, &self.consumer, (max, bytes_max.max(self.broker.message_max())), open).await
    }

    /// Fails when somebody changed the consumer's configuration. Another filter would silently keep messages from us,
    /// and another `ack_wait` could give a message to two workers at once. We check while we hold no messages but those
    /// that wait (`sink/late.rs`), which get no answer then. So failing is safe: the supervisor starts the worker again, and
    /// [`Self::open`] restores the configuration.
    async fn check_config(&mut self) -> anyhow::Result<()> {
        if self.config_seen_at.elapsed() < CONFIG_CHECK_PERIOD {
            return Ok(());
        }
        let found = ObservedConfig::of(self.consumer.info().await.context("cannot read the consumer's state")?);
        if found != self.config {
            let (name, stream) = (&self.consumer.cached_info().name, self.stream.name());
            let (expected, found_config) = (&self.config.0, &found.0);
            let changed_back = self.broker.changed.back(&format!("{stream}/{name}"));
            if changed_back == ChangedBack::Now {
                tracing::error!(
                    component = name,
                    ?expected,
                    found = ?found_config,
                    "somebody changed this consumer; it is changed back. Messages that came meanwhile may have been passed \
                     over: `headrace replay` writes their rows"
                );
            }
            if changed_back != ChangedBack::No {
                anyhow::bail!(
                    "expected the consumer {name} on {stream} with the configuration that we gave it, found another"
                );
            }
            // Left so, it would give our messages to others while we still believe that they are ours.
            anyhow::ensure!(
                found_config.ack_wait >= expected.ack_wait,
                "expected the consumer {name} on {stream} with an ack_wait of {:?} or more, found {:?}; all processes of a \
                 component need the same configuration",
                expected.ack_wait,
                found_config.ack_wait
            );
            tracing::warn!(
                component = name,
                ?expected,
                found = ?found_config,
                "somebody changed this consumer again; it is left so until this process starts anew. All processes of a \
                 component need the same configuration"
            );
            self.config = found;
        }
        self.config_seen_at = Instant::now();
        Ok(())
    }

    /// The consumer's present incarnation.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn incarnation(&mut self) -> anyhow::Result<Incarnation> {
        let info = self.consumer.info().await.context("cannot read the consumer's state")?;
        let incarnation = Incarnation::of(&self.broker, self.stream, info, self.incarnation.as_ref()).await?;
        self.incarnation = Some(incarnation.clone());
        Ok(incarnation)
    }

    /// Whether one of `messages`, which are not settled, was purged since we took it. The broker counts it as settled, as
    /// it told with the incarnation last asked for.
    pub(crate) fn has_lost(&self, messages: &[Delivered]) -> bool {
        let settled = self.consumer.cached_info().ack_floor.stream_sequence;
        messages.iter().any(|message| message.sequence <= settled)
    }

    /// How long the broker lets us hold a message, as it was told with the incarnation last asked for. Another process
    /// of another configuration may have changed it.
    pub(crate) fn ack_wait(&self) -> Duration {
        self.consumer.cached_info().config.ack_wait
    }

    /// The present incarnation, and the position of the oldest unsettled message, whoever holds it; `None` when all are
    /// settled.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub(crate) async fn oldest_unsettled(&mut self) -> anyhow::Result<(Incarnation, Option<Position>)> {
        let info = self.consumer.info().await.context("cannot read the consumer's state")?;
        let incarnation = Incarnation::of(&self.broker, self.stream, info, self.incarnation.as_ref()).await?;
        let oldest = oldest_unsettled(&self.broker, self.stream, info).await?.map(|message| Position {
            sequence: message.sequence,
            stored_at: Timestamp::from_unix_nanos(message.time.unix_timestamp_nanos()),
            redriven: message.headers.get(header::REDRIVES).is_some(),
        });
        Ok((incarnation, oldest))
    }

    /// How many messages wait, and how many are delivered but not settled, over all workers and processes. Also keeps
    /// it known that the sink has begun and is read.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn backlog(&mut self) -> anyhow::Result<(u64, usize)> {
        let info = self.consumer.info().await.context("cannot read the consumer's state")?;
        if let Some(kept) = &mut self.kept {
            kept.renew(&self.broker, self.stream, info).await?;
        }
        Ok((info.num_pending, info.num_ack_pending))
    }
}

/// Refuses a consumer that is beyond the end of its stream. A broker that lost its newest messages gives their
/// sequences to new ones. A consumer that was given the lost messages would silently skip the new ones. NATS puts its
/// consumers back when it starts ([`crate::broker`] requires a version that does). Where it did not, a person must
/// know.
async fn refuse_to_skip(
    broker: &Broker,
    subscription: &Subscription,
    found: Option<&consumer::Info>,
) -> anyhow::Result<()> {
    let (component, stream) = (&subscription.component, subscription.stream);
    let Some(info) = found else { return Ok(()) };
    // Read this after the consumer's state, so that it can only be too high.
    let last = last_sequence(broker, stream).await?;
    let (delivered, stream) = (info.delivered.stream_sequence, stream.name());
    anyhow::ensure!(
        delivered <= last,
        "expected the consumer {component} within the stream {stream}, found it at {delivered} and the stream's end at \
         {last}: the broker lost messages, and those that get their sequences would be skipped. Remove the consumer with \
         `nats consumer rm {stream} {component}`; it is made anew and begins at the first message, what was stored is \
         recognized"
    );
    Ok(())
}
