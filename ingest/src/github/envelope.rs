//! What the headers of a delivery say, checked before the body is read.
//!
//! GitHub signs only the body, so no header proves who sent it or what it is. `verify` judges the signature.

use axum::http::{HeaderMap, HeaderName};
use bytes::Bytes;
use headrace_schemas::catalog::{self, Family};
use headrace_schemas::header;
use headrace_schemas::id::EventId;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use super::denied::Denied;
use super::media_type::MediaType;
use super::verify::{HOOK_ID, parse_signature};
use crate::source::{Record, Refusal};

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
#[derive(Debug)]
pub struct Envelope {
    id: EventId,
    event: String,
    pub(super) hook_id: Option<u64>,
    pub(super) signature: [u8; 32],
    pub(super) media_type: MediaType,
    headers: Vec<(String, String)>,
}

impl Envelope {
    /// Checks the headers of a request. `family` is that of the path, if the path names one.
    pub(super) fn read(headers: &HeaderMap, family: Option<Family>) -> Result<Self, Refusal> {
        let media_type = MediaType::of(headers)?;
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
            event: event.to_owned(),
            hook_id: text(headers, HOOK_ID).and_then(|id| id.parse().ok()),
            signature: signature(headers)?,
            media_type,
            headers: kept_headers(headers),
        })
    }

    /// The record of a delivery with `body`.
    pub(super) fn into_record(self, tenant: String, body: Bytes) -> Record {
        let Self { id, event, headers, .. } = self;
        Record { event_time: id.created_at(), id, kind: event, tenant, headers, body }
    }
}

/// The headers that are kept with a body. If a header came twice, the first one was checked, so that one is kept.
fn kept_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let kept = headers.keys().filter_map(|name| {
        let value = headers.get(name)?.to_str().ok()?;
        Some((original_name(name)?.to_owned(), value.to_owned()))
    });
    kept.collect()
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

fn check_family(event: &str, family: Option<Family>) -> Result<(), Denied> {
    let (Some(accepts), Some(kind)) = (family, catalog::github(event)) else { return Ok(()) };
    match kind.family {
        Some(belongs) if belongs != accepts => {
            let (accepts, event, belongs) = (accepts.as_str(), event.to_owned(), belongs.as_str());
            Err(Denied::WrongFamily { accepts, event, belongs })
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
    use headrace_schemas::subject;
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
        let kept = Envelope::read(&headers, None).unwrap_or_else(|refusal| panic!("{refusal}")).headers;
        let kept = |name: &str| -> Vec<&str> {
            kept.iter().filter(|(own, _)| own == name).map(|(_, value)| value.as_str()).collect()
        };
        assert_eq!(kept(header::GITHUB_SIGNATURE), [format!("sha256={}", "0".repeat(64))]);
        assert_eq!(kept(header::CONTENT_TYPE), ["application/json"]);
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
                let record = envelope.into_record(tenant, Bytes::new());
                let subject = subject::raw(&record.tenant, SOURCE, &record.kind);
                prop_assert!(subject::is_live(&subject), "{}", subject);
                prop_assert!(record.headers.iter().all(|(name, _)| !name.eq_ignore_ascii_case("Cookie")));
            }
        }
    }
}
