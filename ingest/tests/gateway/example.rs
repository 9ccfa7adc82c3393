//! The source that the page "Adding a part" writes. What the page shows is what runs here.

mod doors;

use headrace_runtime::broker::Stream;
use headrace_runtime::secret::Secret;
use headrace_schemas::header;
use headrace_tests::product::hook::signature;
use reqwest::RequestBuilder;

use self::doors::Doors;
use crate::support::TestGateway;

const PAGE: &str = include_str!("../../../deploy/docs/adding-a-part.md");
const SOURCE: &str = include_str!("example/doors.rs");
const BODY: &str = r#"{"door":"north","number":7,"at":"2025-03-01T12:00:00Z","site":"Acme","card":"4711"}"#;
const AHEAD: &str = r#"{"door":"north","number":8,"at":"2999-03-01T12:00:00Z","site":"Acme"}"#;

#[test]
fn the_page_shows_the_source_that_is_tested() {
    let section = PAGE.split("## A source").nth(1).unwrap().split("\n## ").next().unwrap();
    let shown = section.split("```rust\n").nth(1).unwrap().split("```").next().unwrap();
    // The page shows the file as it is in `ingest/src/`.
    let source = SOURCE.replace("headrace_ingest::", "crate::").replace("pub(crate) ", "pub ");
    assert_eq!(shown, source, "copy ingest/tests/gateway/example/doors.rs to the page, with `crate` and `pub`");
}

#[tokio::test]
async fn the_source_of_the_page_is_served_by_the_gateway() {
    let doors = Doors { key: Secret::new("the site's key"), tenants: Default::default() };
    let gateway = TestGateway::with_source(doors).await;
    let request = |key: &str, body: &'static str| {
        let signature = signature(key, body.as_bytes());
        let signature = signature.trim_start_matches("sha256=").to_owned();
        gateway.http().post(gateway.url("/collect/doors")).header("X-Door-Signature", signature).body(body)
    };
    let send = async |request: RequestBuilder| {
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    assert_eq!(send(request("the site's key", BODY)).await, (200, "taken\n".to_owned()));
    assert_eq!(send(request("the site's key", BODY)).await, (200, "known\n".to_owned()));
    for (refused, status, code) in [
        (gateway.http().post(gateway.url("/collect/doors")).body(BODY), 400, "missing_header"),
        (request("a guess", BODY), 401, "door_signature_wrong"),
        (request("the site's key", "{}"), 400, "door_malformed"),
        (request("the site's key", AHEAD), 400, "door_malformed"),
        (gateway.http().post(gateway.webhook("")).body(BODY), 404, "unknown_path"),
    ] {
        let before = gateway.counted(code);
        let (found, body) = send(refused).await;
        assert!(found == status && body.contains(&format!("\"error\":\"{code}\"")), "{code}: {found} {body}");
        assert_eq!(gateway.counted(code), before + 1.0);
    }

    let messages = gateway.nats().messages(Stream::Raw).await;
    let [message] = messages.as_slice() else { panic!("one opening, one message: {messages:?}") };
    assert_eq!((message.subject.as_str(), &message.payload[..]), ("raw.acme.doors.opened", BODY.as_bytes()));
    let found = |name: &str| message.headers.get(name).unwrap().to_string();
    assert_eq!((found(header::ID), found(header::SOURCE)), ("doors:north-7".to_owned(), "doors".to_owned()));
    assert_eq!(found(header::EVENT_TIME), "1740830400000000");
}
