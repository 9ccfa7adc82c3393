//! The load generator: signed deliveries over kept-alive connections, from one thread of its own.
//!
//! At a fixed rate, it is open-loop: delivery `n` is due at `start + n / rate`, whatever the gateway does, and its
//! latency counts from then. So a stall of the gateway shows in every delivery that became due meanwhile, not only in
//! those under way (no coordinated omission). Without a rate, it is closed-loop: each connection sends its next
//! delivery when the last one was answered.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use serde::Deserialize;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep, sleep_until};

use crate::bodies::Bodies;
use crate::cli::Common;
use crate::client::Connection;
use crate::guid;
use crate::moments::Moments;
use crate::ticks::Ticks;

/// The shortest tick of a fixed rate. The schedule adds at most this to a latency, and a shorter tick is not worth a
/// wake-up. Below 5,000/s, a tick is as long as the time between two deliveries.
const TICK_MIN: Duration = Duration::from_micros(200);
/// The longest tick, so that the load notices its end in time.
const TICK_MAX: Duration = Duration::from_millis(100);
/// How long overdue deliveries may still be sent after the end. Later, they count as unsent.
const OVERTIME: Duration = Duration::from_secs(10);
/// The pause before a broken connection is opened again.
const RECONNECT: Duration = Duration::from_millis(50);

/// How often to read the counts while somebody waits for them.
const COUNTS_LOOK: Duration = Duration::from_millis(10);

/// What to send, where, and for how long.
pub(crate) struct Plan {
    /// The gateway.
    pub(crate) gateway: SocketAddr,
    /// The bodies.
    pub(crate) bodies: Arc<Bodies>,
    /// Number of connections, and so the most deliveries under way at once.
    pub(crate) connections: u16,
    /// How long to load before the window.
    pub(crate) warmup: Duration,
    /// How long to measure.
    pub(crate) window: Duration,
    /// When to send each delivery.
    pub(crate) pace: Pace,
    /// Where to note the moments of each delivery.
    pub(crate) moments: Option<Arc<Moments>>,
}

impl Plan {
    /// The plan that the command line asks for, without moments.
    pub(crate) fn new(gateway: SocketAddr, bodies: &Arc<Bodies>, common: &Common, pace: Pace) -> Self {
        let (warmup, window) = (common.warmup(), common.window());
        let bodies = Arc::clone(bodies);
        Self { gateway, bodies, connections: common.connections, warmup, window, pace, moments: None }
    }
}

/// When to send each delivery.
#[derive(Clone)]
pub(crate) enum Pace {
    /// As soon as a connection is free.
    Free,
    /// This many per second.
    Rate(u32),
    /// As soon as a connection is free and there is a permit.
    Permits(Arc<Semaphore>),
}

/// The present phase of the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Before the window.
    Warmup,
    /// Within it.
    Window,
    /// After the window. Requests under way are still answered.
    After,
}

/// What became of the deliveries so far.
#[derive(Default)]
pub(crate) struct Counts {
    sent: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
    broken: AtomicU64,
    /// Refusals by status and reason.
    refused_by: Mutex<BTreeMap<String, u64>>,
    last_problem: Mutex<Option<String>>,
}

