//! The stand-ins refuse what the real receivers refuse.

use headrace_tests::standin::jira::{API_TOKEN, EMAIL, Jira};
use headrace_tests::standin::splunk::{INDEX, Splunk, TOKEN};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};

/// The status and the body of the answer.
async fn answer(request: RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or(Value::Null))
}

#[tokio::test]
async fn splunk_refuses_bad_requests() {
    let splunk = Splunk::start().await;
    let post = |authorization: Option<&str>, body: &str| {
        let request = Client::new().post(format!("{}/services/collector/event", splunk.url()));
        let request = request.header("content-type", "application/json").body(body.to_owned());
        let request = if body.is_empty() { request.header("content-length", 0) } else { request };
        match authorization {
            Some(value) => request.header("authorization", value),
            None => request,
        }
    };
    let authorization = format!("Splunk {TOKEN}");
    let good = Some(authorization.as_str());
    let event = r#"{"event":"x"}"#;
    for (authorization, body, status, code, number) in [
        (good, event.to_owned(), 200, 0, None),
        (None, event.to_owned(), 401, 2, None),
        (Some(TOKEN), event.to_owned(), 401, 3, None),
        (Some("Splunk other"), event.to_owned(), 403, 4, None),
        (good, String::new(), 400, 5, None),
        (good, format!("{event}{event}{{"), 400, 6, Some(2)),
        (good, format!(r#"{event}{{"event":"x","color":"red"}}"#), 400, 6, Some(1)),
        (good, format!(r#"{event}{{"event":"x","time":"now"}}"#), 400, 6, Some(1)),
        (good, r#"{"event":"x","index":"elsewhere"}"#.to_owned(), 400, 7, Some(0)),
        (good, format!(r#"{{"event":"x","index":"{INDEX}"}}{{"time":1}}"#), 400, 12, Some(1)),
        (good, r#"{"event":" "}"#.to_owned(), 400, 13, Some(0)),
        (good, r#"{"event":"x","fields":{"a":{"b":"c"}}}"#.to_owned(), 400, 15, Some(0)),
    ] {
        let (found, refusal) = answer(post(authorization, &body)).await;
        assert_eq!((found, refusal["code"].as_i64()), (status, Some(code)), "{body}");
        assert_eq!(refusal["invalid-event-number"].as_i64(), number, "{body}");
    }
    // The client library tells no length of an empty body.
    let unmeasured = Client::new().post(format!("{}/services/collector/event", splunk.url()));
    assert_eq!(answer(unmeasured.header("authorization", &authorization)).await.0, 411, "without a length");
    let plain = Client::new().post(format!("{}/services/collector/event", splunk.url()));
    let plain = plain.header("authorization", &authorization).body(event);
    assert_eq!(answer(plain).await.0, 400, "without a media type");
    // The event of the good request, and the events before each bad one.
    assert_eq!(splunk.index().envelopes.len(), 6);
}

fn jira_request(jira: &Jira, method: Method, path: &str) -> RequestBuilder {
    let url = format!("{}/rest/api/3/{path}", jira.url());
    Client::new().request(method, url).basic_auth(EMAIL, Some(API_TOKEN))
}

fn text(text: &str) -> Value {
    let paragraph = json!({ "type": "paragraph", "content": [{ "type": "text", "text": text }] });
    json!({ "type": "doc", "version": 1, "content": [paragraph] })
}

fn ticket() -> Value {
    json!({ "fields": {
        "project": { "key": "SEC" }, "issuetype": { "name": "Task" }, "summary": "s",
        "description": text("d"), "labels": ["headrace-1"],
    }})
}

#[tokio::test]
async fn jira_refuses_bad_tickets() {
    let jira = Jira::start().await;
    assert_eq!(answer(jira_request(&jira, Method::POST, "issue").json(&ticket())).await.0, 201);
    for (field, value) in [
        ("project", json!({ "key": "HR" })),
        ("issuetype", json!({ "name": "Epic" })),
        ("summary", json!("two\nlines")),
        ("summary", json!("x".repeat(256))),
        ("summary", json!("")),
        ("description", json!("plain text")),
        ("description", text("")),
        ("description", text(&"x".repeat(33_000))),
        ("description", json!({ "type": "doc", "version": 1, "content": [{ "type": "text", "text": "bare" }] })),
        ("labels", json!(["two words"])),
        ("priority", json!({ "name": "Urgent" })),
    ] {
        let mut body = ticket();
        body["fields"][field] = value.clone();
        let (status, refusal) = answer(jira_request(&jira, Method::POST, "issue").json(&body)).await;
        assert_eq!(status, 400, "{field} {value}");
        assert!(refusal["errors"].get(field).is_some(), "{field} {value}: {refusal}");
    }
    let untyped = jira_request(&jira, Method::POST, "issue").body(ticket().to_string());
    assert_eq!(answer(untyped).await.0, 415);
    let stranger = Client::new().post(format!("{}/rest/api/3/issue", jira.url())).basic_auth(EMAIL, Some("old"));
    let stranger = stranger.json(&ticket());
    assert_eq!(answer(stranger).await.0, 401);
    assert_eq!(jira.data().issues.len(), 1);
}

#[tokio::test]
async fn jira_finds_what_is_indexed_or_reconciled() {
    let jira = Jira::start().await;
    jira.data().index_stopped = true;
    for _ in 0..3 {
        answer(jira_request(&jira, Method::POST, "issue").json(&ticket())).await;
    }
    let search = async |extra: Value| {
        let jql = r#"project = "SEC" AND labels in ("headrace-1") ORDER BY created ASC"#;
        let mut body = json!({ "jql": jql, "fields": ["labels"] });
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let (status, found) = answer(jira_request(&jira, Method::POST, "search/jql").json(&body)).await;
        let ids = found["issues"].as_array().cloned().unwrap_or_default();
        let ids: Vec<String> = ids.iter().map(|issue| issue["id"].as_str().unwrap().to_owned()).collect();
        (status, ids, found["nextPageToken"].as_str().map(str::to_owned))
    };
    assert_eq!(search(json!({})).await, (200, vec![], None));
    assert_eq!(search(json!({ "reconcileIssues": [10_002] })).await, (200, vec!["10002".to_owned()], None));
    jira.index_all();
    let (_, first, token) = search(json!({})).await;
    assert_eq!(first, ["10001", "10002"]);
    let (_, rest, end) = search(json!({ "nextPageToken": token.unwrap() })).await;
    assert_eq!((rest, end), (vec!["10003".to_owned()], None));
    for jql in [r#"labels in ("headrace-1")"#, r#"project = "HR" AND labels in ("a") ORDER BY created ASC"#] {
        assert_eq!(search(json!({ "jql": jql })).await.0, 400, "{jql}");
    }
}
