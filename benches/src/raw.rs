//! Messages as the gateway stores them in RAW, with the same subject and headers.
//!
//! The digests are those of the published body, because nobody checks them here, and a client that hashed would publish
//! more slowly. No two messages share a key anyway: it holds the id.

use anyhow::Context as _;
use async_nats::HeaderMap;
use bytes::Bytes;
use headrace_runtime::observe::trace::TraceParent;
use headrace_schemas::id::EventId;
use headrace_schemas::time::Timestamp;
use headrace_schemas::{header, subject};

use crate::bodies::{Bodies, tenant_of};
use crate::guid;

/// The subject, headers and body of delivery number `index`.
pub(crate) fn message(bodies: &Bodies, index: u64) -> anyhow::Result<(String, HeaderMap, Bytes)> {
    let (body, json) = (bodies.of(index), bodies.json(index));
    let tenant = tenant_of(&json);
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
    headers.insert(header::MESSAGE_ID, id.delivery_key(&tenant, &body.event, &body.sha256));
    headers.insert(header::TRACEPARENT, TraceParent::generate().as_str());
    Ok((subject::raw(&tenant, "github", &body.event), headers, json))
}
