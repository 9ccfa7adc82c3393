//! What the headers of a delivery say, checked before the body is read.
//!
//! GitHub signs only the body, so no header proves who sent it or what it is. `verify` judges the signature.

use async_nats::HeaderMap as NatsHeaders;
use axum::http::{HeaderMap, HeaderName};
use bytes::Bytes;
use headrace_runtime::message::payload::Outgoing;
use headrace_schemas::catalog::{self, Family};
use headrace_schemas::header;
use headrace_schemas::id::EventId;
use headrace_schemas::subject;
use headrace_schemas::time::Timestamp;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use super::denied::Denied;
use super::media_type::MediaType;
use super::verify::{HOOK_ID, parse_signature};
use crate::receive::body;
use crate::receive::reply::Refusal;

/// The source's name in subjects and headers.
pub(super) const SOURCE: &str = "github";
/// Longest event kind accepted; GitHub's longest is 42 characters.
const EVENT_MAX_CHARS: usize = 64;
/// What a delivery's GUID looks like.
const GUID: &str = "a GUID as GitHub writes it (32 hex digits with hyphens, 8-4-4-4-12, without braces or prefix)";
/// Most bytes of headers that are kept with a body. GitHub's are about 700. Together with those that DEAD adds, they
/// stay within what the runtime leaves for headers below the broker's `max_payload`.
const HEADERS_MAX_BYTES: usize = 8 << 10;

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
    /// Checks the headers of a request. `family` is that of the path, if the path names one.
    pub(super) fn read(headers: &'a HeaderMap, family: Option<Family>) -> Result<Self, Refusal> {
        let media_type = MediaType::of(headers)?;
        body::check_encoding(headers)?;
        let event = text(headers, header::GITHUB_EVENT).ok_or(Refusal::MissingHeader { name: header::GITHUB_EVENT })?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if event.is_empty() || event.len() > EVENT_MAX_CHARS || !event.bytes().all(plain) {
            return Err(Refusal::BadHeader { name: header::GITHUB_EVENT, expected: "an event kind such as `push`" });
        }
        check_family(event, family)?;
        let guid =
            text(headers, header::GITHUB_DELIVERY).ok_or(Refusal::MissingHeader { name: header::GITHUB_DELIVERY })?;
        if !is_guid(guid) {
            return Err(Refusal::BadHeader { name: header::GITHUB_DELIVERY, expected: GUID });
        }
        let kept = headers.iter().filter_map(|(name, value)| Some(original_name(name)?.len() + value.len()));
        if kept.sum::<usize>() > HEADERS_MAX_BYTES {
            return Err(Refusal::BadHeader { name: "X-GitHub-*", expected: "at most 8192 bytes in all" });
        }
        Ok(Self {
            id: EventId::github(guid),
            event,
            hook_id: text(headers, HOOK_ID).and_then(|id| id.parse().ok()),
            signature: signature(headers)?,
            media_type,
            headers,
        })
    }

    /// The message for RAW, without its body so far. `sha256` is the hash of that body.
    pub(super) fn outgoing(&self, tenant: &str, received_at: Timestamp, sha256: &str) -> Outgoing {
        let mut headers = NatsHeaders::new();
        headers.insert(header::ID, self.id.as_str());
        headers.insert(header::SOURCE, SOURCE);
        headers.insert(header::EVENT, self.event);
        headers.insert(header::RECEIVED_AT, received_at.as_micros().to_string());
        headers.insert(header::BODY_SHA256, sha256);
        for (name, value) in self.headers {
            if let (Some(name), Ok(value)) = (original_name(name), value.to_str())
                // If a header came twice, the first one was checked, so keep that one.
                && headers.get(name).is_none()
            {
                headers.insert(name, value);
            }
        }
        Outgoing {
            subject: subject::raw(tenant, SOURCE, self.event),
            message_id: self.id.delivery_key(tenant, self.event, sha256),
            payload: Bytes::new(),
            headers,
        }
    }
}

/// The name under which a header of the request is kept. We keep the headers that say what the delivery is, who sent it
/// and how it is signed. HTTP ignores letter case in names and NATS does not, so we spell them as GitHub does.
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

fn signature(headers: &HeaderMap) -> Result<[u8; 32], Denied> {
    let value = headers.get(header::GITHUB_SIGNATURE).ok_or(Denied::SignatureMissing)?;
    value.to_str().ok().and_then(parse_signature).ok_or(Denied::SignatureMalformed)
}

