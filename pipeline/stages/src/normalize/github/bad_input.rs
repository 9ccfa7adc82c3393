//! Bodies that GitHub never sends. They are refused or read, in bounded time and memory, and never cause a panic.

use bytes::Bytes;
use headrace_schemas::codec;
use headrace_schemas::id::EventId;
use proptest::prelude::*;

use super::*;

/// The largest event that any body makes: half of NATS' default `max_payload`, so that the stages after this one have
/// room.
const EVENT_MAX_BYTES: usize = 512 << 10;

fn raw(kind: &str, body: impl Into<Vec<u8>>) -> RawDelivery {
    let body = Bytes::from(body.into());
    RawDelivery {
        id: EventId::github("72d3162e-cc78-11e3-81ab-4c9367dc0958"),
        tenant: "acme".to_owned(),
        source: "github".to_owned(),
        event: kind.to_owned(),
        received_at: Timestamp::parse("2026-03-01T12:00:00Z").unwrap(),
        event_time: None,
        headers: vec![(header::CONTENT_TYPE.to_owned(), "application/json".to_owned())],
        sha256: RawDelivery::sha256_of(&body),
        body,
        sequence: 42,
    }
}

/// Normalizes on a thread with a stack like those that the stages run on; `None` when it is refused.
fn check(kind: &str, body: impl Into<Vec<u8>>) -> Option<Event> {
    let raw = raw(kind, body);
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(move || normalize(&raw).ok()).unwrap();
    let event = thread.join().unwrap()?;
    let bytes = codec::encode(&event).unwrap();
    assert!(bytes.len() <= EVENT_MAX_BYTES, "{} bytes", bytes.len());
    assert_eq!(codec::decode::<Event>(&bytes).unwrap(), event);
    Some(event)
}

#[test]
fn a_deeply_nested_body_ends_no_process() {
    let nested = |open: &str, close: &str, depth: usize| {
        format!(r#"{{"sender":{{"login":"mona"}},"client_payload":{}0{}}}"#, open.repeat(depth), close.repeat(depth))
    };
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}"), (r#"[{"a":"#, "}]"), (r#"{"a":[1,"#, "]}")] {
        assert!(check("repository_dispatch", nested(open, close, 100)).is_some(), "{open}");
        for depth in [1_000, 100_000, 1_000_000] {
            assert!(check("repository_dispatch", nested(open, close, depth)).is_none(), "{depth} times {open}");
            assert!(check("repository_dispatch", nested(open, "", depth)).is_none(), "{depth} times {open}");
        }
    }
    // As deep as is allowed.
    let depth = headrace_schemas::json::DEPTH_MAX - 1;
    assert!(check("repository_dispatch", nested("[", "]", depth)).is_some());
    let changes = format!(r#"{{"changes":{}1{}}}"#, r#"{"a":"#.repeat(depth), "}".repeat(depth));
    assert!(check("issues", changes).is_some());
}

#[test]
fn a_text_of_megabytes_makes_a_small_event() {
    let long = "é".repeat(4 << 20);
    let event = check(
        "push",
        format!(
            r#"{{"action":"{long}","ref":"{long}","sender":{{"login":"{long}","id":{digits}}},"repository":{{"full_name":"{long}"}},
                "organization":{{"login":"\u0041{long}"}},"changes":{{"{long}":{{"from":"{long}","to":["{long}"]}}}}}}"#,
            digits = "9".repeat(1 << 20),
        ),
    );
    let event = event.unwrap();
    assert!(event.actor.unwrap().login.ends_with("é…"));
    assert_eq!(event.attributes["ref"].chars().count(), 2_049);
}

