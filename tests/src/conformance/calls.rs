//! The part of the suite for sinks that is about when receivers are called, for those that are servers.

use std::time::Duration;

use headrace_runtime::observe::health::State;
use tokio::time::Instant;

use super::POLICY;
use super::receiver::{ServerCase, Testbed};
use crate::harness::{CEILING, until};
use crate::standin::server::{Failure, When, Which};

/// The receiver is busy and says when to come again. That is honoured, and counts neither against an event nor against the
/// receiver.
pub async fn busy<C: ServerCase>() {
    let testbed = Testbed::<C>::start().await;
    // If it counted as a failure, the breaker would stay open for longer than this test may take.
    let workers = testbed.run_opening_for(CEILING * 2);
    let mut ids = testbed.publish(0..1).await;
    testbed.settled().await;
    let times = POLICY.attempts_max as usize + 2;
    testbed.case.peer().fail_next(times, Failure::StatusAfter(429, 0), When::Before, Which::Any);
    testbed.case.peer().fail_next(1, Failure::StatusAfter(429, 1), When::Before, Which::Any);
    let began = Instant::now();
    ids.extend(testbed.publish(1..2).await);
    testbed.settled().await;
    assert!(began.elapsed() >= Duration::from_secs(1), "called again after {:?}", began.elapsed());
    assert_eq!(testbed.case.peer().failures_left(), 0);
    testbed.assert_received(&ids);
    testbed.assert_nothing_dead().await;
    testbed.turns_green().await;
    workers.stop().await;
}

/// The receiver fails at every call. After a few, the breaker opens: health says until when, and one call is made each
/// time. When the receiver is back, everything arrives.
pub async fn breaker<C: ServerCase>() {
    const OPEN: Duration = Duration::from_secs(1);
    let testbed = Testbed::<C>::start().await;
    let workers = testbed.run_opening_for(OPEN);
    let mut ids = testbed.publish(0..1).await;
    testbed.settled().await;
    let peer = testbed.case.peer();
    peer.fail_next(usize::MAX, Failure::Status(503), When::Before, Which::Any);
    ids.extend(testbed.publish(1..9).await);
    let is_told = |state| matches!(state, Some(State::Degraded(why)) if why.contains("no call is made until"));
    until("health tells that no call is made", || is_told(testbed.state())).await;
    let (began, calls) = (Instant::now(), peer.recorded().len());
    until("three calls more", || peer.recorded().len() >= calls + 3).await;
    assert!(began.elapsed() >= OPEN * 2, "three calls within {:?}", began.elapsed());
    testbed.assert_nothing_dead().await;
    peer.recover();
    testbed.settled().await;
    testbed.assert_received(&ids);
    testbed.assert_nothing_dead().await;
    testbed.turns_green().await;
    workers.stop().await;
}
