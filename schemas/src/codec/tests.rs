//! The Rust types and the `.avsc` files must agree.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_oneof, proptest};
use serde_json::Value;

use super::*;
use crate::alert::Status;
use crate::event::{
    Actor, Assessment, Category, Change, Criticality, Enrichment, Network, Organization, Outcome, RawReference, Reason,
    Repository, RuleMatch, Severity, Target,
};
use crate::id::EventId;
use crate::time::Timestamp;

fn full_event() -> Event {
    let text = |text: &str| Some(text.to_owned());
    Event {
        id: EventId::github("72d3162e-cc78-11e3-81ab-4c9367dc0958"),
        tenant: "acme".into(),
        source: "github".into(),
        kind: "repository".into(),
        action: text("publicized"),
        audit_action: text("repo.access"),
        category: Category::Repository,
        outcome: Outcome::Success,
        ocsf_class: 6003,
        occurred_at: Timestamp::from_seconds(1_700_000_000),
        received_at: Timestamp::from_seconds(1_700_000_001),
        event_time: Some(Timestamp::from_seconds(1_699_999_999)),
        actor: Some(Actor { id: Some(7), login: "mona".into(), kind: text("User") }),
        target: Some(Target { kind: "repository".into(), id: text("9"), name: text("acme/app"), url: text("u") }),
        organization: Some(Organization { id: Some(5), login: "acme".into() }),
        repository: Some(Repository {
            id: Some(9),
            full_name: "acme/app".into(),
            visibility: text("public"),
            default_branch: text("main"),
        }),
        changes: vec![Change { field: "visibility".into(), before: text("private"), after: text("public") }],
        attributes: BTreeMap::from([("ref".to_owned(), "refs/heads/main".to_owned())]),
        network: Some(Network { ip: text("192.0.2.1"), country: text("SE"), user_agent: text("git/2") }),
        raw: RawReference { sequence: 42, sha256: "ab".repeat(32), bytes: 7_700 },
        enrichment: Some(Enrichment {
            assets: vec!["crown".into()],
            owner: text("payments"),
            criticality: Some(Criticality::High),
            labels: vec!["pci".into()],
        }),
        assessment: Some(Assessment {
            risk: 85,
            severity: Severity::High,
            matches: vec![RuleMatch {
                rule: "r1".into(),
                title: "Repository made public".into(),
                severity: Severity::High,
                techniques: vec!["T1567".into()],
                controls: vec!["cis.1".into()],
                evidence: vec!["action=repo.access".into()],
            }],
            reasons: vec![Reason { code: "rule:r1".into(), points: 85, text: "because".into() }],
        }),
    }
}

fn full_alert() -> Alert {
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
        actor: Some("mona".into()),
        organization: Some("acme".into()),
        repository: Some("acme/app".into()),
        owner: Some("payments".into()),
        techniques: vec!["T1567".into()],
        evidence: vec!["action=repo.access".into()],
        reasons: vec!["because".into()],
        events: vec![EventId::github("g")],
    }
}

#[test]
fn records_come_back_as_they_went() {
    let event = full_event();
    assert_eq!(decode::<Event>(&encode(&event).unwrap()).unwrap(), event);
    let bare = Event {
        action: None,
        audit_action: None,
        actor: None,
        target: None,
        organization: None,
        repository: None,
        changes: vec![],
        attributes: BTreeMap::new(),
        network: None,
        enrichment: None,
        assessment: None,
        ..event
    };
    assert_eq!(decode::<Event>(&encode(&bare).unwrap()).unwrap(), bare);
    let alert = full_alert();
    assert_eq!(decode::<Alert>(&encode(&alert).unwrap()).unwrap(), alert);
}

#[test]
fn what_an_earlier_release_wrote_is_read() {
    let [earlier] = Event::EARLIER else { panic!("each earlier schema needs a case here") };
    let event = Event { event_time: None, ..full_event() };
    let (without, with) = (encode(&event).unwrap(), encode(&full_event()).unwrap());
    // Avro writes a record's fields one after the other, and an absent value as one byte. The earlier schema lacks the
    // field, so it lacks that byte.
    let at = without.iter().zip(&with).position(|(one, other)| one != other).unwrap();
    let (prefix, _) = parsed(earlier);
    let bytes = [&prefix[..], &without[PREFIX_BYTES..at], &without[at + 1..]].concat();
    assert_ne!(bytes[..PREFIX_BYTES], without[..PREFIX_BYTES]);
    assert_eq!(decode::<Event>(&bytes).unwrap(), event);
}

/// The field names of every record, in order, and the symbols of every enum in an Avro schema.
fn avro_names(schema: &Value, out: &mut BTreeMap<String, Vec<String>>) {
    match schema {
        Value::Array(branches) => branches.iter().for_each(|branch| avro_names(branch, out)),
        Value::Object(object) => {
            let words = |key: &str, name: &str| -> Vec<String> {
                let items = object[key].as_array().unwrap();
                items.iter().map(|item| item.as_str().or_else(|| item[name].as_str()).unwrap().to_owned()).collect()
            };
            let own = object.get("name").and_then(Value::as_str).unwrap_or_default();
            match object["type"].as_str() {
                Some("record") => {
                    out.insert(own.to_owned(), words("fields", "name"));
                    object["fields"].as_array().unwrap().iter().for_each(|field| avro_names(&field["type"], out));
                }
                Some("enum") => {
                    out.insert(own.to_owned(), words("symbols", ""));
                }
                Some("array") => avro_names(&object["items"], out),
                _ => {}
            }
        }
        _ => {}
    }
}

