use headrace_runtime::fault::FaultClass;
use headrace_schemas::codec;
use headrace_schemas::event::Category;
use proptest::prelude::*;

use super::*;
use crate::fixture;

/// The largest event that any record makes: half of NATS' default `max_payload`, so that the stages after this one have
/// room.
const EVENT_MAX_BYTES: usize = 512 << 10;

fn check(body: &str) -> Event {
    normalize(&fixture::raw("ndjson", "login", body)).unwrap()
}

/// Normalizes on a thread with a stack like those that the stages run on; `None` when it is refused.
fn bounded(body: impl Into<Vec<u8>>) -> Option<Event> {
    let raw = fixture::raw("ndjson", "login", body);
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(move || normalize(&raw).ok()).unwrap();
    let event = thread.join().unwrap()?;
    let bytes = codec::encode(&event).unwrap();
    assert!(bytes.len() <= EVENT_MAX_BYTES, "{} bytes", bytes.len());
    assert_eq!(codec::decode::<Event>(&bytes).unwrap(), event);
    Some(event)
}

fn attributes(body: &str) -> Vec<(String, String)> {
    check(body).attributes.into_iter().collect()
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn common_names_have_their_places() {
    let event = check(
        r#"{"id":7,"time":1,"action":"login","outcome":"Denied","ip":"192.0.2.1","country":"NO","user_agent":"curl/8",
            "actor":{"id":8,"name":"mona","type":"User","mail":"mona@example.org"},"target":{"type":"host","name":"db1","id":"h-1","url":"https://db1"},
            "organization":{"login":"acme"},"repo":{"name":"acme/app","visibility":"private"}}"#,
    );
    assert_eq!((event.category, event.ocsf_class, event.outcome), (Category::Other, 6003, Outcome::Failure));
    assert_eq!((event.kind.as_str(), event.action.as_deref(), event.audit_action), ("login", Some("login"), None));
    assert_eq!(event.occurred_at.to_string(), "2026-03-01T11:59:00.000000Z");
    assert_eq!(event.actor, Some(Actor { id: Some(8), login: "mona".into(), kind: Some("User".into()) }));
    let target = Target {
        kind: "host".into(),
        id: Some("h-1".into()),
        name: Some("db1".into()),
        url: Some("https://db1".into()),
    };
    assert_eq!(event.target, Some(target));
    assert_eq!(event.organization, Some(Organization { id: None, login: "acme".into() }));
    let repository =
        Repository { id: None, full_name: "acme/app".into(), visibility: Some("private".into()), default_branch: None };
    assert_eq!(event.repository, Some(repository));
    let network =
        Network { ip: Some("192.0.2.1".into()), country: Some("NO".into()), user_agent: Some("curl/8".into()) };
    assert_eq!(event.network, Some(network));
    assert_eq!(event.attributes.get("actor.mail").map(String::as_str), Some("mona@example.org"));
    assert_eq!((event.raw.sequence, event.changes.len()), (42, 0));
}

