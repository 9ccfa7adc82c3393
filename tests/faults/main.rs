//! The promise, under faults: the fast subset. The long run is the bench `faults`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod aside;
mod cluster;
mod deadly;
mod file;
mod full;

use std::time::Duration;

use headrace_tests::faults::{Fault, Options, Origin, Report, Scenario, run};
use tempfile::TempDir;
use tokio::sync::Semaphore;

/// A scenario keeps about half a core busy. No more than this many run at once, however many threads there are.
static TURNS: Semaphore = Semaphore::const_new(4);
/// Deliveries per second: few enough for two cores and four scenarios, enough that each fault finds some under way.
const RATE: u32 = 80;
/// Four seconds of the load: the shortest run lasts longer, but its gateway may be away.
const ANSWERED_MIN: u64 = 320;
/// Four seconds of the lines that are written to files or objects.
const LINES_MIN: u64 = 160;
/// Three seconds of the requests with several records.
const REQUESTS_MIN: u64 = 12;

/// Runs a scenario for at least this long, and until its first `kinds_min` kinds of faults were made: those that the
/// test is named for. The message of a failed run names its seed, with which it can be repeated.
async fn survives(seed: u64, seconds: u64, kinds_min: usize, scenario: Scenario) {
    survives_with(Room::of(1 << 30), seed, seconds, kinds_min, scenario).await;
}

/// What streams hold, in bytes.
struct Room {
    events: u64,
    others: u64,
}

impl Room {
    /// The same for all.
    const fn of(bytes: u64) -> Self {
        Self { events: bytes, others: bytes }
    }
}

/// The same with so much room in the streams.
async fn survives_with(room: Room, seed: u64, seconds: u64, kinds_min: usize, scenario: Scenario) -> Report {
    let _turn = TURNS.acquire().await.unwrap();
    let dir = TempDir::new().unwrap();
    let options = Options {
        program: (env!("CARGO_BIN_EXE_headrace").into(), Vec::new()),
        dir: dir.path().to_owned(),
        seed,
        rate: RATE,
        duration: Duration::from_secs(seconds),
        scenario,
        workers: 2,
        kinds_min,
        stream_bytes_max: room.others,
        events_bytes_max: room.events,
    };
    let ran = run(&options).await.and_then(|report| report.ensure_intact().map(|()| report));
    let report = ran.unwrap_or_else(|error| {
        // Keep the logs of a failed run.
        let kept = dir.keep();
        panic!("{error:#}\nkept: {}", kept.display())
    });
    let answered = (report.answered - report.posted) as u64 - report.lines;
    let is_enough = answered > ANSWERED_MIN && report.lines > LINES_MIN && report.shared > 10;
    let is_enough = is_enough && report.requests > REQUESTS_MIN;
    let is_updated = report.alerts > 0 && report.matching > report.alerts;
    assert!(is_enough && (is_updated || !scenario.receivers), "too little was sent to prove anything: {report:#?}");
    report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_stored_twice_when_processes_die() {
    const FAULTS: &[Fault] = &[
        Fault::CrashPipeline,
        Fault::CrashSink,
        Fault::CrashCollect,
        Fault::KillGateway,
        Fault::KillNats,
        Fault::KillClickHouse,
        // A crash at a point is a kill, too.
        Fault::KillPipeline,
        Fault::KillSink,
        Fault::KillCollect,
    ];
    survives(1, 10, 6, Scenario { faults: FAULTS, ..Scenario::ONE }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_process_stores_nothing_twice_when_it_goes_on() {
    survives(2, 8, 2, Scenario { faults: &[Fault::FreezeSink, Fault::FreezePipeline], ..Scenario::ONE }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_stored_twice_when_receivers_and_a_bucket_refuse() {
    const FAULTS: &[Fault] = &[
        Fault::ReceiversFail,
        Fault::ReceiversAway,
        Fault::ReadOnlyClickHouse,
        Fault::BucketFails,
        Fault::CrashCollect,
        Fault::TooManyParts,
        Fault::MemoryLimit,
        Fault::SinksAway,
        Fault::Rescale,
    ];
    survives(4, 10, 5, Scenario { faults: FAULTS, origin: Origin::Bucket, ..Scenario::ONE }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_stored_twice_on_a_bad_network() {
    const FAULTS: &[Fault] = &[Fault::NetworkNats, Fault::NetworkClickHouse, Fault::NetworkGateway];
    survives(3, 10, 3, Scenario { faults: FAULTS, origin: Origin::Bucket, ..Scenario::ONE }).await;
}
