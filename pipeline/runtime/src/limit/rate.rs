//! A rate of calls and events on tokio's clock.
//!
//! `governor` does not serve here. It refuses more events at once than its burst, and a batch is delivered whole however
//! large it is. Its clock does not pause with tokio's, so no test could wait for it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Rate;

/// Spaces calls out (the generic cell rate algorithm). A call is made as soon as those before it are paid for, whatever it
/// costs itself. So a large batch delays what comes after it.
pub(super) struct Pacer {
    rate: Rate,
    /// When the calls and the events that were admitted are paid for.
    paid: Mutex<Option<[Instant; 2]>>,
}

impl Pacer {
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, paid: Mutex::default() }
    }

    /// Waits until a call with `events` events may be made.
    pub(super) async fn admit(&self, events: usize) {
        let at = self.reserve(events);
        if at > Instant::now() {
            sleep_until(at).await;
        }
    }

    /// When a call with `events` events may be made. Its cost is added to what the next must wait for.
    fn reserve(&self, events: usize) -> Instant {
        let Rate { per_call, per_event, burst } = self.rate;
        let now = Instant::now();
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let before = paid.unwrap_or([now; 2]).map(|at| at.max(now));
        let costs = [per_call, per_event.saturating_mul(events)];
        *paid = Some([before[0] + costs[0], before[1] + costs[1]]);
        let due = |at: Instant, cost: Duration| if cost.is_zero() { now } else { at - burst.min(at - now) };
        due(before[0], costs[0]).max(due(before[1], costs[1]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many milliseconds each call with so many events is made.
    async fn times(rate: Rate, calls: &[usize]) -> Vec<u128> {
        let (pacer, began) = (Pacer::new(rate), Instant::now());
        let mut times = Vec::new();
        for events in calls {
            pacer.admit(*events).await;
            times.push(began.elapsed().as_millis());
        }
        times
    }

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_waits() {
        assert_eq!(times(Rate::default(), &[1_000_000; 4]).await, [0; 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_are_spaced_out_beyond_a_burst() {
        let rate = Rate { per_call: 100 * MS, burst: Duration::ZERO, ..Rate::default() };
        assert_eq!(times(rate, &[1; 4]).await, [0, 100, 200, 300]);
        assert_eq!(times(Rate { burst: 200 * MS, ..rate }, &[1; 5]).await, [0, 0, 0, 100, 200]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_larger_than_the_burst_is_made_and_delays_the_next() {
        let rate = Rate { per_event: 10 * MS, burst: 100 * MS, ..Rate::default() };
        assert_eq!(times(rate, &[500, 1, 1]).await, [0, 4_900, 4_910]);
    }

    #[tokio::test(start_paused = true)]
    async fn both_limits_hold() {
        let rate = Rate { per_call: 100 * MS, per_event: 10 * MS, burst: Duration::ZERO };
        assert_eq!(times(rate, &[5, 50, 5]).await, [0, 100, 550]);
    }

    #[tokio::test(start_paused = true)]
    async fn time_without_calls_is_worth_no_more_than_a_burst() {
        let pacer = Pacer::new(Rate { per_call: 100 * MS, burst: 100 * MS, ..Rate::default() });
        pacer.admit(1).await;
        tokio::time::advance(Duration::from_secs(3_600)).await;
        let began = Instant::now();
        for _ in 0..4 {
            pacer.admit(1).await;
        }
        assert_eq!(began.elapsed().as_millis(), 200);
    }
}
