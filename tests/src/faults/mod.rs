//! Faults under load: real processes are killed, suspended, cut off and crashed at named points while deliveries
//! arrive. Afterwards, every delivery that was answered 2xx must be stored once.
//!
//! The fault tests and the bench `faults` call [`run`]. A seed decides what happens and when (`plan`), so that a failed
//! run can be repeated.

mod bucket;
mod disk;
mod history;
mod inject;
mod lines;
mod load;
mod mounts;
mod plan;
mod posts;
mod process;
mod proxy;
mod receivers;
mod report;
mod scenario;
mod servers;
mod setup;
mod testbed;
mod verify;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::Instant;

pub use self::mounts::{may_mount, run_again, way_to_mount};
pub use self::plan::{Death, Fault};
pub use self::report::{RecoveryTimes, Report};
pub use self::scenario::{Origin, Scenario, SmallDisks};

use self::lines::Lines;
use self::load::{Load, WINDOW_S};
use self::plan::Plan;
use self::posts::Posts;
use self::testbed::Testbed;

/// How long recovery may take after one fault, and settling everything in the end. It is far beyond what is needed, and
/// only ends a run that hangs.
const RECOVERY_MAX: Duration = Duration::from_secs(300);

/// No fault may last longer than this fraction of the run: a short run needs several faults, too.
const FAULT_SHARE: u32 = 3;

/// But a fault may always last this long, which is longer than any `ack_wait` and than the broker's duplicate window.
const FAULT_LEAST: Duration = Duration::from_secs(WINDOW_S + 1);

/// How often to ask whether everything works again. Recovery times are no more exact than this.
const PROBE_EVERY: Duration = Duration::from_millis(50);

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program, and the arguments before its own, such as `target/release/headrace`.
    pub program: (PathBuf, Vec<OsString>),
    /// Where the run keeps its files.
    pub dir: PathBuf,
    /// The seed of every random choice.
    pub seed: u64,
    /// Deliveries per second.
    pub rate: u32,
    /// How long faults are made. Then the run waits until everything is settled.
    pub duration: Duration,
    /// What runs, and what happens to it.
    pub scenario: Scenario,
    /// How many pipeline processes, and how many sink processes, to begin with.
    pub workers: usize,
    /// How many kinds must be made: so many from the start of the scenario's list. They come before all others. This
    /// may take longer than `duration`.
    pub kinds_min: usize,
    /// What each stream but EVENTS may hold, in bytes. NATS wants free space on its disk for all of them and a third more.
    pub stream_bytes_max: u64,
    /// What EVENTS may hold, in bytes. When three quarters of it wait for a Splunk that takes nothing, its sink is set
    /// aside. So [`Fault::SetAside`] needs a stream that the load fills within some seconds.
    pub events_bytes_max: u64,
}

/// Makes faults under load, and compares what was answered with what is stored.
///
/// # Errors
/// When something did not recover by itself; the message names the seed. [`Report::ensure_intact`] tells whether
/// anything was lost or stored twice.
pub async fn run(options: &Options) -> anyhow::Result<Report> {
    let seed = options.seed;
    run_seed(options).await.with_context(|| format!("faults with seed {seed} in {}", options.dir.display()))
}

async fn run_seed(options: &Options) -> anyhow::Result<Report> {
    let mut testbed = Testbed::start(options).await?;
    let load = Load::start(testbed.gateway(), options.rate);
    let lines = Lines::start(testbed.place(), options.rate, load.history());
    let posts = Posts::start(testbed.gateway(), options.rate, load.history());
    let mut report = Report::new(options);
    let (must, others) = options.scenario.faults.split_at(options.kinds_min.min(options.scenario.faults.len()));
    let fault_max = (options.duration / FAULT_SHARE).max(FAULT_LEAST);
    let mut plan = Plan::new(options.seed, must, others, fault_max);
    probe(&testbed, &load).await.context("before any fault")?;
    // A cluster may need a while to choose its leaders.
    let end = Instant::now() + options.duration;
    while Instant::now() < end || !must.iter().all(|fault| report.faults.contains_key(fault)) {
        anyhow::ensure!(
            Instant::now() < end + RECOVERY_MAX,
            "expected each of {must:?} to be made, found only {:?}; stderr tells which never came to its point",
            report.faults.keys().collect::<Vec<_>>()
        );
        tokio::time::sleep(plan.gap()).await;
        let fault = plan.next();
        tracing::info!(?fault, "injecting");
        let began = Instant::now();
        let injected = testbed.inject(fault, &mut plan, &load).await;
        let is_made = injected.with_context(|| format!("injecting {fault:?}"))?;
        probe(&testbed, &load).await.with_context(|| format!("after {fault:?}"))?;
        if is_made {
            report.recovered(fault, began.elapsed());
        } else {
            plan.repeat(fault);
        }
    }
    report.refused = load.refused();
    report.lines = lines.finish().await?;
    report.requests = posts.finish().await?;
    let (history, sent_for) = load.finish().await;
    report.sent_for(sent_for);
    testbed.heal().await?;
    let settled = Instant::now();
    // An object that fails again and again is tried after longer and longer pauses.
    testbed.lines_read(report.lines, RECOVERY_MAX * 2).await;
    testbed.settled(RECOVERY_MAX).await?;
    report.settled(settled.elapsed());
    testbed.report_set_asides(&mut report);
    verify::verify(&testbed, &history, &mut report).await?;
    testbed.stop().await;
    Ok(report)
}

/// Waits until a delivery that is sent now has its row. Then everything works again, without anybody's help.
async fn probe(testbed: &Testbed, load: &Load) -> anyhow::Result<()> {
    let deadline = Instant::now() + RECOVERY_MAX;
    let id = loop {
        testbed.ensure_all_run()?;
        if let Some(id) = load.send_one().await {
            break id;
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "the gateway took no delivery within {RECOVERY_MAX:?}\n{}",
            testbed.logs()
        );
        tokio::time::sleep(PROBE_EVERY).await;
    };
    loop {
        testbed.ensure_all_run()?;
        if testbed.has_row(&id).await.unwrap_or(false) {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "{id} had no row within {RECOVERY_MAX:?}\n{}", testbed.logs());
        tokio::time::sleep(PROBE_EVERY).await;
    }
}
