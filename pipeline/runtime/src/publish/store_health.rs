//! Whether deliveries can be stored, for `/readyz`. The last delivery tells; when none came, a probe does.
//!
//! An answer of the broker is not enough: with a full disk or a full stream it answers and stores nothing. Only a
//! stored message proves that it stores, so the outcome of the last delivery decides. But a process that is not ready
//! gets no more deliveries from its load balancer and would stay so for ever. So [`FAILURE_TTL`] after a failure a
//! probe decides instead: it asks whether RAW has room, and writes a small value to the KV bucket `state`, on the same
//! disk.
//!
//! A single stream of NATS may refuse alone, as one does after a failed write. No probe can see that without a message
//! in RAW. Then deliveries come again and fail again, and the process is not ready for another [`FAILURE_TTL`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use tokio::time::Instant;

use crate::broker::{Broker, Stream};
use crate::observe::health::ComponentHealth;

/// How long a failure decides, unless a delivery is stored.
pub const FAILURE_TTL: Duration = Duration::from_secs(10);
/// How long a success is believed: that of a probe, or of the first delivery after a failure.
const FRESH: Duration = Duration::from_secs(5);
/// The key that a probe writes.
pub const PROBE_KEY: &str = "readiness";

/// What the gateway's last attempts to store met. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct StoreHealth(Arc<Inner>);

struct Inner {
    health: ComponentHealth,
    failure_ttl: Duration,
    /// Saves each delivery that is stored from taking the lock.
    failing: AtomicBool,
    last: Mutex<LastAttempt>,
}

#[derive(Clone)]
enum LastAttempt {
    Nothing,
    Stored(Instant),
    Failed(Instant, String),
}

impl StoreHealth {
    /// Healthy to begin with. It reports to `health`. A failure decides for `failure_ttl`, usually [`FAILURE_TTL`].
    #[must_use]
    pub fn new(health: ComponentHealth, failure_ttl: Duration) -> Self {
        health.healthy();
        Self(Arc::new(Inner {
            health,
            failure_ttl,
            failing: AtomicBool::new(false),
            last: Mutex::new(LastAttempt::Nothing),
        }))
    }

    /// A delivery was stored.
    pub fn stored(&self) {
        // Do not note every success: a probe every few seconds costs less than a lock for each delivery.
        if self.0.failing.load(Ordering::Relaxed) {
            self.works(&mut self.last());
        }
    }

    /// A delivery was not stored for the reason `why`.
    pub fn failed(&self, why: &str) {
        let mut last = self.last();
        *last = LastAttempt::Failed(Instant::now(), why.to_owned());
        self.0.failing.store(true, Ordering::Relaxed);
        self.0.health.degraded(why);
    }

    /// Whether a delivery that comes now is likely to be stored.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn check(&self, broker: &Broker) -> anyhow::Result<()> {
        let last = self.last().clone();
        let failed_at = match last {
            LastAttempt::Stored(at) if at.elapsed() < FRESH => return Ok(()),
            LastAttempt::Failed(at, why) if at.elapsed() < self.0.failure_ttl => anyhow::bail!("{why}"),
            LastAttempt::Failed(at, _) => Some(at),
            LastAttempt::Stored(_) | LastAttempt::Nothing => None,
        };
        probe(broker).await?;
        let mut last = self.last();
        // A delivery may have failed meanwhile.
        match &*last {
            LastAttempt::Failed(at, why) if failed_at.is_none_or(|before| *at > before) => anyhow::bail!("{why}"),
            _ => self.works(&mut last),
        }
        Ok(())
    }

    fn works(&self, last: &mut LastAttempt) {
        *last = LastAttempt::Stored(Instant::now());
        self.0.failing.store(false, Ordering::Relaxed);
        self.0.health.healthy();
    }

    fn last(&self) -> MutexGuard<'_, LastAttempt> {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether RAW has room, and the broker can write to its disk.
async fn probe(broker: &Broker) -> anyhow::Result<()> {
    let name = Stream::Raw.name();
    let raw =
        broker.jetstream().get_stream(name).await.with_context(|| format!("the stream {name} does not answer"))?;
    let (state, config) = (&raw.cached_info().state, &raw.cached_info().config);
    let full = |held: u64, max: i64| u64::try_from(max).is_ok_and(|max| max > 0 && held >= max);
    anyhow::ensure!(
        !full(state.bytes, config.max_bytes) && !full(state.messages, config.max_messages),
        "the stream {name} is full: {} messages, {} bytes",
        state.messages,
        state.bytes
    );
    let state = broker.state_bucket().await?;
    state.put(PROBE_KEY, Bytes::new()).await.context("the broker cannot write to its disk")?;
    Ok(())
}
