//! No room: streams at their limit, and disks that are full.

use std::io::Write as _;

use headrace_tests::faults::{Fault, Scenario, SmallDisks, may_mount, run_again, way_to_mount};
use tempfile::TempDir;

use super::{Room, TURNS, survives_with};

/// What a stream that is to be full holds, in bytes: filled in some seconds.
const SMALL_STREAM: u64 = 1 << 20;
/// What a stream holds on a small disk, in bytes. NATS wants free space for all of them and a third more: 342 MiB.
const STREAM: u64 = 64 << 20;
/// The small disks. They are in memory, and a full one takes all of this. By itself, ClickHouse fills 256 MiB within a
/// minute, and this run is shorter.
const DISKS: SmallDisks = SmallDisks { bytes: 512 << 20, full_ms: (500, 2_000) };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_twice_when_a_stream_is_full() {
    let scenario = Scenario { faults: &[Fault::FullStreams], receivers: false, ..Scenario::ONE };
    survives_with(Room::of(SMALL_STREAM), 6, 1, 1, scenario).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_twice_when_a_disk_is_full() {
    const NAME: &str = "full::nothing_is_lost_or_twice_when_a_disk_is_full";
    const FAULTS: &[Fault] = &[Fault::DiskFullNats, Fault::DiskFullClickHouse];
    if may_mount() {
        let scenario = Scenario { faults: FAULTS, disks: Some(DISKS), ..Scenario::DISKS };
        survives_with(Room::of(STREAM), 7, 1, 2, scenario).await;
        return;
    }
    // The run inside takes its turn in another process.
    let _turn = TURNS.acquire().await.unwrap();
    let dir = TempDir::new().unwrap();
    match way_to_mount(dir.path()) {
        Ok(way) => run_again(NAME, way, dir.path()).await.unwrap_or_else(|error| panic!("{error:#}")),
        Err(error) => {
            // Written past the capture of the test program, which shows nothing of a test that passes.
            let text = format!(
                "\nNOT TESTED: {NAME}: full disks. {error:#}. Full streams are tested without any right, by \
                 nothing_is_lost_or_twice_when_a_stream_is_full. Run as root, or allow user namespaces.\n\n"
            );
            std::io::stderr().write_all(text.as_bytes()).unwrap();
        }
    }
}
