//! What an alert has counted so far. Pure.

use std::time::Duration;

use headrace_schemas::alert::{Alert, Status};
use headrace_schemas::event::{Event, RuleMatch};
use headrace_schemas::id::EventId;
use headrace_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// How many of the latest events are remembered, so that none is counted twice. An event that comes again after more
/// than this many others of the same alert would be counted again; nothing else would happen.
const REMEMBERED_MAX: usize = 512;

/// GitHub sends again for three days, Enterprise Server for seven.
const REPEATED_WITHIN: Duration = Duration::from_secs(8 * 24 * 3_600);
/// How far GitHub's clock may be ahead of ours.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(600);

/// An alert's state in KV.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Accumulator {
    alert: Option<Alert>,
    remembered: Vec<EventId>,
}

/// The alert that a match belongs to: its fingerprint and the start of its window in seconds.
pub(super) fn alert_id(event: &Event, found: &RuleMatch, window: Duration) -> String {
    format!("{}-{}", fingerprint(event, found), window_start(sent_at(event), window).as_micros() / 1_000_000)
}

/// When the event was first sent, by its event time. This time is the same when the event comes again hours later, so the event
/// belongs to the same alert. When it has none, or an impossible one, it is the time of reception.
fn sent_at(event: &Event) -> Timestamp {
    let received_at = event.received_at;
    let plausible =
        |at: &Timestamp| received_at.since(*at) <= REPEATED_WITHIN && at.since(received_at) <= CLOCK_SKEW_MAX;
    event.event_time.or_else(|| event.id.created_at()).filter(plausible).unwrap_or(received_at)
}

fn window_start(at: Timestamp, window: Duration) -> Timestamp {
    let window = i64::try_from(window.as_micros()).unwrap_or(i64::MAX).max(1);
    Timestamp::from_micros(at.as_micros().div_euclid(window) * window)
}