/// Accepts one spelling of a GUID, in any letter case. With two spellings, one delivery would be two events.
fn is_guid(text: &str) -> bool {
    // Of the spellings that the library reads, only the hyphenated one has this length.
    text.len() == Hyphenated::LENGTH && Uuid::try_parse(text).is_ok()
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn delivery() -> HeaderMap {
        let signature = format!("sha256={}", "0".repeat(64));
        let pairs = [
            (header::GITHUB_EVENT, "push"),
            (header::GITHUB_DELIVERY, "72d3162e-cc78-11e3-81ab-4c9367dc0958"),
            (header::GITHUB_SIGNATURE, signature.as_str()),
            (header::CONTENT_TYPE, "application/json"),
            ("X-GitHub-Hook-ID", "7"),
            ("Cookie", "secret"),
        ];
        let pair = |(name, value): (&str, &str)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        pairs.into_iter().map(pair).collect()
    }

    #[test]
    fn headers_that_would_not_fit_beside_a_body_are_refused() {
        let mut headers = delivery();
        headers.insert("x-github-more", HeaderValue::from_str(&"a".repeat(7_900)).unwrap());
        assert!(Envelope::read(&headers, None).is_ok());
        headers.insert("x-github-most", HeaderValue::from_str(&"a".repeat(7_900)).unwrap());
        assert_eq!(Envelope::read(&headers, None).err().map(|refusal| refusal.code()), Some("bad_header"));
    }

    #[test]
    fn a_guid_has_one_spelling() {
        const SPELLED: &str = "72d3162e-cc78-11e3-81ab-4c9367dc0958";
        let id = |guid: &str| {
            let mut headers = delivery();
            headers.insert("x-github-delivery", guid.parse().unwrap());
            Envelope::read(&headers, None).map(|envelope| envelope.id).map_err(|refusal| refusal.to_string())
        };
        for guid in [SPELLED, "72D3162E-CC78-11E3-81AB-4C9367DC0958", "72d3162E-cc78-11E3-81ab-4c9367dc0958"] {
            assert_eq!(id(guid), Ok(EventId::github(SPELLED)));
        }
        let bare = SPELLED.replace('-', "");
        let moved = SPELLED.replacen("-cc78", "cc78-", 1);
        let others = [&format!("{{{SPELLED}}}"), &format!("urn:uuid:{SPELLED}"), &bare, &moved, "", &SPELLED[1..]];
        for guid in others {
            let words = format!("expected {GUID} in the header X-GitHub-Delivery, found something else");
            assert_eq!(id(guid), Err(words), "{guid}");
        }
    }

    #[test]
    fn of_a_header_that_came_twice_the_one_that_was_checked_is_kept() {
        let mut headers = delivery();
        for (name, value) in [("x-hub-signature-256", "sha256=other"), ("content-type", "text/plain")] {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let outgoing = Envelope::read(&headers, None).unwrap_or_else(|refusal| panic!("{refusal}"));
        let kept = outgoing.outgoing("acme", Timestamp::from_micros(1), &"ab".repeat(32)).headers;
        let kept = |name: &str| kept.get(name).map(ToString::to_string);
        assert_eq!(kept(header::GITHUB_SIGNATURE), Some(format!("sha256={}", "0".repeat(64))));
        assert_eq!(kept(header::CONTENT_TYPE).as_deref(), Some("application/json"));
    }

    proptest! {
        /// The envelope refuses any header or turns it into a message; it never panics.
        #[test]
        fn any_headers_are_refused_or_kept(
            name in prop_oneof![
                Just(header::GITHUB_EVENT), Just(header::GITHUB_DELIVERY), Just(header::GITHUB_SIGNATURE),
                Just(header::CONTENT_TYPE), Just("X-GitHub-Hook-ID"), Just("X-GitHub-Any"), Just("x-github-!#$%&'*+.^_`|~"),
            ],
            value in prop::collection::vec(any::<u8>(), 0..100),
            tenant in any::<String>(),
        ) {
            let mut headers = delivery();
            let Ok(value) = HeaderValue::from_bytes(&value) else { return Ok(()) };
            headers.append(name.parse::<HeaderName>().unwrap(), value);
            if let Ok(envelope) = Envelope::read(&headers, None) {
                let outgoing = envelope.outgoing(&tenant, Timestamp::from_micros(1), &"ab".repeat(32));
                prop_assert!(subject::is_live(&outgoing.subject), "{}", outgoing.subject);
                prop_assert!(outgoing.headers.get("Cookie").is_none());
            }
        }
    }
}
