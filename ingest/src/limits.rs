//! What the gateway may hold at once. Each bound is here because memory is bounded whatever comes in.

use std::sync::Arc;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::config::Config;
use crate::reply::Refusal;

/// How long a request waits for room: long enough for a burst, short enough to answer in time.
const ADMISSION_WAIT: Duration = Duration::from_secs(1);

/// The gateway's limits. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct Limits {
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    rate: Option<(Arc<DefaultDirectRateLimiter>, u32)>,
}

/// Room for one request and its body, given back on drop.
pub(crate) struct Admission {
    _request: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl Limits {
    pub(crate) fn new(config: &Config) -> Self {
        let rate = config
            .requests_per_second_max
            .map(|max| (Arc::new(DefaultDirectRateLimiter::direct(Quota::per_second(max))), max.get()));
        Self {
            requests: Arc::new(Semaphore::new(config.in_flight_max)),
            bytes: Arc::new(Semaphore::new(config.in_flight_max_bytes)),
            rate,
        }
    }

    /// Room for a request whose body has at most `bytes`.
    pub(crate) async fn admit(&self, bytes: usize) -> Result<Admission, Refusal> {
        if let Some((limiter, max)) = &self.rate
            && limiter.check().is_err()
        {
            return Err(Refusal::TooMany(*max));
        }
        let bytes = u32::try_from(bytes).map_err(|_| Refusal::Saturated)?;
        let room = async {
            let request = Arc::clone(&self.requests).acquire_owned().await.ok()?;
            let bytes = Arc::clone(&self.bytes).acquire_many_owned(bytes).await.ok()?;
            Some(Admission { _request: request, _bytes: bytes })
        };
        timeout(ADMISSION_WAIT, room).await.ok().flatten().ok_or(Refusal::Saturated)
    }
}
