//! Rows: the event model laid flat, borrowed from the items.

use clickhouse::Row;
use headrace_runtime::component::batch::Item;
use headrace_runtime::message::payload::{Content, Identity, RawDelivery};
use headrace_schemas::event::{Event, RuleMatch};
use serde::Serialize;

use super::columns;
use super::insert::Rows;

/// A row of `events`; the columns are described in `migrations/0001_events.sql`.
#[derive(Row, Serialize)]
pub(crate) struct EventRow<'a> {
    id: &'a str,
    tenant: &'a str,
    source: &'a str,
    kind: &'a str,
    action: &'a str,
    audit_action: &'a str,
    category: &'a str,
    outcome: &'a str,
    ocsf_class: u32,
    occurred_at: i64,
    received_at: i64,
    actor_id: i64,
    actor: &'a str,
    actor_kind: &'a str,
    target_kind: &'a str,
    target_id: &'a str,
    target_name: &'a str,
    target_url: &'a str,
    organization_id: i64,
    organization: &'a str,
    repository_id: i64,
    repository: &'a str,
    visibility: &'a str,
    #[serde(rename = "changes.field")]
    changes_field: Vec<&'a str>,
    #[serde(rename = "changes.before")]
    changes_before: Vec<&'a str>,
    #[serde(rename = "changes.after")]
    changes_after: Vec<&'a str>,
    attributes: Vec<(&'a str, &'a str)>,
    ip: &'a str,
    country: &'a str,
    user_agent: &'a str,
    raw_sequence: u64,
    raw_sha256: &'a str,
    raw_bytes: u64,
    assets: Vec<&'a str>,
    asset_owner: &'a str,
    asset_criticality: &'a str,
    asset_labels: Vec<&'a str>,
    risk: u8,
    severity: &'a str,
    rules: Vec<&'a str>,
    rule_titles: Vec<&'a str>,
    techniques: Vec<&'a str>,
    controls: Vec<&'a str>,
    evidence: Vec<&'a str>,
    #[serde(rename = "reasons.code")]
    reasons_code: Vec<&'a str>,
    #[serde(rename = "reasons.points")]
    reasons_points: Vec<i32>,
    #[serde(rename = "reasons.text")]
    reasons_text: Vec<&'a str>,
    valid_until: i64,
}

impl Rows for Event {
    type Row = EventRow<'static>;

    const COLUMNS: &[(&str, &str)] = columns::EVENTS;
    const IDENTITY: &str = "tenant, id";
    const CONTENT: [&str; 2] = ["kind", "raw_sha256"];

    fn content(&self) -> Content<&str> {
        Content { kind: &self.kind, sha256: &self.raw.sha256 }
    }

    fn identity_of(delivery: Identity<&str>) -> Identity<&str> {
        Identity { content: Content::default(), ..delivery }
    }

