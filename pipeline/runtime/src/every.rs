//! The rhythm of what is done again and again until its group stops.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

/// Turns that come at once and then once a period. See [`every`].
pub(crate) struct Turns<'s> {
    ticks: Interval,
    stop: &'s CancellationToken,
}

/// A turn at once, and then one each `period`, until `stop`. After a turn that took longer, the next comes a whole period
/// later: nobody is helped by turns that catch up.
pub(crate) fn every(period: Duration, stop: &CancellationToken) -> Turns<'_> {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Turns { ticks, stop }
}

impl Turns<'_> {
    /// Waits for the next turn. False when it is time to stop.
    pub(crate) async fn next(&mut self) -> bool {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            _ = self.ticks.tick() => true,
        }
    }
}

/// Rests, but not beyond `stop`.
pub(crate) async fn rest_for(pause: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = sleep(pause) => {}
        () = stop.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const PERIOD: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn a_long_turn_puts_off_the_next_and_a_stop_ends_them() {
        let (stop, began) = (CancellationToken::new(), Instant::now());
        let mut turns = every(PERIOD, &stop);
        assert!(turns.next().await && began.elapsed() < PERIOD, "the first comes at once");
        sleep(PERIOD * 3).await;
        assert!(turns.next().await && began.elapsed() < PERIOD * 4);
        let late = Instant::now();
        assert!(turns.next().await && late.elapsed() >= PERIOD, "what was missed is not caught up");
        stop.cancel();
        assert!(!turns.next().await);
    }
}
