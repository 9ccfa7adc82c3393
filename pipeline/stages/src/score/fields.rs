//! [`Fields`]: an [`Event`] under the field names that Sigma rules use.
//!
//! The names are those of GitHub's audit log wherever it has one, so that rules written for the audit log work on
//! webhooks too. `rules/README.md` is the table for people. Values are borrowed: nothing is built unless a rule asks
//! for it, and no JSON is built at all while rules are tried.

use std::borrow::Cow;

use headrace_schemas::event::{Change, Event, Target};
use rsigma_eval::EventValue;
use serde_json::Value;

/// An event as rules see it.
pub(crate) struct Fields<'a> {
    event: &'a Event,
    action: Cow<'a, str>,
}

/// Fields that any event may have, besides its attributes and `changes.<field>.before|after`.
pub(crate) const NAMES: [&str; 38] = [
    "@timestamp",
    "action",
    "actor",
    "actor.kind",
    "actor_id",
    "actor_ip",
    "actor_location.country_code",
    "branch",
    "category",
    "changes.fields",
    "created_at",
    "default_branch",
    "enrichment.assets",
    "enrichment.criticality",
    "enrichment.labels",
    "enrichment.owner",
    "kind",
    "ocsf_class",
    "operation_type",
    "org",
    "org_id",
    "outcome",
    "previous_visibility",
    "public_repo",
    "repo",
    "repo_id",
    "repository",
    "source",
    "target.id",
    "target.kind",
    "target.name",
    "target.url",
    "tenant",
    "user",
    "user_agent",
    "user_id",
    "visibility",
    "webhook.action",
];

/// First segments of all names. The rule index asks for these before it looks fields up. A field whose first segment is
/// missing here is invisible to rules that only test it; a test keeps the lists consistent.
const ROOTS: [&str; 32] = [
    "@timestamp",
    "action",
    "actor",
    "actor_id",
    "actor_ip",
    "actor_location",
    "attributes",
    "branch",
    "category",
    "changes",
    "created_at",
    "default_branch",
    "enrichment",
    "kind",
    "ocsf_class",
    "operation_type",
    "org",
    "org_id",
    "outcome",
    "previous_visibility",
    "public_repo",
    "repo",
    "repo_id",
    "repository",
    "source",
    "target",
    "tenant",
    "user",
    "user_agent",
    "user_id",
    "visibility",
    "webhook",
];

impl<'a> Fields<'a> {
    pub(crate) fn new(event: &'a Event) -> Self {
        let action = match (&event.audit_action, &event.action) {
            (Some(audit_action), _) => Cow::Borrowed(audit_action.as_str()),
            (None, Some(action)) => Cow::Owned(format!("{}.{action}", event.kind)),
            (None, None) => Cow::Borrowed(event.kind.as_str()),
        };
        Self { event, action }
    }

    /// A field of [`NAMES`].
    fn named(&self, name: &str) -> Option<EventValue<'_>> {
        let event = self.event;
        match name {
            "action" => Some(text(&self.action)),
            // The audit log's two times are the same, in milliseconds.
            "@timestamp" | "created_at" => Some(EventValue::Int(event.occurred_at.as_micros() / 1000)),
            "kind" => Some(text(&event.kind)),
            "webhook.action" => optional(event.action.as_deref()),
            "category" => Some(text(event.category.as_str())),
            "outcome" => Some(text(event.outcome.as_str())),
            "tenant" => Some(text(&event.tenant)),
            "source" => Some(text(&event.source)),
            "ocsf_class" => Some(EventValue::Int(event.ocsf_class.into())),
            "operation_type" => optional(event.action.as_deref().and_then(operation)),
            "branch" => optional(event.attributes.get("ref").and_then(|name| name.strip_prefix("refs/heads/"))),
            "changes.fields" => array(event.changes.iter().map(|change| change.field.as_str())),
            _ => self.place(name).or_else(|| self.enrichment(name)),
        }
    }

    /// Who, where and what.
    fn place(&self, name: &str) -> Option<EventValue<'_>> {
        let Event { actor, target, organization, repository, network, .. } = self.event;
        let visibility = || repository.as_ref()?.visibility.as_deref();
        match name {
            "actor" => optional(actor.as_ref().map(|actor| actor.login.as_str())),
            "actor.kind" => optional(actor.as_ref()?.kind.as_deref()),
            "actor_id" => actor.as_ref()?.id.map(EventValue::Int),
            "actor_ip" => optional(network.as_ref()?.ip.as_deref()),
            "actor_location.country_code" => optional(network.as_ref()?.country.as_deref()),
            "user_agent" => optional(network.as_ref()?.user_agent.as_deref()),
            "user" => optional(person(target.as_ref())?.name.as_deref()),
            "user_id" => optional(person(target.as_ref())?.id.as_deref()),
            "org" => optional(organization.as_ref().map(|organization| organization.login.as_str())),
            "org_id" => organization.as_ref()?.id.map(EventValue::Int),
            "repo" | "repository" => optional(repository.as_ref().map(|repository| repository.full_name.as_str())),
            "repo_id" => repository.as_ref()?.id.map(EventValue::Int),
            "visibility" => optional(visibility()),
            "public_repo" => visibility().map(|visibility| EventValue::Bool(visibility == "public")),
            "previous_visibility" => optional(self.change("visibility")?.before.as_deref()),
            "default_branch" => optional(repository.as_ref()?.default_branch.as_deref()),
            "target.kind" => optional(target.as_ref().map(|target| target.kind.as_str())),
            "target.id" => optional(target.as_ref()?.id.as_deref()),
            "target.name" => optional(target.as_ref()?.name.as_deref()),
            "target.url" => optional(target.as_ref()?.url.as_deref()),
            _ => None,
        }
    }

    /// What enrich has added.
    fn enrichment(&self, name: &str) -> Option<EventValue<'_>> {
        let enrichment = self.event.enrichment.as_ref()?;
        match name.strip_prefix("enrichment.")? {
            "assets" => array(enrichment.assets.iter().map(String::as_str)),
            "labels" => array(enrichment.labels.iter().map(String::as_str)),
            "owner" => optional(enrichment.owner.as_deref()),
            "criticality" => optional(enrichment.criticality.map(|criticality| criticality.as_str())),
            _ => None,
        }
    }

    fn change(&self, field: &str) -> Option<&Change> {
        self.event.changes.iter().find(|change| change.field == field)
    }

    /// `changes.<field>.before` and `changes.<field>.after`; the field itself may have dots.
    fn changed(&self, name: &str) -> Option<EventValue<'_>> {
        let (field, side) = name.strip_prefix("changes.")?.rsplit_once('.')?;
        match side {
            "before" => optional(self.change(field)?.before.as_deref()),
            "after" => optional(self.change(field)?.after.as_deref()),
            _ => None,
        }
    }

    fn attribute(&self, name: &str) -> Option<EventValue<'_>> {
        let attributes = &self.event.attributes;
        optional(attributes.get(name.strip_prefix("attributes.").unwrap_or(name)).map(String::as_str))
    }

    /// Every field that the event has, each under one name.
    fn each(&self, visit: &mut dyn FnMut(Cow<'_, str>, EventValue<'_>)) {
        for name in NAMES {
            if let Some(value) = self.named(name) {
                visit(Cow::Borrowed(name), value);
            }
        }
        for (name, value) in &self.event.attributes {
            visit(Cow::Owned(format!("attributes.{name}")), text(value));
        }
        for change in &self.event.changes {
            for (side, value) in [("before", &change.before), ("after", &change.after)] {
                if let Some(value) = value {
                    visit(Cow::Owned(format!("changes.{}.{side}", change.field)), text(value));
                }
            }
        }
    }

    fn each_text(&self, visit: &mut dyn FnMut(&str)) {
        self.each(&mut |_, value| match value {
            EventValue::Str(value) => visit(&value),
            EventValue::Array(values) => values.iter().filter_map(EventValue::as_str).for_each(|value| visit(&value)),
            _ => {}
        });
    }
}