    fn row(item: &Item<Self>, valid_until: i64) -> EventRow<'_> {
        let event = &item.value;
        let (actor, target) = (event.actor.as_ref(), event.target.as_ref());
        let (organization, repository) = (event.organization.as_ref(), event.repository.as_ref());
        let (network, enrichment) = (event.network.as_ref(), event.enrichment.as_ref());
        let assessment = event.assessment.as_ref();
        let matches = assessment.map_or(&[][..], |assessment| &assessment.matches);
        let reasons = assessment.map_or(&[][..], |assessment| &assessment.reasons);
        EventRow {
            id: event.id.as_str(),
            tenant: &event.tenant,
            source: &event.source,
            kind: &event.kind,
            action: text(event.action.as_ref()),
            audit_action: text(event.audit_action.as_ref()),
            category: event.category.as_str(),
            outcome: event.outcome.as_str(),
            ocsf_class: u32::try_from(event.ocsf_class).unwrap_or_default(),
            occurred_at: event.occurred_at.as_micros(),
            received_at: event.received_at.as_micros(),
            actor_id: actor.and_then(|actor| actor.id).unwrap_or_default(),
            actor: actor.map_or("", |actor| &actor.login),
            actor_kind: text(actor.and_then(|actor| actor.kind.as_ref())),
            target_kind: target.map_or("", |target| &target.kind),
            target_id: text(target.and_then(|target| target.id.as_ref())),
            target_name: text(target.and_then(|target| target.name.as_ref())),
            target_url: text(target.and_then(|target| target.url.as_ref())),
            organization_id: organization.and_then(|organization| organization.id).unwrap_or_default(),
            organization: organization.map_or("", |organization| &organization.login),
            repository_id: repository.and_then(|repository| repository.id).unwrap_or_default(),
            repository: repository.map_or("", |repository| &repository.full_name),
            visibility: text(repository.and_then(|repository| repository.visibility.as_ref())),
            changes_field: event.changes.iter().map(|change| change.field.as_str()).collect(),
            changes_before: event.changes.iter().map(|change| text(change.before.as_ref())).collect(),
            changes_after: event.changes.iter().map(|change| text(change.after.as_ref())).collect(),
            attributes: event.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
            ip: text(network.and_then(|network| network.ip.as_ref())),
            country: text(network.and_then(|network| network.country.as_ref())),
            user_agent: text(network.and_then(|network| network.user_agent.as_ref())),
            raw_sequence: u64::try_from(event.raw.sequence).unwrap_or_default(),
            raw_sha256: &event.raw.sha256,
            raw_bytes: u64::try_from(event.raw.bytes).unwrap_or_default(),
            assets: enrichment.map_or_else(Vec::new, |enrichment| texts(&enrichment.assets)),
            asset_owner: text(enrichment.and_then(|enrichment| enrichment.owner.as_ref())),
            asset_criticality: enrichment
                .and_then(|enrichment| enrichment.criticality)
                .map_or("", headrace_schemas::event::Criticality::as_str),
            asset_labels: enrichment.map_or_else(Vec::new, |enrichment| texts(&enrichment.labels)),
            risk: assessment.and_then(|assessment| u8::try_from(assessment.risk).ok()).unwrap_or_default(),
            severity: event.severity().as_str(),
            rules: matches.iter().map(|found| found.rule.as_str()).collect(),
            rule_titles: matches.iter().map(|found| found.title.as_str()).collect(),
            techniques: gather(matches, |found| &found.techniques),
            controls: gather(matches, |found| &found.controls),
            evidence: gather(matches, |found| &found.evidence),
            reasons_code: reasons.iter().map(|reason| reason.code.as_str()).collect(),
            reasons_points: reasons.iter().map(|reason| reason.points).collect(),
            reasons_text: reasons.iter().map(|reason| reason.text.as_str()).collect(),
            valid_until,
        }
    }
}

/// A row of `raw`; the columns are described in `migrations/0002_raw.sql` and `0004_raw_sha256.sql`.
#[derive(Row, Serialize)]
pub(crate) struct RawRow<'a> {
    id: &'a str,
    tenant: &'a str,
    source: &'a str,
    event: &'a str,
    received_at: i64,
    sequence: u64,
    headers: Vec<(&'a str, &'a str)>,
    #[serde(with = "serde_bytes")]
    body: &'a [u8],
    sha256: &'a str,
    valid_until: i64,
}

impl Rows for RawDelivery {
    type Row = RawRow<'static>;

    const COLUMNS: &[(&str, &str)] = columns::RAW;
    const IDENTITY: &str = "tenant, id, event, sha256";
    const CONTENT: [&str; 2] = ["event", "sha256"];

    fn content(&self) -> Content<&str> {
        Self::content(self)
    }

    fn identity_of(delivery: Identity<&str>) -> Identity<&str> {
        delivery
    }

    fn row(item: &Item<Self>, valid_until: i64) -> RawRow<'_> {
        let raw = &item.value;
        RawRow {
            id: raw.id.as_str(),
            tenant: &raw.tenant,
            source: &raw.source,
            event: &raw.event,
            received_at: raw.received_at.as_micros(),
            sequence: raw.sequence,
            headers: raw.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
            body: &raw.body,
            sha256: &raw.sha256,
            valid_until,
        }
    }
}

fn text(optional: Option<&String>) -> &str {
    optional.map_or("", String::as_str)
}

fn texts(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

/// The texts of several matches, each once, in their order.
fn gather(matches: &[RuleMatch], part: impl Fn(&RuleMatch) -> &Vec<String>) -> Vec<&str> {
    let mut all: Vec<&str> = Vec::new();
    for text in matches.iter().flat_map(part) {
        if !all.contains(&text.as_str()) {
            all.push(text);
        }
    }
    all
}
