//! [`Alert`]: one finding for people. The Avro source is `avro/alert.avsc`.

use serde::{Deserialize, Serialize};

use crate::event::Severity;
use crate::id::EventId;
use crate::time::Timestamp;

/// What one rule found about an actor and a repository within a window of time, in any number of events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Stable id: the fingerprint and the start of the window. Tickets are keyed by it.
    pub id: String,
    /// Whose alert it is.
    pub tenant: String,
    /// Lower-case hex hash of tenant, rule, actor and repository.
    pub fingerprint: String,
    /// The rule's id.
    pub rule: String,
    /// The rule's title.
    pub title: String,
    /// The rule's level.
    pub severity: Severity,
    /// Highest risk among its events, 0–100.
    pub risk: i32,
    /// Whether this message opens the alert or repeats it.
    pub status: Status,
    /// Events so far.
    pub count: i64,
    /// When its first event was received.
    pub opened_at: Timestamp,
    /// When its latest event was received.
    pub updated_at: Timestamp,
    /// When its window ends. Later events of this fingerprint open a new alert.
    pub window_ends_at: Timestamp,
    /// Login of the actor.
    pub actor: Option<String>,
    /// Login of the organization.
    pub organization: Option<String>,
    /// `owner/name`.
    pub repository: Option<String>,
    /// Who is responsible for the asset.
    pub owner: Option<String>,
    /// MITRE ATT&CK technique ids.
    pub techniques: Vec<String>,
    /// `field=value` pairs that made the first event match.
    pub evidence: Vec<String>,
    /// Why the risk is what it is, one sentence each.
    pub reasons: Vec<String>,
    /// Ids of its first event and of the latest ones, at most [`Alert::EVENTS_MAX`] in all.
    pub events: Vec<EventId>,
}

impl Alert {
    /// How many event ids an alert carries. `count` may be higher.
    pub const EVENTS_MAX: usize = 100;
}

/// Whether a message opens an alert or repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The alert's first message.
    Opened,
    /// More events of the same alert.
    Updated,
}

impl Status {
    /// The word for this value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Updated => "updated",
        }
    }
}
