//! A record of newline-delimited JSON → an [`Event`]. Its names are nobody's standard, so common ones are read, and all
//! other scalars become attributes.
//!
//! Whatever the record, the event is bounded. What is left out of it stays in RAW.

mod attributes;

use headrace_runtime::fault::{DeadReason, Fault};
use headrace_runtime::message::payload::RawDelivery;
use headrace_schemas::catalog;
use headrace_schemas::event::{Actor, Event, Network, Organization, Outcome, RawReference, Repository, Target};
use headrace_schemas::header;

use crate::normalize::document::{Entry, Object, scalar};

/// Makes an event of a record.
///
/// # Errors
/// Poison, when the record stands for a line that can never be read, or is no JSON object.
pub(super) fn normalize(raw: &RawDelivery) -> Result<Event, Fault> {
    let malformed = |problem: String| Fault::poison(DeadReason::Malformed, anyhow::anyhow!(problem));
    if let Some(reason) = raw.header(header::UNREADABLE) {
        return Err(malformed(reason.to_owned()));
    }
    let document = Object::parse(&raw.body).map_err(malformed)?;
    Ok(event(raw, &document))
}

fn event(raw: &RawDelivery, document: &Object<'_>) -> Event {
    let unknown = catalog::unknown();
    Event {
        id: raw.id.clone(),
        tenant: raw.tenant.clone(),
        source: raw.source.clone(),
        kind: raw.event.clone(),
        action: document.text(&["action"]),
        audit_action: unknown.audit_action.map(str::to_owned),
        category: unknown.category,
        outcome: document.text(&["outcome"]).map_or(Outcome::Unknown, |word| outcome(&word)),
        ocsf_class: unknown.ocsf_class,
        occurred_at: raw.event_time.unwrap_or(raw.received_at),
        received_at: raw.received_at,
        event_time: raw.event_time,
        actor: document.entry("actor").and_then(actor),
        target: document.entry("target").and_then(target),
        organization: either(document, ["organization", "org"], organization),
        repository: either(document, ["repository", "repo"], repository),
        changes: Vec::new(),
        attributes: attributes::attributes(document),
        network: network(document),
        raw: RawReference {
            sequence: i64::try_from(raw.sequence).unwrap_or(i64::MAX),
            sha256: raw.sha256.clone(),
            bytes: i64::try_from(raw.body.len()).unwrap_or(i64::MAX),
        },
        enrichment: None,
        assessment: None,
    }
}

/// What `read` finds under the first of `keys` that gives anything.
fn either<T>(document: &Object<'_>, keys: [&str; 2], read: fn(&Entry<'_>) -> Option<T>) -> Option<T> {
    keys.into_iter().find_map(|key| read(document.entry(key)?))
}

/// The first text at one of `keys` that is not empty.
fn first(node: &Object<'_>, keys: &[&str]) -> Option<String> {
    keys.iter().filter_map(|key| node.text(&[key])).find(|text| !text.is_empty())
}

/// A thing that is told by its name alone.
fn name(entry: &Entry<'_>) -> Option<String> {
    scalar(entry.value()).filter(|text| !text.is_empty())
}

fn actor(entry: &Entry<'_>) -> Option<Actor> {
    let Some(node) = entry.object() else { return Some(Actor { id: None, login: name(entry)?, kind: None }) };
    let login = first(node, &["login", "name", "id"])?;
    Some(Actor { id: node.integer(&["id"]), login, kind: node.text(&["type"]) })
}

fn target(entry: &Entry<'_>) -> Option<Target> {
    let unknown = || catalog::unknown().target_kind.to_owned();
    let Some(node) = entry.object() else {
        return Some(Target { kind: unknown(), id: None, name: Some(name(entry)?), url: None });
    };
    let (id, name) = (first(node, &["id"]), first(node, &["login", "name"]));
    if id.is_none() && name.is_none() {
        return None;
    }
    Some(Target { kind: first(node, &["type"]).unwrap_or_else(unknown), id, name, url: first(node, &["url"]) })
}

fn organization(entry: &Entry<'_>) -> Option<Organization> {
    let Some(node) = entry.object() else { return Some(Organization { id: None, login: name(entry)? }) };
    Some(Organization { id: node.integer(&["id"]), login: first(node, &["login", "name", "id"])? })
}

fn repository(entry: &Entry<'_>) -> Option<Repository> {
    let Some(node) = entry.object() else {
        return Some(Repository { id: None, full_name: name(entry)?, visibility: None, default_branch: None });
    };
    Some(Repository {
        id: node.integer(&["id"]),
        full_name: first(node, &["full_name", "name", "id"])?,
        visibility: node.text(&["visibility"]),
        default_branch: node.text(&["default_branch"]),
    })
}

fn network(document: &Object<'_>) -> Option<Network> {
    let network = Network {
        ip: first(document, &["actor_ip", "ip"]),
        country: first(document, &["country"]),
        user_agent: first(document, &["user_agent"]),
    };
    let is_known = network.ip.is_some() || network.country.is_some() || network.user_agent.is_some();
    is_known.then_some(network)
}

fn outcome(word: &str) -> Outcome {
    match word.to_ascii_lowercase().as_str() {
        "success" | "succeeded" | "successful" | "ok" | "allowed" | "allow" | "passed" => Outcome::Success,
        "failure" | "failed" | "fail" | "error" | "denied" | "deny" | "blocked" => Outcome::Failure,
        _ => Outcome::Unknown,
    }
}

#[cfg(test)]
mod tests;
