use bytes::Bytes;
use headrace_schemas::event::{Category, Change};
use headrace_schemas::id::EventId;

use super::*;

fn raw(event: &str, body: &str) -> RawDelivery {
    RawDelivery {
        id: EventId::github("72d3162e-cc78-11e3-81ab-4c9367dc0958"),
        tenant: "acme".to_owned(),
        source: "github".to_owned(),
        event: event.to_owned(),
        received_at: Timestamp::parse("2026-03-01T12:00:00Z").unwrap(),
        event_time: None,
        headers: vec![(header::CONTENT_TYPE.to_owned(), "application/json".to_owned())],
        body: Bytes::copy_from_slice(body.as_bytes()),
        sha256: RawDelivery::sha256_of(body.as_bytes()),
        sequence: 42,
    }
}

fn check(event: &str, body: &str) -> Event {
    normalize(&raw(event, body)).unwrap()
}

#[test]
fn a_repository_made_public_says_who_what_and_when() {
    let event = check(
        "repository",
        r#"{"action":"publicized","repository":{"id":9,"full_name":"acme/app","private":false,"updated_at":"2026-03-01T11:59:58Z",
            "html_url":"https://github.com/acme/app","default_branch":"main"},
            "organization":{"login":"acme","id":5},"sender":{"login":"mona","id":7,"type":"User"}}"#,
    );
    assert_eq!(event.audit_action.as_deref(), Some("repo.access"));
    assert_eq!(event.action.as_deref(), Some("publicized"));
    assert_eq!(event.actor, Some(Actor { id: Some(7), login: "mona".into(), kind: Some("User".into()) }));
    assert_eq!(event.repository.as_ref().unwrap().visibility.as_deref(), Some("public"));
    assert_eq!(event.organization, Some(Organization { id: Some(5), login: "acme".into() }));
    let target = event.target.unwrap();
    assert_eq!(
        (target.kind.as_str(), target.id.as_deref(), target.name.as_deref()),
        ("repository", Some("9"), Some("acme/app"))
    );
    assert_eq!(event.occurred_at.to_string(), "2026-03-01T11:59:58.000000Z");
    assert_eq!(event.raw.sequence, 42);
    assert_eq!(event.raw.sha256.len(), 64);
}

#[test]
fn an_unknown_kind_becomes_other_with_what_can_be_read() {
    let event = check("brand_new", r#"{"action":"x","sender":{"login":"mona"},"repository":{"full_name":"a/b"}}"#);
    assert_eq!((event.category, event.kind.as_str()), (Category::Other, "brand_new"));
    assert_eq!(event.actor.unwrap().login, "mona");
    assert_eq!(event.repository.unwrap().full_name, "a/b");
}

#[test]
fn an_implausible_time_is_replaced_by_the_reception() {
    for time in ["2019-05-15T15:20:30Z", "2026-03-01T13:00:00Z", "soon"] {
        let event = check("repository", &format!(r#"{{"repository":{{"full_name":"a/b","updated_at":"{time}"}}}}"#));
        assert_eq!(event.occurred_at, event.received_at, "{time}");
    }
}

#[test]
fn changes_tell_before_and_after() {
    let change = |field: &str, before: Option<&str>, after: Option<&str>| Change {
        field: field.into(),
        before: before.map(str::to_owned),
        after: after.map(str::to_owned),
    };
    for (changes, want) in [
        (r#"{"permission":{"from":"write","to":"admin"}}"#, vec![change("permission", Some("write"), Some("admin"))]),
        (r#"{"title":{"from":"old"}}"#, vec![change("title", Some("old"), Some("new"))]),
        (r#"{"repository":{"name":{"from":"old"}}}"#, vec![change("repository.name", Some("old"), None)]),
        (r#"{"new_issue":7,"x":{"from":null}}"#, vec![change("new_issue", None, Some("7")), change("x", None, None)]),
        ("null", vec![]),
        ("[]", vec![]),
    ] {
        let event = check("issues", &format!(r#"{{"issue":{{"title":"new"}},"changes":{changes}}}"#));
        assert_eq!(event.changes, want, "{changes}");
    }
}

#[test]
fn attributes_come_from_the_catalog() {
    let event = check(
        "push",
        r#"{"ref":"refs/heads/main","forced":true,"pusher":{"name":"key"},"repository":{"full_name":"a/b"}}"#,
    );
    assert_eq!(event.attributes["ref"], "refs/heads/main");
    assert_eq!(event.attributes["forced"], "true");
    assert_eq!(event.actor.unwrap().login, "key");
}

#[test]
fn a_form_holds_the_same_event() {
    let mut form =
        raw("star", "payload=%7B%22action%22%3A%22created%22%2C%22sender%22%3A%7B%22login%22%3A%22a+b%22%7D%7D");
    form.headers = vec![("content-type".to_owned(), "application/x-www-form-urlencoded".to_owned())];
    let event = normalize(&form).unwrap();
    assert_eq!(event.action.as_deref(), Some("created"));
    assert_eq!(event.actor.unwrap().login, "a b");
}

#[test]
fn conclusions_become_outcomes() {
    for (conclusion, want) in
        [(r#""success""#, Outcome::Success), (r#""timed_out""#, Outcome::Failure), ("null", Outcome::Unknown)]
    {
        let event =
            check("check_run", &format!(r#"{{"action":"completed","check_run":{{"conclusion":{conclusion}}}}}"#));
        assert_eq!(event.outcome, want, "{conclusion}");
    }
    assert_eq!(check("star", "{}").outcome, Outcome::Success);
}

#[test]
fn what_is_no_json_object_is_poison() {
    for body in ["", "no json", "[1]", "\"text\"", "{\"a\":", "{\"a\":1"] {
        let fault = normalize(&raw("push", body)).unwrap_err();
        assert_eq!(fault.class, headrace_runtime::fault::FaultClass::Poison(DeadReason::Malformed), "{body}");
        assert!(fault.to_string().starts_with("expected a JSON object"), "{fault}");
        assert_eq!(fault.to_string().lines().count(), 1, "{fault}");
    }
}