impl rsigma_eval::Event for Fields<'_> {
    fn get_field(&self, name: &str) -> Option<EventValue<'_>> {
        self.named(name).or_else(|| self.changed(name)).or_else(|| self.attribute(name))
    }

    fn any_string_value(&self, holds: &dyn Fn(&str) -> bool) -> bool {
        let mut any = false;
        self.each_text(&mut |value| any = any || holds(value));
        any
    }

    fn all_string_values(&self) -> Vec<Cow<'_, str>> {
        let mut values = Vec::new();
        self.each_text(&mut |value| values.push(Cow::Owned(value.to_owned())));
        values
    }

    fn visit_string_values(&self, visit: &mut dyn FnMut(&str)) {
        self.each_text(visit);
    }

    fn to_json(&self) -> Value {
        let mut object = serde_json::Map::new();
        self.each(&mut |name, value| {
            object.insert(name.into_owned(), value.to_json());
        });
        Value::Object(object)
    }

    fn field_keys(&self) -> Vec<Cow<'_, str>> {
        let mut names = Vec::new();
        self.each(&mut |name, _| names.push(Cow::Owned(name.into_owned())));
        names
    }

    fn top_level_keys(&self) -> Option<Vec<Cow<'_, str>>> {
        let attributes = self.event.attributes.keys().map(String::as_str);
        Some(ROOTS.into_iter().chain(attributes).map(Cow::Borrowed).collect())
    }

    fn visit_top_level_keys(&self, visit: &mut dyn FnMut(&str)) -> bool {
        ROOTS.into_iter().for_each(&mut *visit);
        self.event.attributes.keys().for_each(|name| visit(name));
        true
    }
}

fn text(value: &str) -> EventValue<'_> {
    EventValue::Str(Cow::Borrowed(value))
}

fn optional(value: Option<&str>) -> Option<EventValue<'_>> {
    value.map(text)
}

fn array<'a>(values: impl ExactSizeIterator<Item = &'a str>) -> Option<EventValue<'a>> {
    (values.len() > 0).then(|| EventValue::Array(values.map(text).collect()))
}

/// The target, when it is a person: the audit log's `user`.
fn person(target: Option<&Target>) -> Option<&Target> {
    target.filter(|target| matches!(target.kind.as_str(), "user" | "member"))
}

/// The audit log's `operation_type` for a webhook's action, where the word leaves no doubt.
fn operation(action: &str) -> Option<&'static str> {
    match action {
        "added" | "created" | "member_added" | "opened" | "published" => Some("create"),
        "deleted" | "member_removed" | "removed" | "revoked" => Some("remove"),
        "archived" | "closed" | "disabled" | "edited" | "enabled" | "privatized" | "publicized" | "renamed"
        | "reopened" | "resolved" | "unarchived" | "updated" => Some("modify"),
        "transferred" => Some("transfer"),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