fn keys<T: Serialize>(value: &T) -> BTreeSet<String> {
    serde_json::to_value(value).unwrap().as_object().unwrap().keys().cloned().collect()
}

#[test]
fn the_rust_types_have_the_fields_of_the_avsc_files() {
    let mut avro = BTreeMap::new();
    for (_, _, avsc) in all_schemas() {
        avro_names(&serde_json::from_str(avsc).unwrap(), &mut avro);
    }
    let event = full_event();
    let assessment = event.assessment.clone().unwrap();
    let rust = [
        ("Event", keys(&event)),
        ("Actor", keys(&event.actor)),
        ("Target", keys(&event.target)),
        ("Organization", keys(&event.organization)),
        ("Repository", keys(&event.repository)),
        ("Change", keys(&event.changes[0])),
        ("Network", keys(&event.network)),
        ("RawReference", keys(&event.raw)),
        ("Enrichment", keys(&event.enrichment)),
        ("Assessment", keys(&assessment)),
        ("RuleMatch", keys(&assessment.matches[0])),
        ("Reason", keys(&assessment.reasons[0])),
        ("Alert", keys(&full_alert())),
    ];
    for (record, fields) in rust {
        assert_eq!(avro[record].iter().cloned().collect::<BTreeSet<_>>(), fields, "record {record}");
    }
    // Avro encodes unit variants by their index, so their order matters too.
    for (name, symbols) in &avro {
        let known: fn(&str) -> bool = match name.as_str() {
            "Category" => |word| Category::from_word(word).is_some(),
            "Outcome" => |word| Outcome::from_word(word).is_some(),
            "Severity" => |word| Severity::from_word(word).is_some(),
            "Criticality" => |word| Criticality::from_word(word).is_some(),
            _ => continue,
        };
        for symbol in symbols {
            assert!(known(symbol), "{name} has no {symbol}");
        }
    }
}

#[test]
fn every_enum_value_survives() {
    for severity in Severity::MATCHED {
        let mut event = full_event();
        event.assessment.as_mut().unwrap().severity = severity;
        assert_eq!(decode::<Event>(&encode(&event).unwrap()).unwrap().severity(), severity);
    }
    for word in ["identity", "access", "ci_cd", "integration", "audit", "other"] {
        let event = Event { category: Category::from_word(word).unwrap(), ..full_event() };
        assert_eq!(decode::<Event>(&encode(&event).unwrap()).unwrap().category.as_str(), word);
    }
}

#[test]
fn foreign_bytes_are_named_for_what_they_are() {
    let message = |bytes: &[u8]| decode::<Event>(bytes).unwrap_err().to_string();
    assert_eq!(message(b"{}"), "expected an Avro single-object encoding (C3 01 and a fingerprint), found 2 bytes");
    assert!(message(b"{\"action\":\"opened\"}").ends_with("found 7b 22"));
    let alert = encode(&full_alert()).unwrap();
    assert!(message(&alert).starts_with("unknown schema fingerprint"));
    let whole = encode(&full_event()).unwrap();
    assert_eq!(message(&whole[..whole.len() - 9]), "cannot decode a record of type headrace.Event");
}

/// The bytes of `event`, where `bytes` replace those at `at` (reduced to its length).
fn spoilt(event: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let at = PREFIX_BYTES + at % (event.len() - PREFIX_BYTES);
    let rest = event.get(at + bytes.len()..).unwrap_or_default();
    [&event[..at], bytes, rest].concat()
}

/// Avro's lengths are zigzag varints. These stand for millions, billions, negative counts, more than an integer holds.
fn lengths() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 1..12),
        vec(0x80_u8.., 1..12),
        (1_u8..10, any::<u8>()).prop_map(|(more, last)| [vec![0xff; usize::from(more)], vec![last & 0x7f]].concat()),
    ]
}

proptest! {
    #[test]
    fn any_bytes_decode_or_are_refused(at in any::<usize>(), spoil in lengths(), tail in vec(any::<u8>(), 0..64)) {
        let (event, alert) = (encode(&full_event()).unwrap(), encode(&full_alert()).unwrap());
        let _ = decode::<Event>(&spoilt(&event, at, &spoil));
        let _ = decode::<Alert>(&spoilt(&alert, at, &spoil));
        let _ = decode::<Event>(&[&event[..PREFIX_BYTES], &tail].concat());
    }
}

#[test]
fn a_length_without_its_bytes_allocates_nothing() {
    let event = encode(&full_event()).unwrap();
    // The first field is a text. This prefix announces 2^28 bytes of it.
    let refused = decode::<Event>(&[&event[..PREFIX_BYTES], &[0x80, 0x80, 0x80, 0x80, 0x02]].concat()).unwrap_err();
    let CodecError::Decode { source, .. } = &refused else { panic!("{refused:?}") };
    assert!(source.to_string().contains(&RECORD_MAX_BYTES.to_string()), "{source}");
}

#[test]
fn a_record_beyond_the_limit_is_neither_written_nor_read() {
    let event = Event { tenant: "a".repeat(RECORD_MAX_BYTES), ..full_event() };
    assert!(matches!(encode(&event), Err(CodecError::TooLarge { .. })));
    let mut bytes = encode(&full_event()).unwrap();
    bytes.resize(RECORD_MAX_BYTES + 1, 0);
    assert!(matches!(decode::<Event>(&bytes), Err(CodecError::TooLarge { .. })));
}

#[test]
fn a_whole_event_is_a_few_hundred_bytes() {
    let bytes = encode(&full_event()).unwrap();
    assert!(bytes.len() < 600, "{} bytes", bytes.len());
}
