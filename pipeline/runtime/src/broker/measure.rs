//! Measures the streams for operators: how full they are, how old the oldest message is that a consumer has not
//! settled, and whose dead letters wait.
//!
//! It asks as the user of `retention` may, who sees every consumer, also one that is none of Headrace's.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::consumer::Info;
use async_nats::jetstream::stream;
use futures::TryStreamExt as _;
use headrace_schemas::time::Timestamp;
use metrics::gauge;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::progress::oldest_unsettled;
use crate::broker::{Broker, Stream};
use crate::every::every;
use crate::observe::metrics::{DEAD_WAITING, OLDEST_SECONDS, STREAM_BYTES, STREAM_BYTES_MAX, STREAM_MESSAGES};

/// How often to look.
const PERIOD: Duration = Duration::from_secs(10);
/// What takes the broker more than a moment is asked so often.
const SLOW_PERIOD: Duration = Duration::from_secs(60);
/// The subjects of DEAD, of components and tenants, are listed each time while they are no more than these.
const SUBJECTS_MAX: u64 = 1_000;

/// A consumer: its stream and its name.
type Place = (&'static str, String);

/// Measures for as long as the process runs.
pub struct Measure {
    broker: Broker,
    /// Kept apart from the task, which is started again when it fails. What vanished meanwhile would keep its last
    /// value for ever.
    shown: Mutex<Shown>,
}

/// Which gauges show something that may vanish.
#[derive(Default)]
struct Shown {
    /// Consumers with an age.
    consumers: BTreeSet<Place>,
    /// Components with dead letters.
    dead: BTreeSet<String>,
}

/// What was measured before, so that it is not asked again each time.
#[derive(Default)]
struct Measured {
    /// The oldest message above a consumer's floor, which stays the same while the floor does. It is read with its
    /// payload, so that it is not read again each time.
    oldest: HashMap<Place, Oldest>,
    /// When the subjects of DEAD were last listed, and what it held: messages, first and last sequence.
    listed: Option<(Instant, [u64; 3])>,
}

struct Oldest {
    floor: u64,
    stored_at: Option<Timestamp>,
    asked_at: Instant,
}

impl Measure {
    /// Measures what `broker` has.
    #[must_use]
    pub fn new(broker: &Broker) -> Self {
        Self { broker: broker.clone(), shown: Mutex::default() }
    }

    /// Runs until `stop`.
    ///
    /// # Errors
    /// When the broker does not answer. It may run again.
    pub async fn run(&self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut measured = Measured::default();
        let mut turns = every(PERIOD, &stop);
        while turns.next().await {
            self.look(&mut measured).await?;
        }
        Ok(())
    }

    async fn look(&self, measured: &mut Measured) -> anyhow::Result<()> {
        for stream in Stream::ALL {
            let name = stream.name();
            let handle = self.broker.jetstream().get_stream(name).await;
            let handle = handle.with_context(|| format!("cannot open the stream {name}"))?;
            fill(name, handle.cached_info());
            if stream == Stream::Dead {
                self.dead(&handle, measured).await?;
            } else {
                self.consumers(&handle, stream, measured).await?;
            }
        }
        Ok(())
    }

    async fn consumers(&self, handle: &stream::Stream, stream: Stream, measured: &mut Measured) -> anyhow::Result<()> {
        let name = stream.name();
        let found = handle.consumers().try_collect::<Vec<Info>>().await;
        let mut found = found.with_context(|| format!("cannot list the consumers of {name}"))?;
        // One without a name of its own is somebody's passing reader.
        found.retain(|info| info.config.durable_name.is_some());
        let is_gone = |place: &Place| place.0 == name && !found.iter().any(|info| info.name == place.1);
        measured.oldest.retain(|place, _| !is_gone(place));
        self.shown().consumers.retain(|place| {
            // One that is gone has nothing unsettled.
            if is_gone(place) {
                gauge!(OLDEST_SECONDS, "component" => place.1.clone(), "stream" => name).set(0.0);
            }
            !is_gone(place)
        });
        for info in &found {
            let age = measured.age(&self.broker, stream, info).await?;
            gauge!(OLDEST_SECONDS, "component" => info.name.clone(), "stream" => name).set(age.as_secs_f64());
            self.shown().consumers.insert((name, info.name.clone()));
        }
        Ok(())
    }

    /// Counts the dead letters of each component. Their bytes are known of all together only.
    async fn dead(&self, handle: &stream::Stream, measured: &mut Measured) -> anyhow::Result<()> {
        let state = &handle.cached_info().state;
        let holds = [state.messages, state.first_sequence, state.last_sequence];
        let is_known = measured.listed.is_some_and(|(at, held)| {
            held == holds || (state.subjects_count > SUBJECTS_MAX && at.elapsed() < SLOW_PERIOD)
        });
        if is_known {
            return Ok(());
        }
        let cannot = "cannot list the subjects of DEAD";
        let mut subjects = handle.info_with_subjects(Stream::Dead.subjects()).await.context(cannot)?;
        let mut waiting: BTreeMap<String, usize> = BTreeMap::new();
        while let Some((subject, count)) = subjects.try_next().await.context(cannot)? {
            *waiting.entry(component_of(&subject).to_owned()).or_default() += count;
        }
        let mut shown = self.shown();
        let gone = shown.dead.iter().filter(|component| !waiting.contains_key(*component));
        gone.for_each(|component| gauge!(DEAD_WAITING, "component" => component.clone()).set(0.0));
        for (component, count) in &waiting {
            gauge!(DEAD_WAITING, "component" => component.clone()).set(*count as f64);
        }
        shown.dead = waiting.into_keys().collect();
        measured.listed = Some((Instant::now(), holds));
        Ok(())
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Measured {
    /// How old the oldest message is that the consumer has not settled.
    async fn age(&mut self, broker: &Broker, stream: Stream, info: &Info) -> anyhow::Result<Duration> {
        let place = (stream.name(), info.name.clone());
        if info.num_pending == 0 && info.num_ack_pending == 0 {
            self.oldest.remove(&place);
            return Ok(Duration::ZERO);
        }
        let floor = info.ack_floor.stream_sequence;
        // Asked again after a while all the same: the stream's limits may have removed it.
        let known =
            self.oldest.get(&place).filter(|known| known.floor == floor && known.asked_at.elapsed() < SLOW_PERIOD);
        let stored_at = match known {
            Some(known) => known.stored_at,
            None => {
                let oldest = oldest_unsettled(broker, stream, info).await?;
                let stored_at = oldest.map(|message| Timestamp::from_unix_nanos(message.time.unix_timestamp_nanos()));
                self.oldest.insert(place, Oldest { floor, stored_at, asked_at: Instant::now() });
                stored_at
            }
        };
        Ok(stored_at.map_or(Duration::ZERO, |stored_at| Timestamp::now().since(stored_at)))
    }
}

fn fill(name: &'static str, info: &stream::Info) {
    gauge!(STREAM_MESSAGES, "stream" => name).set(info.state.messages as f64);
    gauge!(STREAM_BYTES, "stream" => name).set(info.state.bytes as f64);
    gauge!(STREAM_BYTES_MAX, "stream" => name).set(info.config.max_bytes.max(0) as f64);
}

/// The component in a subject of DEAD: `dead.<component>.<tenant>`.
fn component_of(subject: &str) -> &str {
    subject.split('.').nth(1).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_of_dead_tells_the_component() {
        assert_eq!(component_of(&headrace_schemas::subject::dead("clickhouse-raw", "acme")), "clickhouse-raw");
    }
}
