//! Sample deliveries, events and alerts. No two samples may share an id.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use bytes::Bytes;
use headrace_runtime::message::payload::{Outgoing, Payload, Product, RawDelivery};
use headrace_schemas::alert::{Alert, Status};
use headrace_schemas::event::{
    Actor, Assessment, Category, Change, Criticality, Enrichment, Event, Network, Organization, Outcome, RawReference,
    Reason, Repository, RuleMatch, Severity, Target,
};
use headrace_schemas::header;
use headrace_schemas::id::EventId;
use headrace_schemas::subject;
use headrace_schemas::time::Timestamp;
use uuid::Builder;

/// 100 ns intervals between the UUID epoch (1582-10-15) and the Unix epoch (RFC 9562, section 5.1).
const UUID_EPOCH_TICKS: u64 = 0x01B2_1DD2_1381_4000;

/// A payload of which this module has samples.
pub trait Sample: Payload {
    /// Sample number `number`. Each has an id of its own, which is the same in every call within a test.
    fn sample(number: u16) -> Self;

    /// The sample as a message of its stream.
    fn message(&self) -> Outgoing;

    /// The same message as when it is published again late, under another deduplication key.
    fn repeated(&self) -> Outgoing {
        let mut message = self.message();
        message.message_id.push_str("/again");
        message
    }
}

/// A delivery GUID as GitHub makes it: a version 1 UUID of this moment.
#[must_use]
pub fn guid(number: u16) -> String {
    let now = u64::try_from(Timestamp::now().as_micros()).expect("the clock is past 1970");
    let node = [2, 0, 0, 0, 0, 1];
    Builder::from_gregorian_timestamp(UUID_EPOCH_TICKS + now * 10, number, &node).into_uuid().to_string()
}

/// The GUID of sample `number`. Its time is the day on which this was written, so it is always the same.
fn fixed_id(number: u16) -> EventId {
    EventId::github(&format!("72d3162e-cc78-11e3-81ab-4c9367dc{number:04x}"))
}

impl Sample for RawDelivery {
    fn sample(number: u16) -> Self {
        let text = |text: &str| text.to_owned();
        let body = format!(
            r#"{{"action":"publicized","repository":{{"id":{number},"full_name":"acme/app-{number}","private":false}},"organization":{{"id":5,"login":"acme"}},"sender":{{"id":7,"login":"mona","type":"User"}}}}"#
        );
        Self {
            id: fixed_id(number),
            tenant: text("acme"),
            source: text("github"),
            event: text("repository"),
            received_at: Timestamp::now(),
            event_time: None,
            headers: vec![
                (text(header::GITHUB_EVENT), text("repository")),
                (text(header::CONTENT_TYPE), text("application/json")),
            ],
            sha256: Self::sha256_of(body.as_bytes()),
            body: body.into(),
            sequence: 0,
        }
    }

    fn message(&self) -> Outgoing {
        let mut headers = HeaderMap::new();
        headers.insert(header::ID, self.id.as_str());
        headers.insert(header::SOURCE, self.source.as_str());
        headers.insert(header::EVENT, self.event.as_str());
        headers.insert(header::RECEIVED_AT, self.received_at.as_micros().to_string());
        headers.insert(header::BODY_SHA256, self.sha256.as_str());
        for (name, value) in &self.headers {
            headers.insert(name.as_str(), value.as_str());
        }
        Outgoing {
            subject: subject::raw(&self.tenant, &self.source, &self.event),
            message_id: self.id.delivery_key(&self.tenant, &self.event, &self.sha256),
            payload: self.body.clone(),
            headers,
        }
    }
}

