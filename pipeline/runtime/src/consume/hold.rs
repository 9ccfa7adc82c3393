//! Keeps messages ours while they are worked on, by progress acknowledgements within `ack_wait`.

use std::future::Future;
use std::time::Duration;

use async_nats::jetstream::AckKind;
use tokio::time::{Instant, sleep_until};

use crate::message::Delivered;
use crate::moment::Moment;

/// Runs `work` and keeps `held` ours meanwhile, with three rounds of progress acknowledgements per `ack_wait`.
pub(crate) async fn while_held<T>(held: &[&Delivered], ack_wait: Duration, work: impl Future<Output = T>) -> T {
    tokio::select! {
        done = work => done,
        never = keep(held, ack_wait) => never,
    }
}

/// Renews the hold on `held` when it is time to.
pub(crate) async fn prolong_when_due(held: &[&Delivered], ack_wait: Duration) {
    if held_until(held.iter().copied(), ack_wait).time_left() <= ack_wait * 2 / 3 {
        prolong(held, ack_wait).await;
    }
}

/// Nobody else is given any of `messages` before this time.
pub(crate) fn held_until<'a>(messages: impl IntoIterator<Item = &'a Delivered>, ack_wait: Duration) -> Moment {
    let until = messages.into_iter().map(|message| message.held_until(ack_wait));
    until.reduce(Moment::earlier).unwrap_or_else(Moment::now)
}

async fn keep<T>(held: &[&Delivered], ack_wait: Duration) -> T {
    let mut due = due(held, ack_wait);
    loop {
        sleep_until(due).await;
        due = Instant::now() + ack_wait / 3;
        prolong(held, ack_wait).await;
    }
}

/// When to renew the hold on `held`. The time counts from when they were last known to be ours, so that a series of
/// short calls and pauses cannot put it off.
fn due(held: &[&Delivered], ack_wait: Duration) -> Instant {
    held_until(held.iter().copied(), ack_wait).monotonic() - ack_wait * 2 / 3
}

/// Sends one round of progress acknowledgements. The server's confirmation proves something only if it arrives while
/// `held` are still ours: the server confirms just the same when another process has the messages.
async fn prolong(held: &[&Delivered], ack_wait: Duration) {
    let Some((last, others)) = held.split_last() else { return };
    let (since, until) = (Moment::now(), held_until(held.iter().copied(), ack_wait));
    if until.is_over() {
        return;
    }
    for message in others {
        message.answer(AckKind::Progress).await;
    }
    // The server handles a connection's acknowledgements in order, so its confirmation of the last covers all.
    if last.answer_confirmed(AckKind::Progress).await && !until.is_over() {
        held.iter().for_each(|message| message.extend_hold(since));
    }
}
