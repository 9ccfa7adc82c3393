//! What the headers of a delivery say, checked.

use async_nats::HeaderMap as NatsHeaders;
use axum::http::{HeaderMap, HeaderName};
use bytes::Bytes;
use headrace_runtime::payload::Outgoing;
use headrace_schemas::catalog::{self, Family};
use headrace_schemas::header;
use headrace_schemas::id::EventId;
use headrace_schemas::subject;
use headrace_schemas::time::Timestamp;
use uuid::Uuid;

use super::body::MediaType;
use crate::reply::Refusal;

/// The source's name in subjects and headers.
const SOURCE: &str = "github";
/// Longest event kind accepted; GitHub's longest is 42 characters.
const EVENT_MAX_CHARS: usize = 64;

/// The headers of a delivery.
pub(super) struct Envelope<'a> {
    pub(super) id: EventId,
    pub(super) event: &'a str,
    pub(super) hook_id: Option<u64>,
    pub(super) signature: [u8; 32],
    pub(super) media_type: MediaType,
    headers: &'a HeaderMap,
}

impl<'a> Envelope<'a> {
    /// Checks the headers of a request to the path of `family`.
    pub(super) fn read(headers: &'a HeaderMap, family: Option<Family>) -> Result<Self, Refusal> {
        let media_type = MediaType::of(headers)?;
        let event = text(headers, header::GITHUB_EVENT).ok_or(Refusal::MissingHeader { name: header::GITHUB_EVENT })?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if event.is_empty() || event.len() > EVENT_MAX_CHARS || !event.bytes().all(plain) {
            return Err(Refusal::BadHeader { name: header::GITHUB_EVENT, expected: "an event kind such as `push`" });
        }
        check_family(event, family)?;
        let guid =
            text(headers, header::GITHUB_DELIVERY).ok_or(Refusal::MissingHeader { name: header::GITHUB_DELIVERY })?;
        if Uuid::try_parse(guid).is_err() {
            return Err(Refusal::BadHeader { name: header::GITHUB_DELIVERY, expected: "a GUID" });
        }
        Ok(Self {
            id: EventId::github(guid),
            event,
            hook_id: text(headers, "X-GitHub-Hook-ID").and_then(|id| id.parse().ok()),
            signature: signature(headers)?,
            media_type,
            headers,
        })
    }

    /// The message for RAW, still without its body.
    pub(super) fn outgoing(&self, tenant: &str, received_at: Timestamp) -> Outgoing {
        let mut headers = NatsHeaders::new();
        headers.insert(header::ID, self.id.as_str());
        headers.insert(header::SOURCE, SOURCE);
        headers.insert(header::EVENT, self.event);
        headers.insert(header::RECEIVED_AT, received_at.as_micros().to_string());
        for (name, value) in self.headers {
            if let (Some(name), Ok(value)) = (original_name(name), value.to_str()) {
                headers.insert(name, value);
            }
        }
        Outgoing {
            subject: subject::raw(tenant, SOURCE, self.event),
            message_id: self.id.as_str().to_owned(),
            payload: Bytes::new(),
            headers,
        }
    }
}

/// The name under which a header of the request is kept: those that say what the delivery is, by whom
/// and how it is signed. HTTP names have no letter case, NATS names do: they are kept as GitHub writes them.
fn original_name(name: &HeaderName) -> Option<&str> {
    match name.as_str() {
        "x-github-event" => Some(header::GITHUB_EVENT),
        "x-github-delivery" => Some(header::GITHUB_DELIVERY),
        "x-github-hook-id" => Some("X-GitHub-Hook-ID"),
        "x-github-hook-installation-target-id" => Some("X-GitHub-Hook-Installation-Target-ID"),
        "x-github-hook-installation-target-type" => Some("X-GitHub-Hook-Installation-Target-Type"),
        "x-github-enterprise-host" => Some("X-GitHub-Enterprise-Host"),
        "x-github-enterprise-version" => Some("X-GitHub-Enterprise-Version"),
        "x-hub-signature-256" => Some(header::GITHUB_SIGNATURE),
        "content-type" => Some(header::CONTENT_TYPE),
        other => other.starts_with("x-github-").then_some(other),
    }
}

fn check_family(event: &str, family: Option<Family>) -> Result<(), Refusal> {
    let (Some(accepts), Some(kind)) = (family, catalog::github(event)) else { return Ok(()) };
    match kind.family {
        Some(belongs) if belongs != accepts => {
            Err(Refusal::WrongFamily { accepts: accepts.as_str(), event: event.to_owned(), belongs: belongs.as_str() })
        }
        _ => Ok(()),
    }
}

fn signature(headers: &HeaderMap) -> Result<[u8; 32], Refusal> {
    let value = headers.get(header::GITHUB_SIGNATURE).ok_or(Refusal::SignatureMissing)?;
    let hex = value.to_str().ok().and_then(|text| text.strip_prefix("sha256=")).ok_or(Refusal::SignatureMalformed)?;
    let mut signature = [0; 32];
    hex::decode_to_slice(hex, &mut signature).map_err(|_| Refusal::SignatureMalformed)?;
    Ok(signature)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
