//! The consumers of sinks, and those among them that nobody reads any more.
//!
//! A durable consumer keeps its place for ever. That of a sink that was taken out of the configuration holds back its
//! stream until somebody removes it, unless the sink can catch up. So it is told here. The marks on a consumer say that it
//! is ours: consumers of subscribers are never told. Nothing here removes a consumer by itself, because it may be another
//! process's.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{FromConsumer as _, Info, pull};
use async_nats::jetstream::stream::ConsumerErrorKind;
use futures::TryStreamExt as _;
use headrace_schemas::time::Timestamp;
use metrics::gauge;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::aside;
use crate::broker::progress::{state_of, time_at};
use crate::broker::{Broker, Stream};
use crate::component::subscription::{Owner, WhenBehind};
use crate::every::every;
use crate::message::incarnation::epoch_key;
use crate::observe::metrics::UNREAD;
use crate::state::StateStore;

/// The mark with the name of the sink.
const SINK: &str = "headrace.sink";
/// The mark with the kind of the sink.
const KIND: &str = "headrace.kind";
/// How often to look for consumers that nobody reads.
const PERIOD: Duration = Duration::from_secs(60);
/// A consumer that delivered something within this time is read by somebody, or one on which somebody has said so.
const QUIET: Duration = Duration::from_secs(60);
/// The mark with the time at which a process last said that it reads the consumer, in microseconds, by the broker's clock.
const READ_AT: &str = "headrace.read_at";
/// After so long without a sign of its reader, a process says that it reads the consumer. It also says so when it begins.
const SIGN_AFTER: Duration = Duration::from_secs(8);

/// A part of a sink: the sink's name and kind, the component and the stream that it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// The sink's name.
    pub instance: String,
    /// The sink's kind.
    pub kind: String,
    /// The component's name, which is the consumer's.
    pub name: String,
    /// The stream.
    pub stream: Stream,
}

impl Component {
    /// Whether `other` is this component, or the part of it that catches up.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        if (self.stream, other.stream) == (Stream::Events, Stream::CatchUp) {
            return aside::consumer_of(&self.name) == other.name;
        }
        (&self.name, self.stream) == (&other.name, other.stream)
    }
}

/// A consumer of a sink.
#[derive(Clone, Debug)]
pub struct Found {
    /// What it is of.
    pub component: Component,
    /// Messages that wait.
    pub pending: u64,
    /// Messages that were delivered and are not settled.
    pub unsettled: u64,
    /// When it last delivered something; `None` when it never did.
    pub active_at: Option<Timestamp>,
    /// When a process last said that it reads it.
    read_at: Option<Timestamp>,
    /// When the broker told this. All these times are by the broker's clock.
    told_at: Timestamp,
    /// Whether somebody asks it for messages at this moment.
    is_asked: bool,
}

impl Found {
    /// Whether somebody reads it, as far as the broker can tell.
    #[must_use]
    pub fn is_read(&self) -> bool {
        let is_recent = |at: Timestamp| is_within(at, self.told_at, QUIET);
        self.is_asked || self.active_at.is_some_and(is_recent) || self.read_at.is_some_and(is_recent)
    }

    fn of(info: &Info, component: Component, told_at: Timestamp) -> Self {
        Self {
            component,
            pending: info.num_pending,
            unsettled: info.num_ack_pending as u64,
            active_at: active_at(info),
            read_at: read_at(info),
            told_at,
            is_asked: info.num_waiting > 0,
        }
    }
}

/// Whether `at` is less than `time` from `now`. A clock that was set back leaves times that are far ahead, and tell nothing.
fn is_within(at: Timestamp, now: Timestamp, time: Duration) -> bool {
    now.since(at) < time && at.since(now) < time
}

/// When a consumer last delivered something. When it last settled something tells of no reader: a purge settles, too.
fn active_at(info: &Info) -> Option<Timestamp> {
    info.delivered.last_active.map(|at| Timestamp::from_unix_nanos(at.unix_timestamp_nanos()))
}

