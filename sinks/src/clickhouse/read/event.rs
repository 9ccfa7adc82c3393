//! Makes events of the rows of `events` again: the very ones, as the sink was given them.
//!
//! Three things come back otherwise, and no source gives them. A time of another source than GitHub that is not between 1970
//! and 2100 comes back as 1970. A risk beyond 0 to 100 and sizes below 0 come back as 0. Of rows of an earlier release, an
//! empty text is none, and all that the rules say belongs to the first of them.

use clickhouse::{Client, Row};
use headrace_runtime::aside::history::Order;
use headrace_runtime::fault::Fault;
use headrace_schemas::event::{
    Actor, Assessment, Category, Change, Criticality, Enrichment, Event, Network, Organization, Outcome, RawReference,
    Reason, Repository, RuleMatch, Severity, Target,
};
use headrace_schemas::id::EventId;
use headrace_schemas::time::Timestamp;
use serde::Deserialize;

use crate::clickhouse::classify::fault;
use crate::clickhouse::told::{self, Part, Told};

/// The table `events` as a record of what was scored.
pub struct EventTable {
    pub(super) client: Client,
}

impl EventTable {
    pub(crate) const fn new(client: Client) -> Self {
        Self { client }
    }

    /// The rows whose messages the broker stored from `from` on and before `to`, in this order. They are all in memory at
    /// once: choose times that are near each other.
    ///
    /// # Errors
    /// Transient when the server is away, broken when a person must act.
    pub async fn stored_between(&self, from: Timestamp, to: Timestamp) -> Result<Vec<StoredEvent>, Fault> {
        let query = self
            .client
            .query(
                "SELECT ?fields FROM events WHERE events.stored_at >= fromUnixTimestamp64Micro(?) \
                 AND events.stored_at < fromUnixTimestamp64Micro(?) ORDER BY stored_at, tenant, id",
            )
            .bind(from.as_micros())
            .bind(to.as_micros());
        query.fetch_all().await.map_err(|error| fault(error).fault)
    }
}

/// A row of `events`. Its columns can be selected with `?fields`.
#[derive(Clone, Debug, Row, Deserialize)]
pub struct StoredEvent {
    id: String,
    tenant: String,
    source: String,
    kind: String,
    action: String,
    audit_action: String,
    category: String,
    outcome: String,
    ocsf_class: u32,
    event_time: i64,
    occurred_at: i64,
    received_at: i64,
    stored_at: i64,
    actor_id: i64,
    actor: String,
    actor_kind: String,
    target_kind: String,
    target_id: String,
    target_name: String,
    target_url: String,
    organization_id: i64,
    organization: String,
    repository_id: i64,
    repository: String,
    visibility: String,
    default_branch: String,
    #[serde(rename = "changes.field")]
    changes_field: Vec<String>,
    #[serde(rename = "changes.before")]
    changes_before: Vec<String>,
    #[serde(rename = "changes.after")]
    changes_after: Vec<String>,
    #[serde(rename = "changes.told")]
    changes_told: Vec<u8>,
    attributes: Vec<(String, String)>,
    ip: String,
    country: String,
    user_agent: String,
    raw_sequence: u64,
    raw_sha256: String,
    raw_bytes: u64,
    assets: Vec<String>,
    asset_owner: String,
    asset_criticality: String,
    asset_labels: Vec<String>,
    risk: u8,
    severity: String,
    rules: Vec<String>,
    rule_titles: Vec<String>,
    techniques: Vec<String>,
    controls: Vec<String>,
    evidence: Vec<String>,
    #[serde(rename = "reasons.code")]
    reasons_code: Vec<String>,
    #[serde(rename = "reasons.points")]
    reasons_points: Vec<i32>,
    #[serde(rename = "reasons.text")]
    reasons_text: Vec<String>,
    matches: String,
    told: u32,
}

impl StoredEvent {
    /// When the broker stored the event's message in EVENTS. Zero in rows that were not made from there.
    #[must_use]
    pub const fn stored_at(&self) -> Timestamp {
        Timestamp::from_micros(self.stored_at)
    }

    /// The time by which a slice of the table has the row: when EVENTS stored its event, or, for a row that was not made from
    /// there, when its delivery was received.
    pub(super) const fn moment(&self) -> Timestamp {
        Timestamp::from_micros(if self.stored_at == 0 { self.received_at } else { self.stored_at })
    }

    /// The row's place among those of its moment.
    pub(super) fn order(&self) -> Order {
        let event_time = Timestamp::from_micros(self.event_time);
        Order { tenant: self.tenant.clone(), id: self.id.clone(), event_time }
    }

