//! A Splunk that is away for long: its sink is set aside, and catches up although the process dies that brings events.

use headrace_tests::faults::{Death, Fault, Scenario};

use super::{Room, survives_with};

/// EVENTS is full of what waits for one sink within ten seconds. The other streams have room for the whole run.
const ROOM: Room = Room { events: 1 << 20, others: 1 << 30 };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_a_sink_is_set_aside_and_who_brings_what_it_missed_dies() {
    let scenario = Scenario { faults: &[Fault::SetAside], death: Some(Death::Bringer), ..Scenario::ONE };
    let report = survives_with(ROOM, 11, 1, 1, scenario).await;
    assert!(report.set_aside > 0 && report.caught_up > 0, "expected a sink that catches up, found none: {report:#?}");
    assert!(report.deaths.contains_key(&Death::Bringer), "expected a death in the middle, found none: {report:#?}");
}
