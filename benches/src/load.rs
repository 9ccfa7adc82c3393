//! The load generator: signed deliveries over kept-alive connections, from one thread of its own.
//!
//! At a fixed rate, it is open-loop: delivery `n` is due at `start + n / rate`, whatever the gateway does, and its
//! latency counts from then. So a stall of the gateway shows in every delivery that became due meanwhile, not only in
//! those under way (no coordinated omission). Without a rate, it is closed-loop: each connection sends its next
//! delivery when the last one was answered.
//!
//! `generator.rs` sends, `outcome.rs` counts what became of the deliveries. `repetitions.rs` decides which deliveries
//! are of an earlier time, and `records.rs` sends some of these by other sources.

mod generator;
mod outcome;
mod records;
mod repetitions;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{Semaphore, watch};
use tokio::task::LocalSet;
use tokio::time::sleep;

use self::generator::generate;
use self::outcome::Counts;
pub(crate) use self::outcome::Outcome;
pub(crate) use self::records::Records;
pub(crate) use self::repetitions::Repetitions;
use crate::bodies::Bodies;
use crate::cli::Common;
use crate::moments::Moments;

/// How often to read the counts while a case waits for them.
const COUNTS_LOOK: Duration = Duration::from_millis(10);

/// What to send, where, and for how long.
pub(crate) struct Plan {
    pub(crate) gateway: SocketAddr,
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
    /// Which deliveries are of an earlier time.
    pub(crate) repetitions: Option<Repetitions>,
    /// How some of these come by other sources than the webhook, if they do.
    pub(crate) records: Option<Records>,
}

impl Plan {
    /// The plan that the command line asks for, without moments.
    pub(crate) fn new(gateway: SocketAddr, bodies: &Arc<Bodies>, common: &Common, pace: Pace) -> Self {
        let (warmup, window) = (common.warmup(), common.window());
        let bodies = Arc::clone(bodies);
        Self {
            gateway,
            bodies,
            connections: common.connections,
            warmup,
            window,
            pace,
            moments: None,
            repetitions: None,
            records: None,
        }
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

    /// Those of them that were accepted before under the same id.
    pub(crate) fn repeated(&self) -> u64 {
        self.counts.repeated()
    }

    /// Deliveries answered with anything else so far.
    pub(crate) fn refused(&self) -> u64 {
        self.counts.refused()
    }

    /// Deliveries not answered so far.
    pub(crate) fn broken(&self) -> u64 {
        self.counts.broken()
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