#[test]
fn a_name_alone_is_enough_and_none_is_no_error() {
    let event = check(r#"{"actor":"mona","target":9,"org":"acme","repository":null,"repo":"app","actor_ip":"::1"}"#);
    assert_eq!(event.actor, Some(Actor { id: None, login: "mona".into(), kind: None }));
    assert_eq!(event.target.unwrap(), Target { kind: "unknown".into(), id: None, name: Some("9".into()), url: None });
    assert_eq!(event.organization.unwrap().login, "acme");
    assert_eq!(event.repository.unwrap().full_name, "app");
    assert_eq!(event.network.unwrap().ip.as_deref(), Some("::1"));
    let event = check(r#"{"actor":"","target":{},"org":[],"actor_ip":null,"outcome":7}"#);
    assert_eq!((event.actor, event.target, event.organization, event.network), (None, None, None, None));
    assert_eq!((event.outcome, check("{}").outcome), (Outcome::Unknown, Outcome::Unknown));
    let mut raw = fixture::raw("ndjson", "login", "{}");
    raw.event_time = None;
    assert_eq!(normalize(&raw).unwrap().occurred_at, raw.received_at);
}

#[test]
fn all_other_scalars_become_attributes() {
    let body = r#"{"action":"x","id":7,"ok":true,"no":null,"list":[1],"geo":{"city":"Oslo","at":{"lat":59.9}},"tags":[{"a":1}],
        "geo":{"city":"Rome"},"id":8,"a.b":1,"a":{"b":2,"b":3,"c":4}}"#;
    let expected =
        [("a.b", "1"), ("a.c", "4"), ("geo.at.lat", "59.9"), ("geo.city", "Oslo"), ("id", "7"), ("ok", "true")];
    assert_eq!(attributes(body), owned(&expected));
}

#[test]
fn which_attributes_are_kept_depends_on_the_record_alone() {
    let nested = (0..40).map(|at| format!("\"n{at:02}\":{at}")).collect::<Vec<_>>().join(",");
    let flat = (0..40).map(|at| format!("\"f{at:02}\":{at}")).collect::<Vec<_>>().join(",");
    let kept = attributes(&format!("{{\"deep\":{{{nested}}},{flat}}}"));
    let expected = (0..24).map(|at| format!("deep.n{at:02}")).chain((0..40).map(|at| format!("f{at:02}")));
    assert_eq!(kept.into_iter().map(|(name, _)| name).collect::<Vec<_>>(), expected.collect::<Vec<_>>());

    let (fits, long) = ("n".repeat(128), "n".repeat(129));
    let value = "é".repeat(2_000);
    let kept = attributes(&format!("{{\"{long}\":1,\"{fits}\":\"{value}\",\"a\":{{\"{fits}\":1}},\"\":1}}"));
    assert_eq!(kept, [(fits, format!("{}…", "é".repeat(1_024)))]);

    let deep = |parts: usize| format!("{}1{}", "{\"a\":".repeat(parts), "}".repeat(parts));
    assert_eq!(attributes(&deep(6)), owned(&[("a.a.a.a.a.a", "1")]));
    assert_eq!(attributes(&deep(7)), []);
}

#[test]
fn an_unreadable_line_is_a_dead_letter_with_its_reason() {
    let mut raw = fixture::raw("ndjson", "unreadable", "{");
    raw.headers = vec![(header::UNREADABLE.to_owned(), "line_malformed: expected one JSON object".to_owned())];
    let fault = normalize(&raw).unwrap_err();
    assert_eq!(fault.class, FaultClass::Poison(DeadReason::Malformed));
    assert_eq!(fault.to_string(), "line_malformed: expected one JSON object");
    // The header decides: a sender may call a kind of its own so.
    assert_eq!(normalize(&fixture::raw("ndjson", "unreadable", "{}")).unwrap().kind, "unreadable");
    assert!(normalize(&fixture::raw("ndjson", "login", "[]")).is_err());
}

#[test]
fn a_record_of_any_size_makes_a_bounded_event() {
    let text = "\u{1d11e}".repeat(3_000);
    let many = (0..2_000).map(|at| format!("\"k{at}\":\"{text}\"")).collect::<Vec<_>>().join(",");
    let event =
        bounded(format!("{{\"actor\":{{\"login\":\"{text}\",\"type\":\"{text}\"}},\"target\":\"{text}\",{many}}}"));
    assert_eq!(event.unwrap().attributes.len(), 64);
    let wide = (0..300).map(|at| format!("\"o{at}\":{{\"l\":[]}}")).collect::<Vec<_>>().join(",");
    assert_eq!(bounded(format!("{{{wide}}}")).unwrap().attributes.len(), 0);
    for depth in [500, 1_000, 1_000_000] {
        let nested = format!("{{\"a\":{}1{}}}", "{\"a\":".repeat(depth), "}".repeat(depth));
        assert_eq!(bounded(nested).is_some(), depth < headrace_schemas::json::DEPTH_MAX, "{depth}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..300)) {
        bounded(body);
    }

    /// Any scalars under any names: the event holds them or leaves them out, and is the same every time.
    #[test]
    fn any_record_makes_the_same_event_again(
        fields in prop::collection::btree_map("[a-z.]{0,6}|actor|target|org|repo|ip|outcome", any::<String>(), 0..80),
        nested in prop::collection::btree_map(any::<String>(), any::<i64>(), 0..10),
    ) {
        let body = serde_json::json!({ "a": nested, "b": { "c": fields } });
        let mut body = body.as_object().unwrap().clone();
        body.extend(fields.into_iter().map(|(name, value)| (name, value.into())));
        let body = serde_json::to_string(&body).unwrap();
        let event = bounded(body.clone()).unwrap();
        prop_assert!(event.attributes.len() <= 64);
        prop_assert_eq!(bounded(body), Some(event));
    }
}
