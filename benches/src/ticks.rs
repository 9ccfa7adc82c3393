//! A finer clock than tokio's. The timers of tokio have a resolution of a millisecond. At 20,000 deliveries a second,
//! they would cause bursts of twenty, which would look like latency.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A kernel timer that fires at a fixed period.
pub(crate) struct Ticks(AsyncFd<OwnedFd>);

impl Ticks {
    /// A timer that fires every `period`, which must be below a second.
    pub(crate) fn every(period: Duration) -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let period = Timespec { tv_sec: 0, tv_nsec: i64::from(period.subsec_nanos()) };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: period, it_value: period })?;
        // SAFETY: an `OwnedFd` stays open and the same until it is dropped, and only the `AsyncFd` drops it.
        Ok(Self(unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE)? }))
    }

    /// Waits for the next tick. Several missed ticks count as one.
    pub(crate) async fn next(&self) -> io::Result<()> {
        let mut count = [0; 8];
        self.0.async_io(Interest::READABLE, |timer| Ok(rustix::io::read(timer, &mut count)?)).await?;
        Ok(())
    }
}
