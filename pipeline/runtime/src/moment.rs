//! A moment by three clocks: for what is ours only for a time, such as messages and leases.
//!
//! Such a time must end here no later than at the broker, and no single clock ensures that. tokio's clock
//! (`CLOCK_MONOTONIC`) stands still while the machine is suspended. `CLOCK_BOOTTIME` runs on then, but both stand still
//! while a hypervisor pauses the machine. Only the wall clock shows such a pause, once time synchronization has set it
//! right. So the time that has passed is the longest that any of the three shows. A clock that shows too much costs a
//! redelivery, one that shows too little could cost a second effect.
//!
//! A wall clock that is set back shows nothing: then the other two decide. All three are read without a system call.
//!
//! Never use this for a mere timeout, and never to wait until *another* process's time is over: such a wait must not be
//! cut short by a clock that jumps.

use std::ops::Add;
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};
use tokio::time::Instant;

/// What the three clocks show, at present or at the end of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    /// tokio's clock, which a test can pause. It stands still while the machine is suspended.
    monotonic: Instant,
    /// The time since the machine was started, suspensions included.
    boot: Duration,
    /// The time since the Unix epoch. It may jump, ahead or back.
    wall: Duration,
}

impl Moment {
    /// The present.
    pub(crate) fn now() -> Self {
        let read = |clock| since_zero(clock_gettime(clock));
        Self { monotonic: Instant::now(), boot: read(ClockId::Boottime), wall: read(ClockId::Realtime) }
    }

    /// What tokio's clock shows, for timers.
    pub(crate) const fn monotonic(self) -> Instant {
        self.monotonic
    }

    /// The time that is left until this moment: zero as soon as any clock has reached it.
    pub(crate) fn time_left(self) -> Duration {
        self.time_left_at(Self::now())
    }

    /// Whether any clock has reached this moment.
    pub(crate) fn is_over(self) -> bool {
        self.time_left().is_zero()
    }

    /// The earlier of two moments, by each clock.
    pub(crate) fn earlier(self, other: Self) -> Self {
        Self {
            monotonic: self.monotonic.min(other.monotonic),
            boot: self.boot.min(other.boot),
            wall: self.wall.min(other.wall),
        }
    }

    fn time_left_at(self, now: Self) -> Duration {
        let monotonic = self.monotonic.saturating_duration_since(now.monotonic);
        monotonic.min(self.boot.saturating_sub(now.boot)).min(self.wall.saturating_sub(now.wall))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self {
            monotonic: self.monotonic + time,
            boot: self.boot.saturating_add(time),
            wall: self.wall.saturating_add(time),
        }
    }
}

fn since_zero(Timespec { tv_sec, tv_nsec }: Timespec) -> Duration {
    // The wall clock of a machine without a battery may begin before 1970.
    Duration::new(u64::try_from(tv_sec).unwrap_or_default(), u32::try_from(tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// `began` plus what each clock has gone on since. The wall clock may go back.
    fn later(began: Moment, monotonic: u64, boot: u64, wall: i64) -> Moment {
        let wall_now =
            if wall < 0 { began.wall - seconds(wall.unsigned_abs()) } else { began.wall + seconds(wall as u64) };
        Moment { monotonic: began.monotonic + seconds(monotonic), boot: began.boot + seconds(boot), wall: wall_now }
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_is_over_as_soon_as_any_clock_says_so() {
        let began = Moment::now();
        let until = began + seconds(30);
        for (case, monotonic, boot, wall, left) in [
            ("nothing has passed", 0, 0, 0, 30),
            ("all clocks agree", 10, 10, 10, 20),
            ("its last second", 29, 29, 29, 1),
            ("its end", 30, 30, 30, 0),
            ("suspended", 1, 41, 41, 0),
            ("suspended for less than its time", 5, 15, 15, 15),
            ("paused by a hypervisor, and the wall clock was set right", 1, 1, 41, 0),
            ("paused by a hypervisor, for less than its time", 1, 1, 21, 9),
            ("the wall clock was set ahead", 0, 0, 3_600, 0),
            ("the wall clock was set back", 10, 10, -3_600, 20),
            ("the wall clock was set back, and the time has passed all the same", 30, 30, -3_600, 0),
            ("suspended, and the wall clock was set back", 1, 41, -3_600, 0),
        ] {
            let now = later(began, monotonic, boot, wall);
            assert_eq!(until.time_left_at(now), seconds(left), "{case}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_of_two_is_over_when_either_is() {
        let began = Moment::now();
        // Between the two the wall clock was set back: the second is later, and its wall clock shows less.
        let (first, second) = (began + seconds(30), later(began, 10, 10, -3_590) + seconds(30));
        let until = first.earlier(second);
        assert_eq!(until, second.earlier(first));
        assert!(until.time_left_at(later(began, 30, 30, -3_570)).is_zero(), "the first is over");
        assert!(until.time_left_at(later(began, 11, 11, -3_560)).is_zero(), "the second is over by the wall clock");
        assert_eq!(until.time_left_at(later(began, 20, 20, -3_580)), seconds(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_can_be_advanced() {
        let until = Moment::now() + seconds(600);
        assert!(!until.is_over());
        advance(seconds(600)).await;
        assert!(until.is_over());
    }

    #[test]
    fn the_clocks_of_the_machine_go_on() {
        let now = Moment::now();
        assert!(now.boot > Duration::ZERO && now.wall > seconds(1_700_000_000), "{now:?}");
        assert!((now + seconds(600)).time_left() > seconds(500), "no clock jumps in a test");
    }
}