fn fingerprint(event: &Event, found: &RuleMatch) -> String {
    let mut hash = Sha256::new();
    let actor = event.actor.as_ref().map(|actor| actor.login.as_str());
    for part in [Some(event.tenant.as_str()), Some(found.rule.as_str()), actor, place(event)] {
        // A length before each part, so that no two different tuples read alike.
        let part = part.unwrap_or_default().to_ascii_lowercase();
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex::encode(&hash.finalize()[..16])
}

/// Where it happened: the repository, else the organization.
fn place(event: &Event) -> Option<&str> {
    let repository = event.repository.as_ref().map(|repository| repository.full_name.as_str());
    repository.or_else(|| event.organization.as_ref().map(|organization| organization.login.as_str()))
}

impl Accumulator {
    /// Counts what is new in `found`. Returns whether anything is.
    pub(super) fn add(&mut self, id: &str, found: &[(&Event, &RuleMatch)], window: Duration) -> bool {
        // An alert stays `opened` until a later batch: its first message may count several events.
        if let Some(alert) = self.alert.as_mut()
            && found.iter().any(|(event, _)| !self.remembered.contains(&event.id))
        {
            alert.status = Status::Updated;
        }
        let mut counted = false;
        for (event, found) in found {
            if self.remembered.contains(&event.id) {
                continue;
            }
            match &mut self.alert {
                None => self.alert = Some(opened(id, event, found, window)),
                Some(alert) => repeat(alert, event),
            }
            self.remembered.push(event.id.clone());
            counted = true;
        }
        let surplus = self.remembered.len().saturating_sub(REMEMBERED_MAX);
        self.remembered.drain(..surplus);
        counted
    }

    pub(super) fn into_alert(self) -> Option<Alert> {
        self.alert
    }
}

fn opened(id: &str, event: &Event, found: &RuleMatch, window: Duration) -> Alert {
    let start = window_start(sent_at(event), window);
    let window = i64::try_from(window.as_micros()).unwrap_or(i64::MAX);
    let assessment = event.assessment.as_ref();
    Alert {
        id: id.to_owned(),
        tenant: event.tenant.clone(),
        fingerprint: fingerprint(event, found),
        rule: found.rule.clone(),
        title: found.title.clone(),
        severity: found.severity,
        risk: assessment.map_or(0, |assessment| assessment.risk),
        status: Status::Opened,
        count: 1,
        opened_at: event.received_at,
        updated_at: event.received_at,
        window_ends_at: Timestamp::from_micros(start.as_micros().saturating_add(window)),
        actor: event.actor.as_ref().map(|actor| actor.login.clone()),
        organization: event.organization.as_ref().map(|organization| organization.login.clone()),
        repository: event.repository.as_ref().map(|repository| repository.full_name.clone()),
        owner: event.enrichment.as_ref().and_then(|enrichment| enrichment.owner.clone()),
        techniques: found.techniques.clone(),
        evidence: found.evidence.clone(),
        reasons: assessment.map_or_else(Vec::new, |assessment| {
            assessment.reasons.iter().map(|reason| format!("{:+} {}", reason.points, reason.text)).collect()
        }),
        events: vec![event.id.clone()],
    }
}

fn repeat(alert: &mut Alert, event: &Event) {
    alert.count += 1;
    alert.updated_at = alert.updated_at.max(event.received_at);
    alert.risk = alert.risk.max(event.assessment.as_ref().map_or(0, |assessment| assessment.risk));
    if alert.events.len() >= Alert::EVENTS_MAX {
        // Keep the first, and remove the oldest of the others.
        alert.events.remove(1);
    }
    alert.events.push(event.id.clone());
}

#[cfg(test)]
mod tests {
    use headrace_schemas::event::{Assessment, Severity};

    use super::*;
    use crate::fixture;

    const WINDOW: Duration = Duration::from_secs(3_600);

    fn found() -> RuleMatch {
        RuleMatch {
            rule: "r1".into(),
            title: "Made public".into(),
            severity: Severity::High,
            techniques: vec![],
            controls: vec![],
            evidence: vec![],
        }
    }

    fn event(number: u32, risk: i32) -> Event {
        let mut event = fixture::event("repository", Some("publicized"));
        event.id = EventId::github(&format!("guid-{number}"));
        event.assessment = Some(Assessment { risk, ..Assessment::default() });
        event
    }

    #[test]
    fn events_of_one_fingerprint_and_window_are_one_alert() {
        let id = |event: &Event| alert_id(event, &found(), WINDOW);
        let first = event(1, 10);
        assert_eq!(id(&first), id(&event(2, 20)));
        let mut later = event(3, 10);
        later.received_at = Timestamp::from_micros(later.received_at.as_micros() + 3_600_000_000);
        assert_ne!(id(&first), id(&later));
        let mut elsewhere = event(4, 10);
        elsewhere.repository.as_mut().unwrap().full_name = "acme/other".into();
        assert_ne!(id(&first), id(&elsewhere));
        let mut other = event(5, 10);
        other.actor.as_mut().unwrap().login = "MONA".into();
        assert_eq!(id(&first), id(&other));
    }

    #[test]
    fn an_event_that_comes_again_hours_later_belongs_to_its_first_alert() {
        let id = |event: &Event| alert_id(event, &found(), WINDOW);
        let mut event = event(1, 10);
        event.id = EventId::github("72d3162e-cc78-11e3-81ab-4c9367dc0958");
        let sent_at = event.id.created_at().unwrap();
        let received = |after: i64| {
            let received_at = Timestamp::from_micros(sent_at.as_micros() + after * 1_000_000);
            Event { received_at, ..event.clone() }
        };
        let first = received(1);
        for again in [-500, 7_200, 7 * 24 * 3_600] {
            assert_eq!(id(&received(again)), id(&first), "{again}");
        }
        // Somebody who makes up an id cannot choose any window.
        for unlikely in [-700, 9 * 24 * 3_600] {
            let event = received(unlikely);
            let window = window_start(event.received_at, WINDOW).as_micros() / 1_000_000;
            assert!(id(&event).ends_with(&format!("-{window}")), "{unlikely}");
        }
    }

    #[test]
    fn an_event_is_counted_once() {
        let (first, second, found) = (event(1, 10), event(2, 70), found());
        let mut accumulator = Accumulator::default();
        assert!(accumulator.add("a", &[(&first, &found)], WINDOW));
        assert_eq!(accumulator.clone().into_alert().unwrap().status, Status::Opened);
        assert!(!accumulator.add("a", &[(&first, &found)], WINDOW));
        assert!(accumulator.add("a", &[(&first, &found), (&second, &found), (&second, &found)], WINDOW));
        let alert = accumulator.into_alert().unwrap();
        assert_eq!((alert.count, alert.risk, alert.status), (2, 70, Status::Updated));
        assert_eq!(alert.events, [first.id, second.id]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let found = found();
        let mut accumulator = Accumulator::default();
        for number in 0..2_000 {
            assert!(accumulator.add("a", &[(&event(number, 1), &found)], WINDOW));
        }
        assert_eq!(accumulator.remembered.len(), REMEMBERED_MAX);
        let alert = accumulator.into_alert().unwrap();
        assert_eq!((alert.count, alert.events.len()), (2_000, Alert::EVENTS_MAX));
        assert_eq!(alert.events[0], EventId::github("guid-0"));
        assert_eq!(alert.events[99], EventId::github("guid-1999"));
    }
}
