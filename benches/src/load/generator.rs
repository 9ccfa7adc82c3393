//! Sends deliveries over the connections. All of them run on one thread, so their state needs no locks.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use serde::Deserialize;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::outcome::{Counts, Outcome};
use super::records::{self, Records, Way};
use super::repetitions::{Origin, Presented};
use super::{Pace, Phase, Plan, Repetitions};
use crate::client::Connection;
use crate::guid;
use crate::ticks::Ticks;

/// The shortest tick of a fixed rate. The schedule adds at most this to a latency, and a shorter tick is not worth a
/// wake-up. Below 5,000/s, a tick is as long as the time between two deliveries.
const TICK_MIN: Duration = Duration::from_micros(200);
/// The longest tick, so that the load notices its end in time.
const TICK_MAX: Duration = Duration::from_millis(100);
/// How long overdue deliveries may still be sent after the end. After that, they count as unsent.
const OVERTIME: Duration = Duration::from_secs(10);
/// The pause before a broken connection is opened again.
const RECONNECT: Duration = Duration::from_millis(50);

/// What the connections share.
struct Generator {
    plan: Plan,
    repetitions: Option<RefCell<Repetitions>>,
    records: Option<RefCell<Records>>,
    permits: Option<Arc<Semaphore>>,
    schedule: Schedule,
    next: RefCell<u64>,
    latency: RefCell<Histogram<u64>>,
    accepted_in_window: RefCell<u64>,
    counts: Arc<Counts>,
}

#[derive(Clone, Copy)]
struct Schedule {
    start: Instant,
    opens: Instant,
    closes: Instant,
    /// How many deliveries are due in all, at a fixed rate.
    due: u64,
}

/// Opens the connections, sends until the plan has ended, and returns the outcome.
pub(super) async fn generate(
    mut plan: Plan,
    phase: &watch::Sender<Phase>,
    counts: Arc<Counts>,
) -> anyhow::Result<Outcome> {
    let mut connections = Vec::new();
    for _ in 0..plan.connections {
        let opened = Connection::open(plan.gateway).await;
        connections.push(opened.with_context(|| format!("cannot connect to the gateway at {}", plan.gateway))?);
    }
    let permits = match &plan.pace {
        Pace::Free => None,
        Pace::Rate(_) => Some(Arc::new(Semaphore::new(0))),
        Pace::Permits(permits) => Some(Arc::clone(permits)),
    };
    let start = Instant::now();
    let (opens, closes) = (start + plan.warmup, start + plan.warmup + plan.window);
    let due = match plan.pace {
        Pace::Rate(rate) => u64::from(rate) * (plan.warmup + plan.window).as_secs(),
        Pace::Free | Pace::Permits(_) => u64::MAX,
    };
    let generator = Rc::new(Generator {
        repetitions: plan.repetitions.take().map(RefCell::new),
        records: plan.records.take().map(RefCell::new),
        permits,
        schedule: Schedule { start, opens, closes, due },
        next: RefCell::new(0),
        latency: RefCell::new(Histogram::new_with_bounds(1, 60_000_000, 3).context("cannot make a histogram")?),
        accepted_in_window: RefCell::new(0),
        counts,
        plan,
    });
    let mut tasks = JoinSet::new();
    for connection in connections {
        let generator = Rc::clone(&generator);
        tasks.spawn_local(async move { generator.serve(connection).await });
    }
    generator.conduct(phase).await?;
    while let Some(ended) = tasks.join_next().await {
        ended.context("a connection's task panicked")?;
    }
    Ok(generator.outcome())
}

impl Generator {
    /// Announces the phases and, at a fixed rate, releases each delivery when it is due.
    async fn conduct(&self, phase: &watch::Sender<Phase>) -> anyhow::Result<()> {
        let phases = async {
            sleep_until(self.schedule.opens).await;
            phase.send_replace(Phase::Window);
            sleep_until(self.schedule.closes).await;
            phase.send_replace(Phase::After);
            anyhow::Ok(())
        };
        tokio::try_join!(phases, self.release())?;
        // Wake the connections that still wait for a permit, so that they notice the end.
        if let Some(permits) = &self.permits {
            permits.add_permits(usize::from(self.plan.connections));
        }
        Ok(())
    }

    async fn release(&self) -> anyhow::Result<()> {
        let (Pace::Rate(rate), Some(permits)) = (&self.plan.pace, &self.permits) else { return Ok(()) };
        let tick = (Duration::from_secs(1) / *rate).clamp(TICK_MIN, TICK_MAX);
        let ticks = Ticks::every(tick).context("cannot make a timer")?;
        let mut released = 0;
        while released < self.schedule.due {
            ticks.next().await.context("the timer failed")?;
            let elapsed = self.schedule.start.elapsed().as_nanos();
            let due = u64::try_from(elapsed * u128::from(*rate) / 1_000_000_000).unwrap_or(u64::MAX);
            let due = due.saturating_add(1).min(self.schedule.due);
            permits.add_permits(usize::try_from(due - released).unwrap_or_default());
            released = due;
        }
        Ok(())
    }

