//! What the gateway may hold at once. These bounds keep memory bounded, whatever comes in.
//!
//! A stranger must not be able to take, at no cost, what a sender needs. So a body gets room only for the bytes that
//! have arrived, not for the announced length. A body that stops arriving loses its room when others need it. And only
//! verified deliveries take a place among those that are being stored.

use std::sync::Arc;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota};
use headrace_runtime::http::connections::{Connection, Connections, Waiting};
use headrace_runtime::memory::{Account, Held};
use headrace_runtime::observe::metrics::IN_FLIGHT_BYTES;
use metrics::{Gauge, gauge};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::config::Config;
use crate::source::Refusal;

/// How long a request waits for room: long enough for a burst, short enough to answer in time.
const ADMISSION_WAIT: Duration = Duration::from_secs(1);
/// How often stalled bodies are looked for while requests wait for room.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A dropped connection gives its room back within this time. Only then can we tell whether another must go.
const LEAVE_WAIT: Duration = Duration::from_millis(2);

/// The gateway's admission control: who may come in, and how much at once. Cheap to clone; all clones share one state.
#[derive(Clone)]
pub(crate) struct Admission {
    slots: Arc<Semaphore>,
    bytes: Account,
    /// Of the requests that wait for bytes, only the holder of this lock drops connections. So no more are dropped than
    /// needed.
    shedder: Arc<Mutex<()>>,
    held: Gauge,
    rate: Option<(Arc<DefaultDirectRateLimiter>, u32)>,
    connections: Connections,
}

/// Room for the bytes of a body that have arrived. Dropping it gives the room back.
pub(crate) struct Reservation<'a> {
    bytes: Option<Held>,
    admission: &'a Admission,
    connection: Option<&'a Connection>,
}

impl Admission {
    pub(crate) fn new(config: &Config, connections: &Connections) -> Self {
        let rate = config
            .requests_per_second_max
            .map(|max| (Arc::new(DefaultDirectRateLimiter::direct(Quota::per_second(max))), max.get()));
        Self {
            slots: Arc::new(Semaphore::new(config.in_flight_max)),
            bytes: Account::new("ingest", config.in_flight_max_bytes),
            shedder: Arc::default(),
            held: gauge!(IN_FLIGHT_BYTES),
            rate,
            connections: connections.clone(),
        }
    }

    /// An empty reservation for a body that comes over `connection`.
    pub(crate) const fn reserve<'a>(&'a self, connection: Option<&'a Connection>) -> Reservation<'a> {
        Reservation { bytes: None, admission: self, connection }
    }

    /// Takes a place among the verified deliveries that are being stored.
    pub(crate) async fn slot(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, Refusal> {
        if let Some((limiter, max)) = &self.rate
            && limiter.check().is_err()
        {
            return Err(Refusal::TooMany(*max));
        }
        let until = deadline.min(Instant::now() + ADMISSION_WAIT);
        let slot = timeout_at(until, Arc::clone(&self.slots).acquire_owned()).await;
        slot.ok().and_then(Result::ok).ok_or(Refusal::Saturated)
    }

    /// Waits for room for `count` bytes. Meanwhile it drops connections whose bodies stall.
    async fn make_room(&self, count: u32, until: Instant) -> Result<Held, Refusal> {
        tokio::select! {
            bytes = self.bytes.take(count) => Ok(bytes),
            () = self.shed() => Err(Refusal::Saturated),
            () = sleep_until(until) => Err(Refusal::Saturated),
        }
    }

    /// Drops connections whose bodies stall, one after the other, for as long as it is polled.
    async fn shed(&self) {
        let _alone = self.shedder.lock().await;
        loop {
            let dropped = self.connections.shed(Waiting::ForBody);
            sleep(if dropped > 0 { LEAVE_WAIT } else { LOOK_EVERY }).await;
        }
    }
}

impl Reservation<'_> {
    /// How many bytes of the body there is room for.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.as_ref().map_or(0, Held::bytes)
    }

    /// Makes room for the first `bytes` of a body of at most `length`, and for as much again. So whoever holds room has
    /// sent at least half of it.
    pub(crate) async fn grow(&mut self, bytes: usize, length: usize, deadline: Instant) -> Result<(), Refusal> {
        let room = self.bytes();
        if bytes <= room {
            return Ok(());
        }
        let more = bytes.saturating_mul(2).min(length).max(bytes) - room;
        let more = u32::try_from(more).map_err(|_| Refusal::Saturated)?;
        let taken = match self.admission.bytes.try_take(more) {
            Some(taken) => taken,
            None => self.wait(more, deadline).await?,
        };
        self.admission.held.increment(f64::from(more));
        match &mut self.bytes {
            Some(bytes) => bytes.merge(taken),
            none => *none = Some(taken),
        }
        Ok(())
    }

    async fn wait(&self, more: u32, deadline: Instant) -> Result<Held, Refusal> {
        let until = deadline.min(Instant::now() + ADMISSION_WAIT);
        // We read nothing from the connection while we wait, so it must not count as stalled.
        self.connection.inspect(|connection| connection.waits_for_us());
        let taken = self.admission.make_room(more, until).await;
        self.connection.inspect(|connection| connection.goes_on());
        taken
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.admission.held.decrement(self.bytes() as f64);
    }
}
