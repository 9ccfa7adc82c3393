//! A Splunk that is away for long: its sink is set aside, and catches up although somebody dies.

use headrace_tests::faults::{Fault, Scenario};

use super::{Room, survives_with};

/// EVENTS is full of what waits for one sink within ten seconds. The other streams have room for the whole run.
const ROOM: Room = Room { events: 1 << 20, others: 1 << 30 };
/// With this seed, the process dies that brings events.
const SEED: u64 = 11;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_a_sink_is_set_aside_and_somebody_dies_while_it_catches_up() {
    let scenario = Scenario { faults: &[Fault::SetAside], ..Scenario::ONE };
    let report = survives_with(ROOM, SEED, 1, 1, scenario).await;
    assert!(report.set_aside > 0 && report.caught_up > 0, "expected a sink that catches up, found none: {report:#?}");
}
