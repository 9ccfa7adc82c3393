//! A GitHub body → an [`Event`], by the catalog. No event is refused for being of an unknown kind.
//!
//! It reads only what the event needs. The rest of the body is skipped, not parsed.

mod changes;

use std::collections::BTreeMap;
use std::time::Duration;

use headrace_runtime::fault::{DeadReason, Fault};
use headrace_runtime::message::payload::RawDelivery;
use headrace_schemas::catalog::{self, Attribute, Entry};
use headrace_schemas::event::{Actor, Event, Organization, Outcome, RawReference, Repository, Target};
use headrace_schemas::header;
use headrace_schemas::time::Timestamp;

use super::document::Object;

/// A time in a body counts as the event's time only when it is at most this much older than the reception. GitHub
/// redelivers for three days, and `updated_at` of an untouched thing may be years old.
const OCCURRED_BEFORE_MAX: Duration = Duration::from_secs(4 * 24 * 3_600);
/// How far GitHub's clock may be ahead of ours.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(300);

/// Makes an event of a body.
///
/// # Errors
/// Poison, when the body is no JSON object or no form with one.
pub(super) fn normalize(raw: &RawDelivery) -> Result<Event, Fault> {
    let malformed = |problem: String| Fault::poison(DeadReason::Malformed, anyhow::anyhow!(problem));
    let is_form = raw.header(header::CONTENT_TYPE).is_some_and(is_form);
    let form_payload;
    let json: &[u8] = if is_form {
        let payload = form_urlencoded::parse(&raw.body).find(|(name, _)| name == "payload").map(|(_, value)| value);
        form_payload =
            payload.ok_or_else(|| malformed("expected a form with the field `payload`, found none".to_owned()))?;
        form_payload.as_bytes()
    } else {
        &raw.body
    };
    let document = Object::parse(json).map_err(malformed)?;
    Ok(event(raw, &document))
}

/// Media types ignore letter case, and parameters may follow (RFC 9110, section 8.3.1).
fn is_form(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

fn event(raw: &RawDelivery, document: &Object<'_>) -> Event {
    let action = document.text(&["action"]);
    let kind = catalog::github(&raw.event);
    let entry = kind.map_or_else(catalog::unknown, |kind| kind.entry(action.as_deref()));
    let target_node = entry.target.iter().find_map(|path| document.object(path));
    Event {
        id: raw.id.clone(),
        tenant: raw.tenant.clone(),
        source: raw.source.clone(),
        kind: raw.event.clone(),
        audit_action: entry.audit_action.map(str::to_owned),
        category: entry.category,
        outcome: outcome(entry, document),
        ocsf_class: entry.ocsf_class,
        occurred_at: occurred_at(raw.received_at, document, target_node),
        received_at: raw.received_at,
        event_time: raw.event_time,
        actor: actor(document),
        target: target_node.map(|node| target(entry, node)),
        organization: document
            .object(&["organization"])
            .and_then(|node| Some(Organization { id: node.integer(&["id"]), login: node.text(&["login"])? })),
        repository: document.object(&["repository"]).and_then(|node| repository(node)),
        changes: changes::changes(document, target_node),
        attributes: attributes(kind.map_or(&[], |kind| &kind.attributes), document),
        network: None,
        raw: RawReference {
            sequence: i64::try_from(raw.sequence).unwrap_or(i64::MAX),
            sha256: raw.sha256.clone(),
            bytes: i64::try_from(raw.body.len()).unwrap_or(i64::MAX),
        },
        enrichment: None,
        assessment: None,
        action,
    }
}

fn actor(document: &Object<'_>) -> Option<Actor> {
    let sender = document.object(&["sender"]).and_then(|node| {
        Some(Actor { id: node.integer(&["id"]), login: node.text(&["login"])?, kind: node.text(&["type"]) })
    });
    // Pushes by deploy keys have no sender.
    sender.or_else(|| Some(Actor { id: None, login: document.text(&["pusher", "name"])?, kind: None }))
}

fn repository(node: &Object<'_>) -> Option<Repository> {
    let visibility = node.text(&["visibility"]).or_else(|| {
        // Servers before GHES 3.3 send `private` alone.
        node.boolean(&["private"]).map(|private| if private { "private" } else { "public" }.to_owned())
    });
    Some(Repository {
        id: node.integer(&["id"]),
        full_name: node.text(&["full_name"])?,
        visibility,
        default_branch: node.text(&["default_branch"]),
    })
}

fn target(entry: &Entry, node: &Object<'_>) -> Target {
    let first = |paths: &[&[&str]]| paths.iter().find_map(|path| node.text(path)).filter(|text| !text.is_empty());
    Target {
        kind: entry.target_kind.to_owned(),
        id: first(&[&["id"], &["node_id"], &["ghsa_id"], &["number"]]),
        name: first(entry.target_name),
        url: first(&[&["html_url"], &["url"]]),
    }
}

fn outcome(entry: &Entry, document: &Object<'_>) -> Outcome {
    let Some(path) = entry.outcome else { return Outcome::Success };
    match document.text(path).as_deref() {
        Some("success" | "neutral" | "skipped" | "built" | "approved" | "active" | "inactive") => Outcome::Success,
        Some(
            "failure" | "error" | "errored" | "cancelled" | "timed_out" | "action_required" | "startup_failure"
            | "stale" | "rejected",
        ) => Outcome::Failure,
        _ => Outcome::Unknown,
    }
}

fn occurred_at(received_at: Timestamp, document: &Object<'_>, target: Option<&Object<'_>>) -> Timestamp {
    const IN_TARGET: [&str; 7] =
        ["updated_at", "created_at", "completed_at", "submitted_at", "published_at", "started_at", "dismissed_at"];
    let in_target = target.into_iter().flat_map(|node| IN_TARGET.iter().filter_map(|key| node.text(&[key])));
    let elsewhere = [&["starred_at"][..], &["head_commit", "timestamp"], &["updated_at"]];
    let elsewhere = elsewhere.iter().filter_map(|path| document.text(path));
    let plausible =
        |at: &Timestamp| received_at.since(*at) <= OCCURRED_BEFORE_MAX && at.since(received_at) <= CLOCK_SKEW_MAX;
    in_target.chain(elsewhere).filter_map(|text| Timestamp::parse(&text)).filter(plausible).max().unwrap_or(received_at)
}

fn attributes(wanted: &[Attribute], document: &Object<'_>) -> BTreeMap<String, String> {
    let found = |attribute: &Attribute| Some((attribute.name.to_owned(), document.text(attribute.path)?));
    wanted.iter().filter_map(found).collect()
}

#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod tests;