impl Counts {
    /// Answered with a 2xx.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Answered with anything else.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// What became of all deliveries.
pub(crate) struct Outcome {
    /// Deliveries that the load began to send.
    pub(crate) sent: u64,
    /// Answered with a 2xx.
    pub(crate) accepted: u64,
    /// Answered with anything else.
    pub(crate) refused: u64,
    /// The refused ones, by status and reason: `503 stream_full`.
    pub(crate) refused_by: BTreeMap<String, u64>,
    /// Not answered.
    pub(crate) broken: u64,
    /// Due but never begun.
    pub(crate) unsent: u64,
    /// Answered with a 2xx within the window.
    pub(crate) accepted_in_window: u64,
    /// The last thing that went wrong.
    pub(crate) last_problem: Option<String>,
    /// Latencies in microseconds, of deliveries that were due within the window.
    pub(crate) latency: Histogram<u64>,
}

/// A load under way.
pub(crate) struct Load {
    thread: JoinHandle<anyhow::Result<Outcome>>,
    phase: watch::Receiver<Phase>,
    counts: Arc<Counts>,
}

impl Load {
    /// Opens the connections and begins to send.
    pub(crate) fn start(plan: Plan) -> anyhow::Result<Self> {
        let (phase_sender, phase) = watch::channel(Phase::Warmup);
        let counts = Arc::new(Counts::default());
        let own_counts = Arc::clone(&counts);
        // Use a separate thread and reactor, so that nothing else delays a delivery that is due.
        let thread = std::thread::Builder::new().name("load".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            LocalSet::new().block_on(&runtime, generate(plan, &phase_sender, own_counts))
        });
        Ok(Self { thread: thread.context("cannot start the load's thread")?, phase, counts })
    }

    /// Waits until the load is in `phase` or beyond. A load that has ended early counts as beyond.
    pub(crate) async fn reached(&self, phase: Phase) {
        let _ = self.phase.clone().wait_for(|&at| at >= phase).await;
    }

    /// Deliveries answered with a 2xx so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.counts.accepted()
    }

    /// Deliveries answered with anything else so far.
    pub(crate) fn refused(&self) -> u64 {
        self.counts.refused()
    }

    /// Deliveries not answered so far.
    pub(crate) fn broken(&self) -> u64 {
        self.counts.broken.load(Ordering::Relaxed)
    }

    /// Waits until `told` accepts the counts. Checks often.
    pub(crate) async fn until_counted(&self, told: impl Fn(&Counts) -> bool) {
        while !told(&self.counts) {
            sleep(COUNTS_LOOK).await;
        }
    }

    /// Waits for the end of the load.
    pub(crate) async fn finish(self) -> anyhow::Result<Outcome> {
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await.context("waiting was cut off")?;
        joined.map_err(|_| anyhow::anyhow!("the load's thread panicked"))?
    }
}

impl Outcome {
    /// Says what was lost before the gateway's 2xx, if anything.
    pub(crate) fn loss(&self) -> Option<String> {
        (self.accepted != self.sent || self.unsent > 0).then(|| {
            let Self { sent, accepted, refused, broken, unsent, .. } = self;
            let last = self.last_problem.as_deref().unwrap_or("none noted");
            format!(
                "of {sent} deliveries sent {accepted} were accepted, {refused} refused and {broken} not answered; \
                 {unsent} more were due and never sent (last problem: {last})"
            )
        })
    }
}

/// What the connections share. All of them run on one thread.
struct Generator {
    plan: Plan,
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

async fn generate(plan: Plan, phase: &watch::Sender<Phase>, counts: Arc<Counts>) -> anyhow::Result<Outcome> {
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
        // Wake whoever still waits for a permit, so that it notices the end.
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
        while let Some((index, due)) = self.next().await {
            let open = match connection.take() {
                Some(open) => Ok(open),
                None => Connection::open(self.plan.gateway).await,
            };
            self.plan.bodies.of(index).request(&guid::make(index), &mut request);
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
                    self.answered(index, due, status, &open);
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

    /// The number of the next delivery and the time when it was due. `None` when there are no more.
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

    fn answered(&self, index: u64, due: Instant, status: u16, connection: &Connection) {
        let now = Instant::now();
        if !(200..300).contains(&status) {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
            let answer = format!("{status} {}", reason(connection.body()));
            *self.counts.refused_by.lock().unwrap_or_else(PoisonError::into_inner).entry(answer).or_default() += 1;
            return self.problem(format!("{status} {}", String::from_utf8_lossy(connection.body())));
        }
        self.counts.accepted.fetch_add(1, Ordering::Relaxed);
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