/// When a process last said that it reads a consumer.
fn read_at(info: &Info) -> Option<Timestamp> {
    info.config.metadata.get(READ_AT)?.parse().ok().map(Timestamp::from_micros)
}

/// Keeps it known that this process reads a consumer. While its receiver is away, a sink asks for no messages and settles
/// none, so a process of another configuration would take its consumer for one that was left behind.
#[derive(Debug, Default)]
pub(super) struct Presence {
    /// The last sign of a reader: when the consumer delivered something, and when a process said that it reads it.
    sign: Option<[Option<Timestamp>; 2]>,
    /// When we saw it, by our own clock.
    seen_at: Option<Instant>,
}

impl Presence {
    /// Writes the time on the consumer with the state `info`, if there was no other sign of a reader for a while.
    pub(super) async fn keep(&mut self, broker: &Broker, stream: Stream, info: &Info) -> anyhow::Result<()> {
        let sign = Some([active_at(info), read_at(info)]);
        if info.num_waiting > 0 || sign != self.sign {
            (self.sign, self.seen_at) = (sign, None);
        }
        if self.seen_at.get_or_insert_with(Instant::now).elapsed() < SIGN_AFTER {
            return Ok(());
        }
        let cannot = || format!("cannot note on the consumer {} that it is read", info.name);
        let now = time_at(broker, stream).await.with_context(cannot)?;
        // All else stays as it is at this moment, also where another process of another configuration has just changed it.
        let Some(latest) = state_of(broker, stream, &info.name).await.with_context(cannot)? else { return Ok(()) };
        let config = pull::Config::try_from_consumer_config(latest.config);
        let mut config = config.map_err(|error| anyhow::anyhow!(error)).with_context(cannot)?;
        config.metadata.insert(READ_AT.to_owned(), now.as_micros().to_string());
        // An update, so that a consumer which somebody has just removed is not made anew.
        let stream = broker.jetstream().get_stream_no_info(stream.name()).await.with_context(cannot)?;
        stream.update_consumer(config).await.with_context(cannot)?;
        Ok(())
    }
}

/// The time that a process leaves as its sign when it begins `now`: a sign that is new stays, so that workers that begin one
/// after the other do not change the consumer each time.
fn signed_at(read_at: Option<Timestamp>, now: Timestamp) -> Timestamp {
    read_at.filter(|at| is_within(*at, now, SIGN_AFTER)).unwrap_or(now)
}

/// What is written on the consumer of a sink.
///
/// `found` is the consumer as it was, which a process opens `now`, by the broker's clock. A sink that is paused or waits for
/// its receiver takes no messages, so nothing else tells yet that it is there.
///
/// On the store's stands from where on it can give messages back. What a consumer without that mark was given may have been
/// inserted by an earlier release, which did not note what giving back needs, or into another store.
pub(super) fn marks(owner: &Owner, found: Option<&Info>, now: Timestamp) -> HashMap<String, String> {
    let (instance, kind) = ((SINK, owner.instance.clone()), (KIND, owner.kind.clone()));
    let read_at = (READ_AT, signed_at(found.and_then(read_at), now).as_micros().to_string());
    let mut marks = HashMap::from([instance, kind, read_at].map(|(name, value)| (name.to_owned(), value)));
    match owner.when_behind {
        WhenBehind::Wait => {}
        WhenBehind::Store { place } => {
            let mark = |name: &str| found.and_then(|info| info.config.metadata.get(name));
            let place = format!("{place:016x}");
            let is_elsewhere = mark(aside::STORE_PLACE).is_some_and(|marked| *marked != place);
            // Bodies are not brought once more.
            if is_elsewhere && found.is_some_and(|info| info.stream_name == Stream::Events.name()) {
                tracing::warn!(
                    component = owner.instance,
                    "this ClickHouse is another one than before, so sinks that are set aside from now on catch up from it, and \
                     nobody is set aside for what the former one was given. If a sink still misses something, see `headrace \
                     sinks list`, take the rows of the former one along"
                );
            }
            let marked = mark(aside::STORE).filter(|_| !is_elsewhere).cloned();
            let given = || found.map_or(0, |info| info.delivered.stream_sequence).to_string();
            marks.insert(aside::STORE.to_owned(), marked.unwrap_or_else(given));
            marks.insert(aside::STORE_PLACE.to_owned(), place);
        }
        WhenBehind::SetAside => {
            marks.insert(aside::CATCHES_UP.to_owned(), aside::YES.to_owned());
        }
    }
    marks
}