    /// Sends over one connection until the end.
    async fn serve(&self, connection: Connection) {
        let mut connection = Some(connection);
        let mut request = Vec::with_capacity(64 << 10);
        let mut record = Vec::new();
        while let Some((index, due)) = self.next().await {
            let presented = self.present(index);
            let way = if self.records.is_some() { Way::of(presented) } else { Way::Webhook };
            if way != Way::Webhook {
                records::record(&self.plan.bodies, presented, &mut record);
            }
            if way == Way::Line {
                self.append(index, presented, due, &mut record);
                continue;
            }
            let open = match connection.take() {
                Some(open) => Ok(open),
                None => Connection::open(self.plan.gateway).await,
            };
            if way == Way::Post {
                records::post(&record, &mut request);
            } else {
                self.plan.bodies.request(presented.index, &guid::at(presented.ticks, presented.index), &mut request);
            }
            self.counts.sent.fetch_add(1, Ordering::Relaxed);
            if let Some(moments) = &self.plan.moments {
                moments.sent.note(index, moments.stamp(Instant::now()));
            }
            let answered = match open {
                Ok(mut open) => open.exchange(&request).await.map(|status| (open, status)),
                Err(error) => Err(error),
            };
            match answered {
                Ok((open, status)) => {
                    self.answered(index, presented, due, status, &open);
                    connection = Some(open);
                }
                Err(error) => {
                    self.counts.broken.fetch_add(1, Ordering::Relaxed);
                    self.problem(format!("delivery {index}: {error}"));
                    sleep(RECONNECT).await;
                }
            }
        }
    }

    /// The number of the next delivery and the time when it was due. `None` if there are no more.
    async fn next(&self) -> Option<(u64, Instant)> {
        if let Some(permits) = &self.permits {
            permits.acquire().await.ok()?.forget();
        }
        let now = Instant::now();
        let Schedule { start, closes, due, .. } = self.schedule;
        let index = *self.next.borrow();
        let at = match self.plan.pace {
            Pace::Rate(_) if index >= due || now >= closes + OVERTIME => return None,
            Pace::Rate(rate) => {
                start + Duration::from_nanos(u64::try_from(u128::from(index) * 1_000_000_000 / u128::from(rate)).ok()?)
            }
            Pace::Free | Pace::Permits(_) if now >= closes => return None,
            Pace::Free | Pace::Permits(_) => now,
        };
        *self.next.borrow_mut() += 1;
        Some((index, at))
    }

    /// What delivery number `index` brings: something new, or something of an earlier time.
    fn present(&self, index: u64) -> Presented {
        match &self.repetitions {
            Some(repetitions) => repetitions.borrow().present(index, guid::now()),
            None => Presented::new(index, guid::now()),
        }
    }

    /// Adds a line to the file that the product reads. It counts as accepted from then on.
    fn append(&self, index: u64, presented: Presented, due: Instant, record: &mut Vec<u8>) {
        self.counts.sent.fetch_add(1, Ordering::Relaxed);
        let appended = self.records.as_ref().map_or(Ok(()), |records| records.borrow_mut().append(record));
        match appended {
            Ok(()) => self.accepted(index, presented, due),
            Err(error) => {
                self.counts.broken.fetch_add(1, Ordering::Relaxed);
                self.problem(format!("line {index}: {error}"));
            }
        }
    }

    fn answered(&self, index: u64, presented: Presented, due: Instant, status: u16, connection: &Connection) {
        if !(200..300).contains(&status) {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
            let answer = format!("{status} {}", reason(connection.body()));
            *self.counts.refused_by.lock().unwrap_or_else(PoisonError::into_inner).entry(answer).or_default() += 1;
            return self.problem(format!("{status} {}", String::from_utf8_lossy(connection.body())));
        }
        self.accepted(index, presented, due);
    }

    fn accepted(&self, index: u64, presented: Presented, due: Instant) {
        let now = Instant::now();
        self.counts.accepted.fetch_add(1, Ordering::Relaxed);
        match presented.origin {
            Origin::Repeated => _ = self.counts.repeated.fetch_add(1, Ordering::Relaxed),
            Origin::NeverSeen => _ = self.counts.aged.fetch_add(1, Ordering::Relaxed),
            Origin::New => {
                if let Some(repetitions) = &self.repetitions {
                    repetitions.borrow_mut().sent(presented);
                }
            }
        }
        if let Some(moments) = &self.plan.moments {
            moments.accepted.note(index, moments.stamp(now));
        }
        let within = |at: Instant| (self.schedule.opens..self.schedule.closes).contains(&at);
        if within(due) {
            let micros = u64::try_from(now.duration_since(due).as_micros()).unwrap_or(u64::MAX);
            self.latency.borrow_mut().saturating_record(micros);
        }
        if within(now) {
            *self.accepted_in_window.borrow_mut() += 1;
        }
    }

    fn problem(&self, problem: String) {
        *self.counts.last_problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem);
    }

    fn outcome(&self) -> Outcome {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let sent = get(&self.counts.sent);
        let due = if matches!(self.plan.pace, Pace::Rate(_)) { self.schedule.due } else { sent };
        Outcome {
            sent,
            accepted: get(&self.counts.accepted),
            repeated: get(&self.counts.repeated),
            aged: get(&self.counts.aged),
            refused: get(&self.counts.refused),
            refused_by: std::mem::take(&mut *self.counts.refused_by.lock().unwrap_or_else(PoisonError::into_inner)),
            broken: get(&self.counts.broken),
            unsent: due - sent,
            accepted_in_window: *self.accepted_in_window.borrow(),
            last_problem: self.counts.last_problem.lock().unwrap_or_else(PoisonError::into_inner).take(),
            latency: self.latency.borrow().clone(),
        }
    }
}

/// The reason in the body of a refusal.
fn reason(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    serde_json::from_slice::<Refusal>(body).map_or_else(|_| "without a reason".to_owned(), |refusal| refusal.error)
}