impl Sample for Event {
    fn sample(number: u16) -> Self {
        let text = |text: &str| Some(text.to_owned());
        let name = format!("acme/app-{number}");
        let now = Timestamp::now();
        Self {
            id: fixed_id(number),
            tenant: "acme".into(),
            source: "github".into(),
            kind: "repository".into(),
            action: text("publicized"),
            audit_action: text("repo.access"),
            category: Category::Repository,
            outcome: Outcome::Success,
            ocsf_class: 6003,
            occurred_at: now,
            received_at: now,
            event_time: None,
            actor: Some(Actor { id: Some(7), login: "mona".into(), kind: text("User") }),
            target: Some(Target { kind: "repository".into(), id: text("9"), name: Some(name.clone()), url: None }),
            organization: Some(Organization { id: Some(5), login: "acme".into() }),
            repository: Some(Repository {
                id: Some(i64::from(number)),
                full_name: name,
                visibility: text("public"),
                default_branch: text("main"),
            }),
            changes: vec![Change { field: "visibility".into(), before: text("private"), after: text("public") }],
            attributes: BTreeMap::new(),
            network: None,
            raw: RawReference { sequence: i64::from(number), sha256: "ab".repeat(32), bytes: 7_700 },
            enrichment: None,
            assessment: Some(Assessment {
                risk: 85,
                severity: Severity::High,
                matches: vec![RuleMatch {
                    rule: "repository-made-public".into(),
                    title: "Repository made public".into(),
                    severity: Severity::High,
                    techniques: vec!["T1567".into()],
                    controls: vec![],
                    evidence: vec!["action=publicized".into()],
                }],
                reasons: vec![Reason { code: "rule:repository-made-public".into(), points: 85, text: "public".into() }],
            }),
        }
    }

    fn message(&self) -> Outgoing {
        self.write("scored").expect("samples follow the schema")
    }
}

impl Sample for Alert {
    fn sample(number: u16) -> Self {
        let text = |text: &str| Some(text.to_owned());
        let now = Timestamp::now();
        Self {
            id: format!("f{number:04x}-1700000000"),
            tenant: "acme".into(),
            fingerprint: format!("f{number:04x}"),
            rule: "repository-made-public".into(),
            title: "Repository made public".into(),
            severity: Severity::High,
            risk: 85,
            status: Status::Opened,
            count: 1,
            opened_at: now,
            updated_at: now,
            window_ends_at: now,
            actor: text("mona"),
            organization: text("acme"),
            repository: Some(format!("acme/app-{number}")),
            owner: text("payments"),
            techniques: vec!["T1567".into()],
            evidence: vec!["action=publicized".into()],
            reasons: vec!["the repository became public".into()],
            events: vec![fixed_id(number)],
        }
    }

    fn message(&self) -> Outgoing {
        self.write("alerted").expect("samples follow the schema")
    }
}

