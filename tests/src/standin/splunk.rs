//! A stand-in for Splunk's HTTP Event Collector.
//!
//! It follows Splunk's pages "HTTP Event Collector REST API endpoints" and "Troubleshoot HTTP Event Collector". In a
//! batch, it indexes the events before a bad one, and must not index the others. As proxies before Splunk do, it refuses a
//! request that does not tell its length.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Json, Response};
use axum::routing::{get, post};
use flate2::read::GzDecoder;
use serde_json::{Deserializer, Value, json};

use super::server::{Protocol, Server};

/// The token that it accepts.
pub const TOKEN: &str = "0b3f9d1e-5a77-4f6c-9d2e-2c1f0a6b8e55";
/// The index that the token may write to, besides its default one.
pub const INDEX: &str = "github";

/// The stand-in's data and settings.
#[derive(Default)]
pub struct Index {
    /// The envelopes, in the order in which they were indexed.
    pub envelopes: Vec<Value>,
    /// Ids (`fields.event_id`) that it refuses as bad events.
    pub refused: BTreeSet<String>,
    /// Whether the token is disabled.
    pub disabled: bool,
    /// Whether the queues are full. Then health says so, and events are refused.
    pub full: bool,
    /// A request with more bytes than this, unpacked, is answered with 413. 0 means no bound.
    pub request_bytes_max: usize,
}

type Shared = Arc<Mutex<Index>>;

/// The running stand-in.
pub struct Splunk {
    server: Server<Hec>,
    index: Shared,
}

/// Splunk's protocol for the server.
pub struct Hec;

impl Protocol for Hec {
    fn is_delivery(&self, method: &Method, uri: &Uri) -> bool {
        method == "POST" && uri.path() == "/services/collector/event"
    }

    fn error_body(&self, status: u16) -> String {
        match status {
            500 => json!({ "text": "Internal server error", "code": 8 }).to_string(),
            503 => json!({ "text": "Server is busy", "code": 9 }).to_string(),
            429 => json!({ "text": "HEC queue is at capacity", "code": 26 }).to_string(),
            _ => "<html>proxy</html>".to_owned(),
        }
    }
}

impl Deref for Splunk {
    type Target = Server<Hec>;
    fn deref(&self) -> &Self::Target {
        &self.server
    }
}

impl Splunk {
    /// Starts the stand-in on a free port.
    pub async fn start() -> Self {
        let index = Shared::default();
        let router = Router::new()
            .route("/services/collector/event", post(event))
            .route("/services/collector/health", get(health))
            .with_state(Arc::clone(&index));
        Self { server: Server::start(Hec, router).await, index }
    }

    /// The stand-in's data and settings.
    pub fn index(&self) -> MutexGuard<'_, Index> {
        lock(&self.index)
    }

    /// The ids of the indexed events, in order, including repeats.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        self.index().envelopes.iter().map(id_of).collect()
    }
}

fn lock(index: &Shared) -> MutexGuard<'_, Index> {
    index.lock().unwrap_or_else(PoisonError::into_inner)
}

fn id_of(envelope: &Value) -> String {
    envelope["fields"]["event_id"].as_str().unwrap_or_default().to_owned()
}

fn answer(status: StatusCode, code: u16, text: &str) -> Response {
    (status, Json(json!({ "text": text, "code": code }))).into_response()
}

fn bad_event(code: u16, text: &str, number: usize) -> Response {
    (StatusCode::BAD_REQUEST, Json(json!({ "text": text, "code": code, "invalid-event-number": number })))
        .into_response()
}

async fn health(State(index): State<Shared>) -> Response {
    if lock(&index).full {
        return answer(StatusCode::SERVICE_UNAVAILABLE, 18, "HEC is unhealthy, queues are full");
    }
    answer(StatusCode::OK, 17, "HEC is healthy")
}

async fn event(State(index): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    if !headers.contains_key(header::CONTENT_LENGTH) && !headers.contains_key(header::TRANSFER_ENCODING) {
        return (StatusCode::LENGTH_REQUIRED, "<html>Length Required</html>").into_response();
    }
    let mut index = lock(&index);
    if let Some(refusal) = authorize(&headers, &index) {
        return refusal;
    }
    if index.full {
        return answer(StatusCode::SERVICE_UNAVAILABLE, 9, "Server is busy");
    }
    let body = match headers.get(header::CONTENT_ENCODING).map(header::HeaderValue::as_bytes) {
        None => body.to_vec(),
        Some(b"gzip") => {
            let mut plain = Vec::new();
            if GzDecoder::new(body.as_ref()).read_to_end(&mut plain).is_err() {
                return bad_event(6, "Invalid data format", 0);
            }
            plain
        }
        Some(_) => return (StatusCode::UNSUPPORTED_MEDIA_TYPE, "").into_response(),
    };
    if index.request_bytes_max > 0 && body.len() > index.request_bytes_max {
        return (StatusCode::PAYLOAD_TOO_LARGE, "<html>Request Entity Too Large</html>").into_response();
    }
    if body.iter().all(u8::is_ascii_whitespace) {
        return answer(StatusCode::BAD_REQUEST, 5, "No data");
    }
    if headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/json") {
        return bad_event(6, "Invalid data format", 0);
    }
    for (number, envelope) in Deserializer::from_slice(&body).into_iter::<Value>().enumerate() {
        let Ok(envelope) = envelope else { return bad_event(6, "Invalid data format", number) };
        if let Some((code, text)) = problem(&envelope, &index) {
            return bad_event(code, text, number);
        }
        index.envelopes.push(envelope);
    }
    answer(StatusCode::OK, 0, "Success")
}

fn authorize(headers: &HeaderMap, index: &Index) -> Option<Response> {
    let Some(authorization) = headers.get(header::AUTHORIZATION) else {
        return Some(answer(StatusCode::UNAUTHORIZED, 2, "Token is required"));
    };
    let Some(token) = authorization.to_str().ok().and_then(|text| text.strip_prefix("Splunk ")) else {
        return Some(answer(StatusCode::UNAUTHORIZED, 3, "Invalid authorization"));
    };
    if token != TOKEN {
        return Some(answer(StatusCode::FORBIDDEN, 4, "Invalid token"));
    }
    index.disabled.then(|| answer(StatusCode::FORBIDDEN, 1, "Token disabled"))
}

/// What HEC would find wrong with an envelope.
fn problem(envelope: &Value, index: &Index) -> Option<(u16, &'static str)> {
    const KEYS: [&str; 7] = ["time", "host", "source", "sourcetype", "index", "event", "fields"];
    let Some(object) = envelope.as_object() else { return Some((6, "Invalid data format")) };
    if object.keys().any(|key| !KEYS.contains(&key.as_str())) {
        return Some((6, "Invalid data format"));
    }
    match object.get("event") {
        None => return Some((12, "Event field is required")),
        Some(Value::Null) => return Some((13, "Event field cannot be blank")),
        Some(Value::String(text)) if text.trim().is_empty() => return Some((13, "Event field cannot be blank")),
        Some(_) => {}
    }
    if object.get("time").is_some_and(|time| !time.is_number()) {
        return Some((6, "Invalid data format"));
    }
    if object.get("index").is_some_and(|index| index != INDEX) {
        return Some((7, "Incorrect index"));
    }
    let flat =
        |value: &Value| value.is_string() || value.as_array().is_some_and(|list| list.iter().all(Value::is_string));
    let fields = object.get("fields").and_then(Value::as_object);
    if fields.is_some_and(|fields| !fields.values().all(flat)) || index.refused.contains(&id_of(envelope)) {
        return Some((15, "Error in handling indexed fields"));
    }
    None
}
