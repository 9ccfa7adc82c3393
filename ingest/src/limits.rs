//! What the gateway may hold at once. Each bound is here because memory is bounded whatever comes in.
//!
//! Beyond a small share, room is given for what came in and not for what is announced: announcements cost their sender
//! nothing, and a few of them would keep everybody else out.

use std::sync::Arc;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota};
use headrace_runtime::metrics::IN_FLIGHT_BYTES;
use metrics::{Gauge, gauge};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::config::Config;
use crate::reply::Refusal;

/// How long a request waits for room: long enough for a burst, short enough to answer in time.
const ADMISSION_WAIT: Duration = Duration::from_secs(1);

/// The gateway's limits. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct Limits {
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    /// Room in bytes that a request begins with: all requests at once have it, when no body takes more.
    share: usize,
    held: Gauge,
    rate: Option<(Arc<DefaultDirectRateLimiter>, u32)>,
}

/// Room for one request and what has come of its body, given back on drop.
pub(crate) struct Admission {
    _request: OwnedSemaphorePermit,
    bytes: OwnedSemaphorePermit,
    limits: Limits,
}

impl Limits {
    pub(crate) fn new(config: &Config) -> Self {
        let rate = config
            .requests_per_second_max
            .map(|max| (Arc::new(DefaultDirectRateLimiter::direct(Quota::per_second(max))), max.get()));
        Self {
            requests: Arc::new(Semaphore::new(config.in_flight_max)),
            bytes: Arc::new(Semaphore::new(config.in_flight_max_bytes)),
            share: config.in_flight_max_bytes / config.in_flight_max,
            held: gauge!(IN_FLIGHT_BYTES),
            rate,
        }
    }

    /// Room for a request and the beginning of its body, which has at most `length` bytes.
    pub(crate) async fn admit(&self, length: usize, deadline: Instant) -> Result<Admission, Refusal> {
        if let Some((limiter, max)) = &self.rate
            && limiter.check().is_err()
        {
            return Err(Refusal::TooMany(*max));
        }
        let until = deadline.min(Instant::now() + ADMISSION_WAIT);
        let request = timeout_at(until, Arc::clone(&self.requests).acquire_owned());
        let request = request.await.ok().and_then(Result::ok).ok_or(Refusal::Saturated)?;
        let bytes = self.room(length.min(self.share), until).await?;
        Ok(Admission { _request: request, bytes, limits: self.clone() })
    }

    async fn room(&self, bytes: usize, until: Instant) -> Result<OwnedSemaphorePermit, Refusal> {
        let count = u32::try_from(bytes).map_err(|_| Refusal::Saturated)?;
        let room = timeout_at(until, Arc::clone(&self.bytes).acquire_many_owned(count));
        let room = room.await.ok().and_then(Result::ok).ok_or(Refusal::Saturated)?;
        self.held.increment(f64::from(count));
        Ok(room)
    }
}

impl Admission {
    /// How many bytes of the body there is room for.
    pub(crate) fn room(&self) -> usize {
        self.bytes.num_permits()
    }

    /// Makes room for the first `bytes` of a body of at most `length`, and for as much again: whoever holds more than
    /// its share has sent at least half of it.
    pub(crate) async fn grow(&mut self, bytes: usize, length: usize, deadline: Instant) -> Result<(), Refusal> {
        let room = self.room();
        if bytes > room {
            let until = deadline.min(Instant::now() + ADMISSION_WAIT);
            let more = self.limits.room(bytes.saturating_mul(2).min(length).max(bytes) - room, until).await?;
            self.bytes.merge(more);
        }
        Ok(())
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.limits.held.decrement(self.room() as f64);
    }
}