/// An event in which every field is set, with texts that are hard to write down.
#[must_use]
pub fn full_event(number: u16) -> Event {
    let text = |text: &str| Some(format!("{text} 'ü\\\t\"{number}"));
    let list = |text: &str| vec![format!("{text}-1"), format!("{text}-2"), String::new()];
    let at = |micros: i64| Timestamp::from_micros(1_764_000_000_000_001 + micros + i64::from(number));
    let found = |rule: &str, severity| RuleMatch {
        rule: rule.into(),
        title: format!("{rule} matched"),
        severity,
        techniques: list("T1567"),
        controls: list("cis"),
        evidence: vec![format!("of={rule}"), "action=publicized".into()],
    };
    Event {
        id: fixed_id(number),
        tenant: "acme".into(),
        source: "github".into(),
        kind: "repository".into(),
        action: text("publicized"),
        audit_action: text("repo.access"),
        category: Category::CiCd,
        outcome: Outcome::Failure,
        ocsf_class: 6003,
        occurred_at: at(1),
        received_at: at(2),
        event_time: Some(at(0)),
        actor: Some(Actor { id: Some(-7), login: "mona".into(), kind: text("User") }),
        target: Some(Target { kind: "member".into(), id: text("9"), name: text("name"), url: text("https://x") }),
        organization: Some(Organization { id: Some(5), login: "acme".into() }),
        repository: Some(Repository {
            id: Some(i64::from(number)),
            full_name: "acme/app".into(),
            visibility: text("public"),
            default_branch: text("main"),
        }),
        changes: vec![
            Change { field: "title".into(), before: text("before"), after: text("after") },
            Change { field: "body".into(), before: Some(String::new()), after: None },
            Change { field: "topic".into(), before: None, after: Some(String::new()) },
        ],
        attributes: BTreeMap::from([("ref".into(), "main\n".into()), (String::new(), String::new())]),
        network: Some(Network { ip: text("192.0.2.1"), country: text("DE"), user_agent: text("curl") }),
        raw: RawReference { sequence: i64::from(number) + 1, sha256: "ab".repeat(32), bytes: 7_700 },
        enrichment: Some(Enrichment {
            assets: list("asset"),
            owner: text("payments"),
            criticality: Some(Criticality::Critical),
            labels: list("label"),
        }),
        assessment: Some(Assessment {
            risk: 85,
            severity: Severity::High,
            matches: vec![found("first", Severity::Low), found("second", Severity::High)],
            reasons: vec![
                Reason { code: "rule:first".into(), points: 90, text: "the first".into() },
                Reason { code: "asset".into(), points: -5, text: String::new() },
            ],
        }),
    }
}

/// An event without anything that it need not have.
#[must_use]
pub fn bare_event(number: u16) -> Event {
    let at = Timestamp::from_micros(1_764_000_000_000_001 + i64::from(number));
    Event {
        id: fixed_id(number),
        tenant: "acme".into(),
        source: "github".into(),
        kind: String::new(),
        action: None,
        audit_action: None,
        category: Category::Other,
        outcome: Outcome::Unknown,
        ocsf_class: 0,
        occurred_at: at,
        received_at: at,
        event_time: None,
        actor: None,
        target: None,
        organization: None,
        repository: None,
        changes: vec![],
        attributes: BTreeMap::new(),
        network: None,
        raw: RawReference { sequence: 0, sha256: String::new(), bytes: 0 },
        enrichment: None,
        assessment: None,
    }
}

/// Changes of an event, each of which takes one optional part from a full one.
pub const WITHOUT: [fn(&mut Event); 24] = [
    |event| event.action = None,
    |event| event.audit_action = None,
    |event| event.event_time = None,
    |event| event.actor = None,
    |event| event.target = None,
    |event| event.organization = None,
    |event| event.repository = None,
    |event| event.network = None,
    |event| event.enrichment = None,
    |event| event.assessment = None,
    |event| event.actor.as_mut().expect("a full event").id = None,
    |event| event.actor.as_mut().expect("a full event").kind = None,
    |event| event.target.as_mut().expect("a full event").id = None,
    |event| event.target.as_mut().expect("a full event").name = None,
    |event| event.target.as_mut().expect("a full event").url = None,
    |event| event.organization.as_mut().expect("a full event").id = None,
    |event| event.repository.as_mut().expect("a full event").id = None,
    |event| event.repository.as_mut().expect("a full event").visibility = None,
    |event| event.repository.as_mut().expect("a full event").default_branch = None,
    |event| event.network.as_mut().expect("a full event").ip = None,
    |event| event.network.as_mut().expect("a full event").country = None,
    |event| event.network.as_mut().expect("a full event").user_agent = None,
    |event| event.enrichment.as_mut().expect("a full event").owner = None,
    |event| event.enrichment.as_mut().expect("a full event").criticality = None,
];

/// A message in the stream of `T` that nobody can read.
#[must_use]
pub fn unreadable<T: Sample>(number: u16) -> Outgoing {
    let mut message = T::sample(number).message();
    message.payload = Bytes::from_static(b"neither JSON nor Avro");
    message.headers.insert(header::RECEIVED_AT, "yesterday");
    message
}
