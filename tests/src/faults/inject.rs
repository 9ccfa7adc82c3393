//! The faults themselves: what is done to a process, a network or a disk. `testbed` chooses where.

use std::time::Duration;

use anyhow::Context as _;
use headrace_runtime::crash::Point;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tokio::time::{Instant, sleep};

use super::disk::Disk;
use super::plan::Plan;
use super::process::Process;
use super::proxy::{Impairment, Proxy};
use super::setup::INSERT_S;

/// How long it may take until a full disk is felt. It only ends a run in which it never is.
const FELT_MAX: Duration = Duration::from_secs(60);

/// How long a process may take to come to the point where it is to crash.
const CRASH_WAIT_MAX: Duration = Duration::from_secs(15);

/// Makes a process crash at one of `points`, at the latest at this passing of it. Returns false if the process never
/// came to the point; then it was only killed.
pub(super) async fn crash(
    process: &mut Process,
    points: &[Point],
    passings: u64,
    plan: &mut Plan,
) -> anyhow::Result<bool> {
    let (point, passing) = plan.point(points, passings);
    let crashed = process.crash_at(point, passing, CRASH_WAIT_MAX).await?;
    if !crashed {
        let name = point.name();
        eprintln!("no crash: expected passing {passing} of {name} within {CRASH_WAIT_MAX:?}, found a running process");
    }
    Ok(crashed)
}

pub(super) async fn freeze(process: &Process, ack_wait_s: u64) {
    process.freeze();
    sleep(Duration::from_secs(ack_wait_s + 3)).await;
    process.thaw();
}

pub(super) async fn misbehave(proxy: Option<&Proxy>, repeats: bool, plan: &mut Plan) {
    let Some(proxy) = proxy else { return };
    let slow = plan.millis(50, 400);
    let late = Duration::from_secs(INSERT_S) + plan.millis(500, 3_000);
    let mut impairments = vec![
        Impairment::Drop,
        Impairment::Delay(slow),
        Impairment::Reset,
        Impairment::Truncate,
        Impairment::Late(late),
    ];
    if repeats {
        impairments.push(Impairment::Repeat);
    }
    let impairment = impairments[plan.below(impairments.len())];
    tracing::info!(?impairment, "the network misbehaves");
    let duration = plan.lasting(500, 8_000);
    proxy.impair(impairment, duration).await;
}

/// Keeps a disk full for `time`, and until `refused` says that somebody felt it.
pub(super) async fn fill(disk: &Disk, time: Duration, refused: impl AsyncFn() -> bool) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut felt = false;
    while !felt || began.elapsed() < time {
        anyhow::ensure!(began.elapsed() < FELT_MAX, "expected refusals while the disk is full, found none");
        // Fill it again and again, because the server frees space to help itself.
        disk.fill()?;
        felt = felt || refused().await;
        sleep(Duration::from_millis(100)).await;
    }
    disk.free()
}

/// For a while, a process gets no more memory from the system.
pub(super) async fn starve(pid: Option<u32>, time: Duration) -> anyhow::Result<()> {
    let Some(pid) = pid.and_then(process) else { return Ok(()) };
    let pages: u64 = std::fs::read_to_string(format!("/proc/{}/statm", pid.as_raw_pid()))
        .ok()
        .and_then(|text| text.split(' ').next()?.parse().ok())
        .context("cannot read the size of ClickHouse's process")?;
    let limit = Rlimit { current: Some(pages * rustix::param::page_size() as u64), maximum: None };
    let before = prlimit(Some(pid), Resource::As, limit).context("cannot limit ClickHouse's memory")?;
    sleep(time).await;
    // The process may have died of it, which is an outcome too.
    let _ = prlimit(Some(pid), Resource::As, before);
    Ok(())
}

/// Suspends a process for a while.
pub(super) async fn pause(pid: Option<u32>, time: Duration) {
    let Some(pid) = pid else { return };
    signal(pid, Signal::STOP);
    sleep(time).await;
    signal(pid, Signal::CONT);
}

pub(super) fn kill(pid: Option<u32>) {
    // Without a process id, the process is just being started again. So it is down, as we wanted.
    if let Some(pid) = pid {
        signal(pid, Signal::KILL);
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = process(pid) {
        let _ = kill_process(pid, signal);
    }
}

fn process(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}
