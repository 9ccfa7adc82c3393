//! What became of one delivery, and when to act on it. Pure: no clock, no I/O.

use std::time::Duration;

use headrace_schemas::time::Timestamp;

/// The longest pause between two redeliveries of the same delivery, so that the last one is asked for in time.
const PAUSE_MAX: Duration = Duration::from_secs(12 * 3_600);

/// What GitHub lists under one GUID.
#[derive(Clone, Debug)]
pub(super) struct Attempts {
    /// When it was first sent.
    pub(super) first: Timestamp,
    /// When it was sent again.
    pub(super) again: Vec<Timestamp>,
    /// Whether any attempt was answered with 2xx.
    pub(super) succeeded: bool,
}

/// What the permanent record knows about a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// It is stored, and was received at this time.
    Stored(Timestamp),
    /// It is not stored, although everything that RAW took by then is.
    Absent,
    /// The record cannot tell, because it is away or behind.
    Unknown,
}

/// What this process remembers about asking for a delivery. GitHub lists a redelivery only some time later, and a
/// refused one never.
#[derive(Clone, Copy, Debug)]
pub(super) struct RedeliveryRequest {
    pub(super) at: Timestamp,
    pub(super) times: u32,
    pub(super) refused: bool,
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeliveryState {
    /// Stored when it was first sent.
    Seen,
    /// Stored because it was sent again.
    Recovered,
    /// Undecided until this time.
    Waiting(Timestamp),
    /// Not stored. Ask for it at this time or later.
    Missing(Timestamp),
}

/// The times that decide about a delivery.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// The present.
    pub(super) now: Timestamp,
    /// How long a delivery may take to arrive.
    pub(super) grace: Duration,
    /// How long the broker recognizes a delivery that it had accepted, even if it has lost it since. Within that time,
    /// it drops the same delivery when it comes again.
    pub(super) window: Duration,
}

/// Classifies one delivery.
pub(super) fn classify(
    attempts: &Attempts,
    record: Record,
    asked: Option<&RedeliveryRequest>,
    at: Times,
) -> DeliveryState {
    let Times { now, grace, window } = at;
    if let Record::Stored(received_at) = record {
        let distance = |attempt: &Timestamp| received_at.since(*attempt).max(attempt.since(received_at));
        // The clocks of GitHub and the gateway differ, so the attempt nearest in time counts as the one that arrived.
        let first = distance(&attempts.first);
        let recovered = attempts.again.iter().any(|again| distance(again) < first);
        return if recovered { DeliveryState::Recovered } else { DeliveryState::Seen };
    }
    let sent_last = attempts.again.iter().copied().fold(attempts.first, Timestamp::max);
    let accepted = asked.filter(|asked| !asked.refused).map(|asked| asked.at);
    let wait_until = later(accepted.map_or(sent_last, |at| at.max(sent_last)), grace);
    if now < wait_until {
        return DeliveryState::Waiting(wait_until);
    }
    // Without the record, GitHub's list must do. A delivery that we never answered with 2xx is asked for anyway,
    // because a second copy does no harm.
    if record == Record::Unknown && attempts.succeeded {
        return DeliveryState::Waiting(now);
    }
    let times = asked.map_or(0, |asked| asked.times).max(u32::try_from(attempts.again.len()).unwrap_or(u32::MAX));
    let tried_last = asked.map_or(sent_last, |asked| asked.at.max(sent_last));
    // Wait half as long again, because clocks differ and the delivery was under way for some time.
    let forgotten_after = if attempts.succeeded { window * 3 / 2 } else { Duration::ZERO };
    DeliveryState::Missing(later(tried_last, pause(times, grace).max(forgotten_after)))
}

/// The pause after this many redeliveries: `grace`, doubled with each.
pub(super) fn pause(times: u32, grace: Duration) -> Duration {
    grace.saturating_mul(1 << times.min(20)).min(PAUSE_MAX.max(grace))
}

/// The moment `by` after `at`.
pub(super) fn later(at: Timestamp, by: Duration) -> Timestamp {
    Timestamp::from_micros(at.as_micros().saturating_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(60);
    const WINDOW: Duration = Duration::from_secs(120);

    const fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    #[test]
    fn each_delivery_is_classified_by_record_attempts_and_time() {
        use DeliveryState::{Missing, Recovered, Seen, Waiting};
        use Record::{Absent, Stored, Unknown};
        // (sent again, succeeded, record, now, state); first sent at 1000.
        let cases: [(&[i64], bool, Record, i64, DeliveryState); 16] = [
            (&[], true, Stored(at(1000)), 1001, Seen),
            (&[], false, Stored(at(1009)), 1001, Seen),
            (&[1500], true, Stored(at(1003)), 9999, Seen),
            (&[1500], true, Stored(at(1497)), 1500, Recovered),
            (&[1500, 2000], true, Stored(at(2001)), 2001, Recovered),
            (&[], true, Absent, 1059, Waiting(at(1060))),
            (&[], false, Absent, 1059, Waiting(at(1060))),
            (&[], false, Unknown, 1059, Waiting(at(1060))),
            (&[], true, Absent, 1060, Missing(at(1180))),
            (&[], false, Unknown, 1060, Missing(at(1060))),
            (&[], true, Unknown, 5000, Waiting(at(5000))),
            (&[1500], false, Absent, 1559, Waiting(at(1560))),
            (&[1500], false, Absent, 1560, Missing(at(1620))),
            (&[1500, 2000], false, Absent, 9999, Missing(at(2240))),
            (&[1500, 2000], true, Absent, 9999, Missing(at(2240))),
            (&[1500], true, Unknown, 9999, Waiting(at(9999))),
        ];
        for (again, succeeded, record, now, state) in cases {
            let again: Vec<Timestamp> = again.iter().copied().map(at).collect();
            let attempts = Attempts { first: at(1000), again, succeeded };
            let found = classify(&attempts, record, None, Times { now: at(now), grace: GRACE, window: WINDOW });
            assert_eq!(found, state, "{attempts:?} {record:?} at {now}");
        }
    }

    #[test]
    fn what_was_asked_for_is_not_asked_for_again_at_once() {
        let attempts = Attempts { first: at(1000), again: Vec::new(), succeeded: false };
        let classified = |refused, now| {
            let asked = RedeliveryRequest { at: at(2000), times: 1, refused };
            classify(&attempts, Record::Absent, Some(&asked), Times { now: at(now), grace: GRACE, window: WINDOW })
        };
        assert_eq!(classified(false, 2001), DeliveryState::Waiting(at(2060)));
        assert_eq!(classified(false, 2060), DeliveryState::Missing(at(2120)));
        assert_eq!(classified(true, 2001), DeliveryState::Missing(at(2120)));
    }

    #[test]
    fn pauses_double_and_are_bounded() {
        assert_eq!([0, 1, 2, 40].map(|times| pause(times, GRACE).as_secs()), [60, 120, 240, 43_200]);
        assert_eq!(pause(3, Duration::from_secs(86_400)).as_secs(), 86_400);
    }
}
