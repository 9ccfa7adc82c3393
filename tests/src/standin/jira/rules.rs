//! What Jira refuses in a ticket and in a search. `jira` uses these rules and keeps the state.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Data, ISSUE_TYPES, Issue, PRIORITIES, PROJECT};

/// Nodes of the Atlassian Document Format that may contain others, and which ones.
const HOLDS: [(&str, &[&str]); 6] = [
    ("doc", &["paragraph", "heading", "bulletList", "codeBlock"]),
    ("paragraph", &["text", "hardBreak"]),
    ("heading", &["text"]),
    ("bulletList", &["listItem"]),
    ("listItem", &["paragraph", "bulletList"]),
    ("codeBlock", &["text"]),
];

/// The problems in the body of a creation, by field.
pub(super) fn problems(body: &Value, data: &Data) -> BTreeMap<String, String> {
    let mut problems = BTreeMap::new();
    let mut wrong = |field: &str, text: &str| problems.insert(field.to_owned(), text.to_owned());
    let fields = &body["fields"];
    if fields["project"]["key"] != PROJECT {
        wrong("project", "valid project is required");
    }
    if !ISSUE_TYPES.iter().any(|name| fields["issuetype"]["name"] == *name) {
        wrong("issuetype", "Specify a valid issue type");
    }
    match fields["summary"].as_str() {
        None => wrong("summary", "You must specify a summary of the issue."),
        Some(text) if text.trim().is_empty() => wrong("summary", "You must specify a summary of the issue."),
        Some(text) if text.contains(['\n', '\r']) => {
            wrong("summary", "The summary is invalid because it contains newline characters.")
        }
        Some(text) if text.encode_utf16().count() > 255 => wrong("summary", "Summary can't exceed 255 characters."),
        Some(_) => None,
    };
    if !is_document(&fields["description"]) {
        wrong("description", "Operation value must be an Atlassian Document (see the Atlassian Document Format)");
    } else if fields["description"].to_string().len() > 32_767 {
        wrong("description", "The entered text is too long. It exceeds the allowed limit of 32,767 characters.");
    }
    for label in fields["labels"].as_array().into_iter().flatten() {
        if label.as_str().is_none_or(|label| label.is_empty() || label.len() > 255 || label.contains(' ')) {
            wrong("labels", "The label contains spaces which is invalid.");
        }
    }
    if fields.get("priority").is_some_and(|own| !PRIORITIES.iter().any(|name| own["name"] == *name)) {
        wrong("priority", "Specify the Priority (name) in string format");
    }
    for field in fields.as_object().into_iter().flat_map(Map::keys) {
        if data.missing_fields.contains(field) {
            wrong(field, "Field cannot be set. It is not on the appropriate screen, or unknown.");
        }
    }
    let property = |own: &Value| own["value"]["alert"].as_str().is_some_and(|alert| data.refused.contains(alert));
    if body["properties"].as_array().is_some_and(|all| all.iter().any(property)) {
        wrong("description", "refused on command");
    }
    problems
}

/// Whether a value is a document in the Atlassian Document Format. Checks only what tickets use.
pub(super) fn is_document(value: &Value) -> bool {
    value["type"] == "doc" && value["version"] == 1 && is_node(value)
}

fn is_node(node: &Value) -> bool {
    let Some(kind) = node["type"].as_str() else { return false };
    match kind {
        "text" => node["text"].as_str().is_some_and(|text| !text.is_empty()),
        "hardBreak" => true,
        _ => {
            let level = node["attrs"]["level"].as_i64();
            let Some((_, held)) = HOLDS.iter().find(|(own, _)| *own == kind) else { return false };
            let fits = |child: &Value| held.iter().any(|kind| child["type"] == *kind) && is_node(child);
            (kind != "heading" || level.is_some_and(|level| (1..=6).contains(&level)))
                && node["content"].as_array().is_some_and(|children| children.iter().all(fits))
        }
    }
}

/// The labels that a search asks for. It understands only one form of JQL: `project = "…" AND labels in ("…", …)
/// ORDER BY created ASC`.
pub(super) fn labels_of(body: &Value) -> Result<Vec<String>, String> {
    let jql = body["jql"].as_str().ok_or("The JQL query is required.")?;
    // The endpoint accepts only bounded queries.
    let rest = jql.strip_prefix("project = \"").ok_or("Unbounded JQL queries are not allowed here.")?;
    let (project, rest) = rest.split_once("\" AND labels in (").ok_or("Error in the JQL Query.")?;
    if project != PROJECT {
        return Err(format!("The value '{project}' does not exist for the field 'project'."));
    }
    let (labels, order) = rest.split_once(')').ok_or("Error in the JQL Query: Expecting ')'.")?;
    if order != " ORDER BY created ASC" {
        return Err(format!("Error in the JQL Query: `{order}`."));
    }
    if body["reconcileIssues"].as_array().is_some_and(|issues| issues.len() > 50) {
        return Err("At most 50 issues can be reconciled.".to_owned());
    }
    let plain = |label: &str| label.strip_prefix('"')?.strip_suffix('"').map(str::to_owned);
    labels.split(", ").map(|label| plain(label).ok_or_else(|| format!("Error in the JQL Query: `{label}`."))).collect()
}

/// An issue as a search returns it: its id, and only the fields and properties that were asked for.
pub(super) fn shown(issue: &Issue, body: &Value) -> Value {
    let asked = |name: &str| {
        let list = body[name].as_array().cloned().unwrap_or_default();
        list.into_iter().filter_map(|entry| entry.as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let fields: Map<String, Value> =
        asked("fields").into_iter().filter_map(|name| Some((name.clone(), issue.fields.get(&name)?.clone()))).collect();
    let properties: Map<String, Value> = asked("properties")
        .into_iter()
        .filter_map(|name| Some((name.clone(), issue.properties.get(&name)?.clone())))
        .collect();
    json!({ "id": issue.id, "fields": fields, "properties": properties })
}
