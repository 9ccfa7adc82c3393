//! The stable id of an event, `<source>:<the source's own id>`, and the keys that are made from it.
//!
//! Everything that must exist once (a row, a ticket, a SIEM event) exists once for a tenant and an id. But GitHub does
//! not sign the id: anybody with a secret can send other bytes under a known one. The hook of a GitHub App and that of
//! an organization do so anyway. So a *delivery* is more than its event: tenant, id, kind and body. When the same
//! delivery comes again, it is a repetition. When another delivery comes under a known id, it is stored too, but is
//! still the same event. The event keeps the content of the first delivery that EVENTS stored.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::time::Timestamp;
use crate::token;

/// 100 ns intervals between the UUID epoch (1582-10-15) and the Unix epoch (RFC 9562, section 5.1).
const UUID_EPOCH_TICKS: u64 = 0x01B2_1DD2_1381_4000;

/// `github:<delivery GUID>` for webhooks. When the same thing is delivered again, it has the same id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(String);

impl EventId {
    /// The id of a GitHub webhook delivery, from its `X-GitHub-Delivery` GUID.
    #[must_use]
    pub fn github(guid: &str) -> Self {
        Self(format!("github:{}", guid.to_ascii_lowercase()))
    }

    /// The id of what the source `source` calls `own`.
    #[must_use]
    pub fn of_source(source: &str, own: &str) -> Self {
        Self(format!("{source}:{own}"))
    }

    /// An id that was read from a header or a record.
    #[must_use]
    pub fn from_stored(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The whole id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The deduplication key of a delivery in RAW. `sha256` is that of the body, in hex. 128 bits of it are enough, and
    /// the broker keeps the keys of its whole duplicate window in memory.
    #[must_use]
    pub fn delivery_key(&self, tenant: &str, kind: &str, sha256: &str) -> String {
        format!("{}/{self}/{}/{}", token::escaped(tenant), token::escaped(kind), sha256.get(..32).unwrap_or(sha256))
    }

    /// The deduplication key of the event in EVENTS, in the hand-over `handover`. All deliveries of the event share it.
    #[must_use]
    pub fn event_key(&self, tenant: &str, handover: &str) -> String {
        format!("{}/{self}/{handover}", token::escaped(tenant))
    }

    /// The name of a body in the bucket `bodies`. No two bodies share a name. Otherwise a body that is sent later could
    /// replace the one that a reference in RAW means.
    #[must_use]
    pub fn body_object(&self, tenant: &str, sha256: &str) -> String {
        format!("{}/{self}/{sha256}", token::escaped(tenant))
    }

    /// When GitHub made this id, if it is one of GitHub's and says so. GitHub's delivery GUIDs are version 1 UUIDs, which
    /// do.
    #[must_use]
    pub fn created_at(&self) -> Option<Timestamp> {
        let guid = self.0.strip_prefix("github:")?;
        // The tables compute the same in SQL, for these two forms alone.
        if !matches!(guid.len(), 32 | 36) {
            return None;
        }
        let uuid = Uuid::try_parse(guid).ok()?;
        if uuid.get_version_num() != 1 {
            return None;
        }
        let (ticks, _) = uuid.get_timestamp()?.to_gregorian();
        let unix_ticks = ticks.checked_sub(UUID_EPOCH_TICKS)?;
        i64::try_from(unix_ticks / 10).ok().map(Timestamp::from_micros)
    }
}

/// Whether the broker's duplicate window may have missed an earlier copy of an event that was received at `received_at`.
///
/// Each copy of an event has the same event time. Let a copy be received no earlier than a quarter of `window` before that
/// time, and stored within a quarter after its reception: a source refuses what is further ahead, and what is stored later
/// is a suspect for that. Then a copy that is received within a quarter after its time is stored within three quarters of
/// `window` of every earlier one, and the broker drops it. The last quarter is for clocks that differ. An event without a
/// time proves nothing: an old copy may always come again.
#[must_use]
pub fn may_repeat(event_time: Option<Timestamp>, received_at: Timestamp, window: Duration) -> bool {
    let near = window / 4;
    event_time.is_none_or(|at| received_at.since(at) >= near || at.since(received_at) >= near)
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_1_guid_tells_its_age() {
        // This GUID is from GitHub's own documentation of webhook deliveries.
        let id = EventId::github("72d3162e-cc78-11e3-81ab-4c9367dc0958");
        assert_eq!(id.created_at().unwrap().to_string(), "2014-04-25T12:52:24.582507Z");
    }

    #[test]
    fn only_a_version_1_guid_of_github_tells_its_age() {
        let none = |id: EventId| assert_eq!(id.created_at(), None, "{id}");
        none(EventId::github("0f8fad5b-d9cb-469f-a165-70867728950e"));
        none(EventId::of_source("ndjson", "72d3162e-cc78-11e3-81ab-4c9367dc0958"));
        none(EventId::github("{72d3162e-cc78-11e3-81ab-4c9367dc0958}"));
    }

    #[test]
    fn only_a_reception_near_the_events_time_is_covered_by_the_window() {
        let at = Timestamp::from_seconds(1_700_000_000);
        let window = Duration::from_secs(240);
        let after = |seconds: i64| Timestamp::from_micros(at.as_micros() + seconds * 1_000_000);
        for (seconds, expected) in [(0, false), (59, false), (60, true), (-59, false), (-60, true)] {
            assert_eq!(may_repeat(Some(at), after(seconds), window), expected, "{seconds}");
        }
        assert!(may_repeat(None, at, window));
    }

    #[test]
    fn keys_tell_tenants_and_bodies_apart() {
        let id = EventId::github("72d3162e-cc78-11e3-81ab-4c9367dc0958");
        let (one, other) = ("ab".repeat(32), "cd".repeat(32));
        let delivery = id.delivery_key("acme", "push", &one);
        assert_eq!(delivery, format!("acme/{id}/push/{}", "ab".repeat(16)));
        for (tenant, kind, sha256) in [("octo", "push", &one), ("acme", "star", &one), ("acme", "push", &other)] {
            assert_ne!(id.delivery_key(tenant, kind, sha256), delivery);
        }
        assert_eq!(id.event_key("acme", "scored"), format!("acme/{id}/scored"));
        assert_ne!(id.event_key("octo", "scored"), id.event_key("acme", "scored"));
        assert_ne!(id.body_object("octo", &one), id.body_object("acme", &one));
        assert_ne!(id.body_object("acme", &other), id.body_object("acme", &one));
        // The tenant comes from the body, and a header must not hold a line break.
        assert_eq!(id.event_key("a\nb/c", "scored"), format!("a_0ab_2fc/{id}/scored"));
    }

    #[test]
    fn letter_case_makes_no_second_event() {
        assert_eq!(
            EventId::github("72D3162E-CC78-11E3-81AB-4C9367DC0958"),
            EventId::github("72d3162e-cc78-11e3-81ab-4c9367dc0958")
        );
    }
}