    /// The event that the row was made of.
    ///
    /// # Errors
    /// When a column holds what no release wrote.
    pub fn into_event(self) -> anyhow::Result<Event> {
        let told = Told::of_column(self.told);
        let (event_time, changes) = (self.event_time(told), self.changes(told));
        let assessment = self.assessment(told)?;
        let (network, enrichment) = (self.network(told), self.enrichment(told)?);
        let text = |part, text: String| told.has(part, !text.is_empty()).then_some(text);
        let number = |part, number: i64| told.has(part, number != 0).then_some(number);
        let actor = told.has(Part::Actor, !self.actor.is_empty()).then(|| Actor {
            id: number(Part::ActorId, self.actor_id),
            login: self.actor,
            kind: text(Part::ActorKind, self.actor_kind),
        });
        let target = told.has(Part::Target, !self.target_kind.is_empty()).then(|| Target {
            kind: self.target_kind,
            id: text(Part::TargetId, self.target_id),
            name: text(Part::TargetName, self.target_name),
            url: text(Part::TargetUrl, self.target_url),
        });
        let organization = told
            .has(Part::Organization, !self.organization.is_empty())
            .then(|| Organization { id: number(Part::OrganizationId, self.organization_id), login: self.organization });
        let repository = told.has(Part::Repository, !self.repository.is_empty()).then(|| Repository {
            id: number(Part::RepositoryId, self.repository_id),
            full_name: self.repository,
            visibility: text(Part::Visibility, self.visibility),
            default_branch: text(Part::DefaultBranch, self.default_branch),
        });
        Ok(Event {
            id: EventId::from_stored(self.id),
            tenant: self.tenant,
            source: self.source,
            kind: self.kind,
            action: text(Part::Action, self.action),
            audit_action: text(Part::AuditAction, self.audit_action),
            category: word("category", &self.category, Category::from_word)?,
            outcome: word("outcome", &self.outcome, Outcome::from_word)?,
            ocsf_class: i32::try_from(self.ocsf_class).unwrap_or_default(),
            occurred_at: Timestamp::from_micros(self.occurred_at),
            received_at: Timestamp::from_micros(self.received_at),
            event_time,
            actor,
            target,
            organization,
            repository,
            changes,
            attributes: self.attributes.into_iter().collect(),
            network,
            raw: RawReference {
                sequence: i64::try_from(self.raw_sequence).unwrap_or_default(),
                sha256: self.raw_sha256,
                bytes: i64::try_from(self.raw_bytes).unwrap_or_default(),
            },
            enrichment,
            assessment,
        })
    }

    /// A GUID may tell a time that the column cannot hold.
    fn event_time(&self, told: Told) -> Option<Timestamp> {
        let at = Timestamp::from_micros(self.event_time);
        let at = match self.event_time {
            0 => EventId::from_stored(self.id.as_str()).created_at().unwrap_or(at),
            _ => at,
        };
        told.has(Part::EventTime, self.event_time != 0).then_some(at)
    }

    fn changes(&self, told: Told) -> Vec<Change> {
        let change = |(position, field): (usize, &String)| {
            let given = self.changes_told.get(position).copied().unwrap_or_default();
            let value = |bit: u8, values: &[String]| {
                let value = values.get(position).cloned().unwrap_or_default();
                let is_given = if told.has(Part::Parts, false) { given & bit != 0 } else { !value.is_empty() };
                is_given.then_some(value)
            };
            Change {
                field: field.clone(),
                before: value(told::BEFORE, &self.changes_before),
                after: value(told::AFTER, &self.changes_after),
            }
        };
        self.changes_field.iter().enumerate().map(change).collect()
    }

    fn network(&self, told: Told) -> Option<Network> {
        let text = |part, text: &String| told.has(part, !text.is_empty()).then(|| text.clone());
        let is_filled = [&self.ip, &self.country, &self.user_agent].iter().any(|text| !text.is_empty());
        told.has(Part::Network, is_filled).then(|| Network {
            ip: text(Part::Ip, &self.ip),
            country: text(Part::Country, &self.country),
            user_agent: text(Part::UserAgent, &self.user_agent),
        })
    }

    fn enrichment(&self, told: Told) -> anyhow::Result<Option<Enrichment>> {
        if !told.has(Part::Enrichment, !self.assets.is_empty()) {
            return Ok(None);
        }
        let criticality = told
            .has(Part::Criticality, !self.asset_criticality.is_empty())
            .then(|| word("asset_criticality", &self.asset_criticality, Criticality::from_word));
        Ok(Some(Enrichment {
            assets: self.assets.clone(),
            owner: told.has(Part::Owner, !self.asset_owner.is_empty()).then(|| self.asset_owner.clone()),
            criticality: criticality.transpose()?,
            labels: self.asset_labels.clone(),
        }))
    }

    fn assessment(&self, told: Told) -> anyhow::Result<Option<Assessment>> {
        let is_filled = self.risk > 0 || !self.rules.is_empty() || !self.reasons_code.is_empty();
        if !told.has(Part::Assessment, is_filled) {
            return Ok(None);
        }
        let severity = word("severity", &self.severity, Severity::from_word)?;
        let reasons = self.reasons_code.iter().zip(&self.reasons_points).zip(&self.reasons_text);
        let reason = |((code, &points), text): ((&String, &i32), &String)| Reason {
            code: code.clone(),
            points,
            text: text.clone(),
        };
        Ok(Some(Assessment {
            risk: i32::from(self.risk),
            severity,
            matches: self.matches(told, severity)?,
            reasons: reasons.map(reason).collect(),
        }))
    }

    fn matches(&self, told: Told, severity: Severity) -> anyhow::Result<Vec<RuleMatch>> {
        if told.has(Part::Parts, false) {
            if self.matches.is_empty() {
                return Ok(Vec::new());
            }
            return serde_json::from_str(&self.matches).map_err(|error| {
                anyhow::anyhow!(
                    "expected the rules that matched as JSON in the column `matches` of {}: {error}",
                    self.id
                )
            });
        }
        let of_first = |position: usize, texts: &[String]| if position == 0 { texts.to_vec() } else { Vec::new() };
        let matches = self.rules.iter().zip(&self.rule_titles).enumerate().map(|(position, (rule, title))| RuleMatch {
            rule: rule.clone(),
            title: title.clone(),
            severity,
            techniques: of_first(position, &self.techniques),
            controls: of_first(position, &self.controls),
            evidence: of_first(position, &self.evidence),
        });
        Ok(matches.collect())
    }
}

/// The value that a column names.
fn word<W>(column: &str, found: &str, from_word: impl Fn(&str) -> Option<W>) -> anyhow::Result<W> {
    from_word(found)
        .ok_or_else(|| anyhow::anyhow!("expected a word of this release in the column `{column}`, found `{found}`"))
}

#[cfg(test)]
mod tests;
