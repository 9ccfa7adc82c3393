//! Rows: the event model laid flat, borrowed from the items.

use clickhouse::Row;
use headrace_runtime::component::batch::Item;
use headrace_runtime::message::payload::{Content, Payload as _, RawDelivery};
use headrace_schemas::event::{Event, RuleMatch};
use serde::Serialize;

use super::columns;
use super::insert::{Rows, Stamp};
use super::lookup::Earlier;
use crate::clickhouse::place::{content_of, key_of, time_of};
use crate::clickhouse::told::{self, Told};

/// A row of `events`; the columns are described in `migrations/0010_events.sql`. `read/event.rs` makes the event of it
/// again.
#[derive(Row, Serialize)]
pub(crate) struct EventRow<'a> {
    id: &'a str,
    key: u64,
    content: u64,
    tenant: &'a str,
    source: &'a str,
    kind: &'a str,
    action: &'a str,
    audit_action: &'a str,
    category: &'a str,
    outcome: &'a str,
    ocsf_class: u32,
    event_time: i64,
    occurred_at: i64,
    received_at: i64,
    stored_at: i64,
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
    default_branch: &'a str,
    #[serde(rename = "changes.field")]
    changes_field: Vec<&'a str>,
    #[serde(rename = "changes.before")]
    changes_before: Vec<&'a str>,
    #[serde(rename = "changes.after")]
    changes_after: Vec<&'a str>,
    #[serde(rename = "changes.told")]
    changes_told: Vec<u8>,
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
    matches: String,
    told: u32,
    held_until: i64,
}

impl Rows for Event {
    type Row = EventRow<'static>;

    const COLUMNS: &[(&str, &str)] = columns::EVENTS;
    const TABLE: &str = "events";
    const CONTENT: [&str; 2] = ["content", "toUInt64(0)"];
    const HOLDS_CONTENTS: bool = false;
    const STORED_AT: &str = "stored_at";
    const EARLIER: Earlier = Earlier { table: "events_1", kind: "kind", sha256: "raw_sha256" };

    fn content(&self) -> Content<&str> {
        Content { kind: &self.kind, sha256: &self.raw.sha256 }
    }

    fn content_columns(content: Content<&str>) -> [u64; 2] {
        let [first, _] = content_of(content);
        [first, 0]
    }

    fn row(Item { value: event, .. }: &Item<Self>, Stamp { held_until, stored_at }: Stamp) -> EventRow<'_> {
        let [content, _] = Self::content_columns(Rows::content(event));
        let (actor, target) = (event.actor.as_ref(), event.target.as_ref());
        let (organization, repository) = (event.organization.as_ref(), event.repository.as_ref());
        let (network, enrichment) = (event.network.as_ref(), event.enrichment.as_ref());
        let assessment = event.assessment.as_ref();
        let matches = assessment.map_or(&[][..], |assessment| &assessment.matches);
        let reasons = assessment.map_or(&[][..], |assessment| &assessment.reasons);
        EventRow {
            id: event.id.as_str(),
            key: key_of(event.id.as_str()),
            content,
            tenant: &event.tenant,
            source: &event.source,
            kind: &event.kind,
            action: text(event.action.as_ref()),
            audit_action: text(event.audit_action.as_ref()),
            category: event.category.as_str(),
            outcome: event.outcome.as_str(),
            ocsf_class: u32::try_from(event.ocsf_class).unwrap_or_default(),
            event_time: time_of(event.event_time()),
            occurred_at: event.occurred_at.as_micros(),
            received_at: event.received_at.as_micros(),
            stored_at: stored_at.as_micros(),
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
            default_branch: text(repository.and_then(|repository| repository.default_branch.as_ref())),
            changes_field: event.changes.iter().map(|change| change.field.as_str()).collect(),
            changes_before: event.changes.iter().map(|change| text(change.before.as_ref())).collect(),
            changes_after: event.changes.iter().map(|change| text(change.after.as_ref())).collect(),
            changes_told: event.changes.iter().map(told::of_change).collect(),
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
            matches: json(matches),
            told: Told::of(event).bits(),
            held_until,
        }
    }
}

/// A row of `raw`; the columns are described in `migrations/0011_raw.sql`.
#[derive(Row, Serialize)]
pub(crate) struct RawRow<'a> {
    id: &'a str,
    key: u64,
    tenant: &'a str,
    source: &'a str,
    event: &'a str,
    event_time: i64,
    received_at: i64,
    sequence: u64,
    headers: Vec<(&'a str, &'a str)>,
    #[serde(with = "serde_bytes")]
    body: &'a [u8],
    sha256: &'a str,
    content_1: u64,
    content_2: u64,
    held_until: i64,
}

impl Rows for RawDelivery {
    type Row = RawRow<'static>;

    const COLUMNS: &[(&str, &str)] = columns::RAW;
    const TABLE: &str = "raw";
    const CONTENT: [&str; 2] = ["content_1", "content_2"];
    const HOLDS_CONTENTS: bool = true;
    const STORED_AT: &str = "toDateTime64(0, 6, 'UTC')";
    const EARLIER: Earlier = Earlier { table: "raw_1", kind: "event", sha256: "sha256" };

    fn content(&self) -> Content<&str> {
        Self::content(self)
    }

    fn content_columns(content: Content<&str>) -> [u64; 2] {
        content_of(content)
    }

    fn row(item: &Item<Self>, Stamp { held_until, .. }: Stamp) -> RawRow<'_> {
        let raw = &item.value;
        let [content_1, content_2] = content_of(raw.content());
        RawRow {
            id: raw.id.as_str(),
            key: key_of(raw.id.as_str()),
            tenant: &raw.tenant,
            source: &raw.source,
            event: &raw.event,
            event_time: time_of(raw.event_time()),
            received_at: raw.received_at.as_micros(),
            sequence: raw.sequence,
            headers: raw.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
            body: &raw.body,
            sha256: &raw.sha256,
            content_1,
            content_2,
            held_until,
        }
    }
}

fn text(optional: Option<&String>) -> &str {
    optional.map_or("", String::as_str)
}

/// The matches as text. Most events have none.
fn json(matches: &[RuleMatch]) -> String {
    if matches.is_empty() {
        return String::new();
    }
    serde_json::to_string(matches).expect("matches are texts and lists of texts")
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
