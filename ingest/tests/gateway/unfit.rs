//! A source that does not check what it takes from a body.

use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use headrace_ingest::source::{Push, Receipt, Record, Refusal};
use headrace_runtime::broker::Stream;
use headrace_schemas::id::EventId;
use serde::Deserialize;
use serde_json::json;

use crate::support::TestGateway;

/// Notes: an id, a kind and a header each, as they come.
struct Notes;

#[derive(Deserialize)]
struct Note {
    id: String,
    kind: String,
    header: (String, String),
}

impl Push for Notes {
    const NAME: &'static str = "notes";
    type Head = ();
    type Sender = ();

    fn paths(&self) -> Vec<String> {
        vec!["/collect/notes".to_owned()]
    }

    fn head(&self, _path: &str, _headers: &HeaderMap) -> Result<(), Refusal> {
        Ok(())
    }

    fn verify(&self, (): &(), _body: &[u8]) -> Result<(), Refusal> {
        Ok(())
    }

    fn split(&self, (): (), (): (), body: Bytes) -> Result<Vec<Record>, Refusal> {
        let notes: Vec<Note> = serde_json::from_slice(&body).unwrap();
        let record = |Note { id, kind, header }: Note| Record {
            id: EventId::of_source(Self::NAME, &id),
            event_time: None,
            kind,
            tenant: "acme".to_owned(),
            headers: vec![header],
            body: body.clone(),
        };
        Ok(notes.into_iter().map(record).collect())
    }

    fn answer(&self, _receipts: &[Receipt]) -> Response {
        StatusCode::NO_CONTENT.into_response()
    }
}

#[tokio::test]
async fn a_record_that_no_message_can_hold_is_refused_with_all_beside_it() {
    let gateway = TestGateway::with_source(Notes).await;
    let note =
        |id: &str, kind: &str, name: &str, value: &str| json!({ "id": id, "kind": kind, "header": [name, value] });
    let good = note("1", "made", "X-Of", "me");
    let send = async |notes: serde_json::Value| {
        let request = gateway.http().post(gateway.url("/collect/notes")).body(notes.to_string());
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    for (wrong, told) in [
        (note("1\n2", "made", "X-Of", "me"), "an id of one line in each record, found a line break in `notes:1\\\\n2`"),
        (note("2", "ma\rde", "X-Of", "me"), "a kind of one line"),
        (note("2", "made", "X-Of", "me\r\nX-Of: you"), "a header of one line"),
        (note("2", "made", "X-Of\n", "me"), "as the name of a header in each record, found `X-Of\\\\n`"),
        (note("2", "made", "", "me"), "as the name of a header"),
    ] {
        let before = gateway.counted("record_unfit");
        let (status, body) = send(json!([good, wrong])).await;
        assert!(status == 400 && body.contains("record_unfit") && body.contains("the source notes"), "{status} {body}");
        assert!(body.contains(told), "{body}");
        assert_eq!(gateway.counted("record_unfit"), before + 1.0);
    }
    assert_eq!(gateway.nats().messages(Stream::Raw).await.len(), 0, "all records are stored, or none");
    assert_eq!(send(json!([good])).await.0, 204);
}
