//! Messages as the gateway stores them in RAW, with the same subject and headers.

use anyhow::Context as _;
use async_nats::HeaderMap;
use headrace_runtime::observe::trace::TraceParent;
use headrace_schemas::id::EventId;
use headrace_schemas::time::Timestamp;
use headrace_schemas::{header, subject};

use crate::bodies::Body;
use crate::guid;

/// The subject and headers of delivery number `index`, with `body`.
pub(crate) fn envelope(body: &Body, index: u64) -> anyhow::Result<(String, HeaderMap)> {
    let guid = guid::make(index);
    let guid = std::str::from_utf8(&guid).context("a GUID is ASCII")?;
    let id = EventId::github(guid);
    let mut headers = HeaderMap::new();
    headers.insert(header::ID, id.as_str());
    headers.insert(header::SOURCE, "github");
    headers.insert(header::EVENT, body.event.as_str());
    headers.insert(header::RECEIVED_AT, Timestamp::now().as_micros().to_string());
    headers.insert(header::CONTENT_TYPE, "application/json");
    headers.insert(header::GITHUB_EVENT, body.event.as_str());
    headers.insert(header::GITHUB_DELIVERY, guid);
    headers.insert(header::GITHUB_SIGNATURE, format!("sha256={}", hex::encode(body.signature)));
    headers.insert("X-GitHub-Hook-ID", "292430182");
    headers.insert("X-GitHub-Hook-Installation-Target-ID", "79929171");
    headers.insert("X-GitHub-Hook-Installation-Target-Type", "organization");
    headers.insert(header::BODY_SHA256, body.sha256.as_str());
    headers.insert(header::MESSAGE_ID, id.delivery_key(&body.tenant, &body.event, &body.sha256));
    headers.insert(header::TRACEPARENT, TraceParent::generate().as_str());
    Ok((subject::raw(&body.tenant, "github", &body.event), headers))
}