/// Every consumer of a sink. One without marks, as earlier releases made them, is known by its name among `usual`. One on
/// CATCHUP belongs to that on EVENTS, and is told only when it is the last that is left.
///
/// # Errors
/// When the broker does not answer, or our user may not list consumers.
pub async fn consumers(broker: &Broker, usual: &[Component]) -> anyhow::Result<Vec<Found>> {
    let mut found = Vec::new();
    for stream in [Stream::Raw, Stream::Events, Stream::Alerts, Stream::CatchUp] {
        let cannot = || format!("cannot list the consumers of {}", stream.name());
        let handle = broker.jetstream().get_stream_no_info(stream.name()).await.with_context(cannot)?;
        let infos: Vec<Info> = handle.consumers().try_collect().await.with_context(cannot)?;
        let now = time_at(broker, stream).await.with_context(cannot)?;
        for info in &infos {
            let Some(component) = component_of(info, stream, usual) else { continue };
            if stream != Stream::CatchUp || !found.iter().any(|own: &Found| own.component.covers(&component)) {
                found.push(Found::of(info, component, now));
            }
        }
    }
    Ok(found)
}

/// The consumer with which `component` catches up, if it has one. Its sink's kind is not told.
pub(crate) async fn catching_up(broker: &Broker, component: &str) -> anyhow::Result<Option<Found>> {
    let (stream, name) = (Stream::CatchUp, aside::consumer_of(component));
    let Some(info) = state_of(broker, stream, &name).await? else { return Ok(None) };
    let component = Component { instance: component.to_owned(), kind: String::new(), name, stream };
    Ok(Some(Found::of(&info, component, time_at(broker, stream).await?)))
}

fn component_of(info: &Info, stream: Stream, usual: &[Component]) -> Option<Component> {
    let mark = |name: &str| info.config.metadata.get(name).cloned();
    let marked = mark(SINK).zip(mark(KIND));
    let marked = marked.map(|(instance, kind)| Component { instance, kind, name: info.name.clone(), stream });
    marked.or_else(|| usual.iter().find(|usual| usual.name == info.name && usual.stream == stream).cloned())
}

/// Removes the consumer of a component, the note that it has begun, and what it has missed: a sink of the same name is a
/// new one. False when there was no such consumer.
///
/// # Errors
/// When the broker does not answer or does not let us.
pub async fn remove(broker: &Broker, component: &Component) -> anyhow::Result<bool> {
    let (name, stream) = (component.name.as_str(), component.stream.name());
    if component.stream == Stream::CatchUp {
        return aside::remove(broker, aside::component_of(name)).await.map(|()| true);
    }
    // Before the consumer, which is what a second try finds. Retention may write it down again until the consumer is gone.
    if component.stream == Stream::Events {
        aside::remove(broker, name).await?;
    }
    let handle = broker.jetstream().get_stream_no_info(stream).await.context("cannot open the stream")?;
    let was_there = match handle.delete_consumer(name).await {
        Ok(status) => status.success,
        Err(error) if is_absent(&error.kind()) => false,
        Err(error) => return Err(error).with_context(|| format!("cannot remove the consumer {name} of {stream}")),
    };
    let store = StateStore::open(broker).await?;
    store.forget(&epoch_key(name)).await.map_err(|fault| fault.source)?;
    if component.stream == Stream::Events {
        aside::remove(broker, name).await?;
    }
    Ok(was_there)
}

fn is_absent(kind: &ConsumerErrorKind) -> bool {
    matches!(kind, ConsumerErrorKind::JetStream(error) if error.error_code() == ErrorCode::CONSUMER_NOT_FOUND)
}

