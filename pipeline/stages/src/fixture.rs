//! Events for the unit tests of the stages.

use std::collections::BTreeMap;

use bytes::Bytes;
use headrace_runtime::message::payload::RawDelivery;
use headrace_schemas::catalog;
use headrace_schemas::event::{Actor, Event, Organization, Outcome, RawReference, Repository};
use headrace_schemas::id::EventId;
use headrace_schemas::time::Timestamp;

/// An event as normalize makes it of a body of `kind` and `action` in the repository `acme/app`.
pub(crate) fn event(kind: &str, action: Option<&str>) -> Event {
    let entry = catalog::github(kind).map_or_else(catalog::unknown, |kind| kind.entry(action));
    let at = Timestamp::parse("2026-03-01T12:00:00Z").expect("a time");
    Event {
        id: EventId::github("72d3162e-cc78-11e3-81ab-4c9367dc0958"),
        tenant: "acme".to_owned(),
        source: "github".to_owned(),
        kind: kind.to_owned(),
        action: action.map(str::to_owned),
        audit_action: entry.audit_action.map(str::to_owned),
        category: entry.category,
        outcome: Outcome::Success,
        ocsf_class: entry.ocsf_class,
        occurred_at: at,
        received_at: at,
        event_time: None,
        actor: Some(Actor { id: Some(7), login: "mona".to_owned(), kind: Some("User".to_owned()) }),
        target: None,
        organization: Some(Organization { id: Some(5), login: "acme".to_owned() }),
        repository: Some(Repository {
            id: Some(9),
            full_name: "acme/app".to_owned(),
            visibility: Some("private".to_owned()),
            default_branch: Some("main".to_owned()),
        }),
        changes: Vec::new(),
        attributes: BTreeMap::new(),
        network: None,
        raw: RawReference { sequence: 1, sha256: "00".repeat(32), bytes: 2 },
        enrichment: None,
        assessment: None,
    }
}

/// A body of `source` as it lies in RAW.
pub(crate) fn raw(source: &str, kind: &str, body: impl Into<Vec<u8>>) -> RawDelivery {
    let body = Bytes::from(body.into());
    RawDelivery {
        id: EventId::of_source(source, "1"),
        tenant: "acme".to_owned(),
        source: source.to_owned(),
        event: kind.to_owned(),
        received_at: Timestamp::parse("2026-03-01T12:00:00Z").expect("a time"),
        event_time: Timestamp::parse("2026-03-01T11:59:00Z"),
        headers: Vec::new(),
        sha256: RawDelivery::sha256_of(&body),
        body,
        sequence: 42,
    }
}
