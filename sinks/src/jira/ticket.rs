//! An alert as a Jira ticket: summary, label, and its text in Atlassian Document Format (ADF).
//! Pure. Everything is cut to bounds that Jira accepts (255 characters of summary, 32,767 of text).

use headrace_schemas::alert::Alert;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::Config;

/// Jira's bound of a summary, in characters.
const SUMMARY_CHARS_MAX: usize = 255;
/// Entries of each list in a ticket; further ones are counted.
const LIST_MAX: usize = 15;
/// Characters of one entry: with all lists full, a description stays below Jira's 32,767 characters
/// even when Jira counts its JSON.
const TEXT_CHARS_MAX: usize = 250;

/// The issue property in which a ticket carries what was last said in it.
pub(super) const PROPERTY: &str = "headrace";

/// The label by which a ticket is found: `headrace-` and 128 bits of the alert id's SHA-256. It is a label, because JQL
/// finds an issue's own properties only when an app declares them.
pub(super) fn label(alert: &str) -> String {
    let hash = Sha256::digest(alert.as_bytes());
    let hex: String = hash[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("headrace-{hex}")
}

/// The value of [`PROPERTY`].
pub(super) fn property(alert: &Alert) -> Value {
    json!({ "alert": alert.id, "count": alert.count, "risk": alert.risk })
}

/// The body that creates the ticket.
pub(super) fn creation(alert: &Alert, config: &Config) -> Value {
    let mut labels = config.labels.clone();
    labels.push(label(&alert.id));
    let mut fields = json!({
        "project": { "key": config.project },
        "issuetype": { "name": config.issue_type },
        "summary": summary(alert),
        "description": description(alert),
        "labels": labels,
    });
    if let Some(priority) = config.priorities.get(alert.severity.as_str()) {
        fields["priority"] = json!({ "name": priority });
    }
    json!({ "fields": fields, "properties": [{ "key": PROPERTY, "value": property(alert) }] })
}

/// The body of the comment that tells how the alert has grown.
pub(super) fn comment(alert: &Alert) -> Value {
    let text =
        format!("{} events by now, the latest at {}. Risk {} of 100.", alert.count, alert.updated_at, alert.risk);
    let latest = alert.events.last().map(|event| format!("Latest event: {event}"));
    let lines = std::iter::once(text).chain(latest);
    json!({ "body": document(lines.map(|line| paragraph(&line)).collect()) })
}

/// `[HIGH] Repository made public: mona on acme/app`, on one line.
fn summary(alert: &Alert) -> String {
    let mut text = format!("[{}] {}", alert.severity.as_str().to_ascii_uppercase(), one_line(&alert.title));
    let place = alert.repository.as_ref().or(alert.organization.as_ref());
    match (&alert.actor, place) {
        (Some(actor), Some(place)) => text.push_str(&format!(": {actor} on {place}")),
        (Some(actor), None) => text.push_str(&format!(": {actor}")),
        (None, Some(place)) => text.push_str(&format!(": {place}")),
        (None, None) => {}
    }
    cut(&one_line(&text), SUMMARY_CHARS_MAX)
}

fn description(alert: &Alert) -> Value {
    let mut facts = vec![
        format!("Severity: {}", alert.severity.as_str()),
        format!("Risk: {} of 100", alert.risk),
        format!("Events: {}", alert.count),
        format!("First event: {}", alert.opened_at),
        format!("Latest event: {}", alert.updated_at),
    ];
    let optional = [
        ("Actor", &alert.actor),
        ("Repository", &alert.repository),
        ("Organization", &alert.organization),
        ("Owner", &alert.owner),
    ];
    facts.extend(optional.iter().filter_map(|(name, value)| Some(format!("{name}: {}", value.as_ref()?))));
    facts.push(format!("Tenant: {}", alert.tenant));
    facts.push(format!("Rule: {}", alert.rule));
    facts.push(format!("Alert: {}", alert.id));

    let events: Vec<String> = alert.events.iter().map(ToString::to_string).collect();
    let mut content = vec![paragraph(&alert.title), list(&facts)];
    let lists = [
        ("Why the risk is what it is", &alert.reasons),
        ("Evidence", &alert.evidence),
        ("ATT&CK techniques", &alert.techniques),
        ("Events", &events),
    ];
    for (title, entries) in lists {
        if !entries.is_empty() {
            content.push(heading(title));
            content.push(list(entries));
        }
    }
    document(content)
}

fn document(content: Vec<Value>) -> Value {
    json!({ "type": "doc", "version": 1, "content": content })
}

fn heading(text: &str) -> Value {
    json!({ "type": "heading", "attrs": { "level": 3 }, "content": [plain(text)] })
}

fn paragraph(text: &str) -> Value {
    json!({ "type": "paragraph", "content": [plain(text)] })
}

fn list(entries: &[String]) -> Value {
    let item = |text: &str| json!({ "type": "listItem", "content": [paragraph(text)] });
    let mut items: Vec<Value> = entries.iter().take(LIST_MAX).map(|entry| item(entry)).collect();
    if entries.len() > LIST_MAX {
        items.push(item(&format!("and {} more", entries.len() - LIST_MAX)));
    }
    json!({ "type": "bulletList", "content": items })
}

/// A text node. ADF allows none that is empty.
fn plain(text: &str) -> Value {
    let text = cut(&one_line(text), TEXT_CHARS_MAX);
    json!({ "type": "text", "text": if text.is_empty() { "–" } else { text.as_str() } })
}

/// Without line breaks and other control characters, which a summary and a text node must not have.
fn one_line(text: &str) -> String {
    text.split(|char: char| char.is_whitespace() || char.is_control())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

fn cut(text: &str, chars_max: usize) -> String {
    // Jira counts UTF-16 units: a character outside the basic plane counts twice.
    if text.encode_utf16().count() <= chars_max {
        return text.to_owned();
    }
    let mut left = chars_max - 1;
    let kept = text.chars().take_while(|char| {
        let fits = char.len_utf16() <= left;
        left = left.saturating_sub(char.len_utf16());
        fits
    });
    let mut kept: String = kept.collect();
    kept.push('…');
    kept
}

#[cfg(test)]
mod tests {
    use headrace_schemas::alert::Status;
    use headrace_schemas::event::Severity;
    use headrace_schemas::id::EventId;
    use headrace_schemas::time::Timestamp;

    use super::*;

    fn alert() -> Alert {
        let text = |text: &str| Some(text.to_owned());
        Alert {
            id: "f-1".into(),
            tenant: "acme".into(),
            fingerprint: "f".into(),
            rule: "r1".into(),
            title: "Repository made public".into(),
            severity: Severity::High,
            risk: 85,
            status: Status::Opened,
            count: 1,
            opened_at: Timestamp::from_seconds(1),
            updated_at: Timestamp::from_seconds(2),
            window_ends_at: Timestamp::from_seconds(3),
            actor: text("mona"),
            organization: text("acme"),
            repository: text("acme/app"),
            owner: text("payments"),
            techniques: vec!["T1567".into()],
            evidence: vec!["action=repo.access".into()],
            reasons: vec!["because".into()],
            events: vec![EventId::github("1")],
        }
    }

    #[test]
    fn a_summary_is_one_line_that_fits() {
        assert_eq!(summary(&alert()), "[HIGH] Repository made public: mona on acme/app");
        let odd = Alert { title: "two\nlines\u{7}".into(), actor: None, repository: None, ..alert() };
        assert_eq!(summary(&odd), "[HIGH] two lines: acme");
        for character in ["x", "é", "😀"] {
            let long = summary(&Alert { title: character.repeat(400), ..alert() });
            let units = long.encode_utf16().count();
            assert!((254..=255).contains(&units) && long.ends_with('…'), "{units} units of {character}");
        }
    }

    #[test]
    fn labels_are_stable_and_apart() {
        assert_eq!(label("f-1"), label("f-1"));
        assert_ne!(label("f-1"), label("f-2"));
        assert_eq!(label("an id with spaces").len(), "headrace-".len() + 32);
    }

    #[test]
    fn the_largest_alert_fits() {
        let many = || vec!["x".repeat(10_000); 1_000];
        let large =
            Alert { techniques: many(), evidence: many(), reasons: many(), title: "t".repeat(9_000), ..alert() };
        let text = description(&large).to_string();
        assert!(text.chars().count() < 32_767, "{} characters", text.chars().count());
        assert!(text.contains("and 985 more"));
    }
}