/// Tells, until `stop`, which consumers of sinks are neither among `configured` nor read by another process.
///
/// # Errors
/// Never: when the broker does not answer, it looks again.
pub async fn watch(
    broker: Broker,
    configured: Vec<Component>,
    usual: Vec<Component>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut told = Told::default();
    let mut turns = every(PERIOD, &stop);
    while turns.next().await {
        match consumers(&broker, &usual).await {
            Ok(mut found) => {
                found.retain(|found| !configured.iter().any(|own| own.covers(&found.component)) && !found.is_read());
                told.tell(&found);
            }
            Err(error) => told.fail(&error),
        }
    }
    Ok(())
}

/// What was told, so that it is told once.
#[derive(Default)]
struct Told {
    unread: BTreeMap<String, Component>,
    has_failed: bool,
}

impl Told {
    fn tell(&mut self, found: &[Found]) {
        for Found { component, pending, unsettled, .. } in found {
            gauge!(UNREAD, "component" => component.name.clone()).set((pending + unsettled) as f64);
            let Component { instance, kind, name, stream } = component;
            if self.unread.insert(name.clone(), component.clone()).is_none() {
                tracing::warn!(
                    component = name,
                    sink = instance,
                    kind,
                    stream = stream.name(),
                    pending,
                    unsettled,
                    "a sink that is not configured any more has left its consumer, which nobody reads: its stream keeps \
                     these messages, and fills up if the sink cannot catch up. Configure the sink again, or remove the \
                     consumer with `headrace sinks remove {instance}`"
                );
            }
        }
        let is_gone = |name: &String| !found.iter().any(|found| found.component.name == *name);
        let gone: Vec<String> = self.unread.keys().filter(|name| is_gone(name)).cloned().collect();
        for name in gone {
            self.unread.remove(&name);
            gauge!(UNREAD, "component" => name.clone()).set(0.0);
            tracing::info!(component = name, "the consumer that was left behind is read again, or was removed");
        }
        self.has_failed = false;
    }

    fn fail(&mut self, error: &anyhow::Error) {
        if !std::mem::replace(&mut self.has_failed, true) {
            tracing::warn!(
                error = format!("{error:#}"),
                "cannot look for consumers of sinks that are not configured any more; the NATS user of the sinks needs the \
                 right to list consumers, see the page about NATS permissions"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_that_begin_at_once_leave_one_sign() {
        let (at, now) = (Timestamp::from_seconds, Timestamp::from_seconds(1_000_000));
        for (read_at, expected) in [
            (None, now),
            (Some(at(999_999)), at(999_999)),
            // As old as this, it would soon be taken for that of a process that has ended.
            (Some(at(999_950)), now),
            // Two servers of a cluster may differ by a little.
            (Some(at(1_000_001)), at(1_000_001)),
            // Their clock was set back.
            (Some(at(1_009_000)), now),
        ] {
            assert_eq!(signed_at(read_at, now), expected, "{read_at:?}");
        }
    }

    #[test]
    fn who_reads_is_judged_by_the_brokers_clock_alone() {
        let at = |seconds| Some(Timestamp::from_seconds(seconds));
        let is_read = |active_at, read_at, told_at| {
            let (name, kind) = ("tickets".to_owned(), "jira".to_owned());
            let component = Component { instance: name.clone(), kind, name, stream: Stream::Alerts };
            Found { component, pending: 0, unsettled: 0, active_at, read_at, told_at, is_asked: false }.is_read()
        };
        // A broker whose clock is years behind ours.
        let now = Timestamp::from_seconds(1_000_000);
        for (active_at, read_at, expected) in [
            (None, None, false),
            (None, at(999_950), true),
            (at(999_950), None, true),
            (at(999_000), at(999_000), false),
            // Two servers of a cluster may differ by a little.
            (None, at(1_000_001), true),
        ] {
            assert_eq!(is_read(active_at, read_at, now), expected, "{active_at:?}, {read_at:?}");
        }
    }
}