#[test]
fn many_keys_many_changes_and_long_lists_make_a_small_event() {
    let numbered = |count: usize, value: &str| {
        (0..count).map(|number| format!(r#""{number}":{value}"#)).collect::<Vec<_>>().join(",")
    };
    let inner = format!("{{{}}}", numbered(300, r#"{"from":1}"#));
    let changes = format!("{{{}}}", numbered(300, &inner));
    let event = check("issues", format!(r#"{{"changes":{changes},{}}}"#, numbered(300_000, "0"))).unwrap();
    assert_eq!(event.changes.len(), 64);
    let list = format!("[{}0]", "0,".repeat(100_000));
    let event =
        check("push", format!(r#"{{"commits":{list},"changes":{{"a":{{"from":{list}}}}},"ref":{list}}}"#)).unwrap();
    assert_eq!(event.changes.len(), 1);
    assert!(!event.attributes.contains_key("ref"));
}

#[test]
fn what_is_broken_behind_the_keys_that_are_kept_is_refused() {
    let keys = (0..400).map(|number| format!(r#""{number}":0,"#)).collect::<String>();
    assert!(check("push", format!("{{{keys}\"last\":0}}")).is_some());
    assert!(check("push", format!("{{{keys}\"last\":}}")).is_none());
}

#[test]
fn the_first_of_two_equal_keys_counts() {
    let event = check("star", r#"{"sender":{"login":"a","login":"b"},"sender":{"login":"c"}}"#).unwrap();
    assert_eq!(event.actor.unwrap().login, "a");
}

#[test]
fn bytes_that_are_no_utf_8_are_refused() {
    for body in
        [&b"{\"sender\":{\"login\":\"\xff\"}}"[..], b"{\"\xc3\":1}", b"{\"a\":\"\xed\xa0\x80\"}", b"\xef\xbb\xbf{}"]
    {
        assert!(check("star", body).is_none(), "{}", body.escape_ascii());
    }
}

#[test]
fn odd_characters_are_carried_as_they_are() {
    let text = "\u{202e}evil\u{2066}\u{200f}\u{7f}\u{85}";
    let event = check("star", format!(r#"{{"sender":{{"login":"{text}\u0000\u0007\ud83d\ude00"}}}}"#)).unwrap();
    assert_eq!(event.actor.unwrap().login, format!("{text}\0\u{7}😀"));
    // Half a surrogate pair is no character; a raw control character is no JSON.
    let event = check("star", r#"{"sender":{"login":"\ud83d"}}"#);
    assert!(event.is_none_or(|event| event.actor.is_none_or(|actor| !actor.login.contains('\u{d83}'))));
    assert!(check("star", "{\"sender\":{\"login\":\"a\0b\"}}").is_none());
}

#[test]
fn huge_numbers_are_no_ids() {
    for number in ["1e999999", "-1e-999999", "123456789012345678901234567890", "1.5", "-0"] {
        let event =
            check("star", format!(r#"{{"sender":{{"login":"a","id":{number}}},"starred_at":{number}}}"#)).unwrap();
        assert!(event.actor.unwrap().id.is_none_or(|id| id == 0), "{number}");
    }
}

#[test]
fn a_form_is_known_in_any_letter_case() {
    for media_type in ["Application/X-WWW-Form-URLEncoded", " application/x-www-form-urlencoded ; charset=utf-8"] {
        let mut form = raw("star", "payload=%7B%22action%22%3A%22created%22%7D");
        form.headers = vec![(header::CONTENT_TYPE.to_owned(), media_type.to_owned())];
        assert_eq!(normalize(&form).unwrap().action.as_deref(), Some("created"), "{media_type}");
    }
}

/// JSON that looks like GitHub's: the names that are read, with any values below them.
fn bodies() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        Just("sender"),
        Just("repository"),
        Just("organization"),
        Just("changes"),
        Just("login"),
        Just("id"),
        Just("action"),
        Just("from"),
        Just("to"),
        Just("full_name"),
        Just("updated_at"),
        Just("ref"),
        Just("pusher"),
    ];
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_filter_map("finite", |number| number.is_finite().then(|| format!("{number:e}"))),
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
        Just("\"2026-03-01T11:00:00Z\"".to_owned()),
        Just("\"\\ud800\"".to_owned()),
        Just("\"\\u0000\"".to_owned()),
    ];
    let value = leaf.prop_recursive(5, 64, 6, move |inner| {
        let entries = prop::collection::vec((key.clone(), inner.clone()), 0..6);
        let object = entries.prop_map(|entries| {
            let entries: Vec<String> = entries.iter().map(|(key, value)| format!("\"{key}\" : {value}")).collect();
            format!("{{{}}}", entries.join(","))
        });
        prop_oneof![3 => object, 1 => prop::collection::vec(inner, 0..6).prop_map(|list| format!("[{}]", list.join(", ")))]
    });
    prop::collection::vec(
        (prop_oneof![Just("sender"), Just("repository"), Just("changes"), Just("issue"), Just("action")], value),
        0..6,
    )
    .prop_map(|entries| {
        let entries: Vec<String> = entries.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        format!("{{{}}}", entries.join(","))
    })
}

proptest! {
    #[test]
    fn any_json_object_becomes_an_event(kind in "(issues|push|star|repository|check_run|member|[a-z_]{1,20})", body in bodies()) {
        let event = normalize(&raw(&kind, body.clone()));
        // serde_json refuses whatever is no JSON. sonic-rs does not look into the escapes of values that it skips.
        if serde_json::from_str::<serde_json::Value>(&body).is_ok() {
            let event = event.unwrap();
            prop_assert_eq!(codec::decode::<Event>(&codec::encode(&event).unwrap()).unwrap(), event);
        }
    }

    #[test]
    fn a_spoilt_body_is_read_or_refused(body in bodies(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut body = body.into_bytes();
        let at = at.index(body.len());
        body[at] = byte;
        let _ = normalize(&raw("issues", body.clone()));
        let _ = normalize(&raw("issues", &body[..at]));
    }

    #[test]
    fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = normalize(&raw("push", body.clone()));
        let mut form = raw("push", body);
        form.headers = vec![(header::CONTENT_TYPE.to_owned(), "application/x-www-form-urlencoded".to_owned())];
        let _ = normalize(&form);
    }
}
