//! The bodies to send. Their signatures and requests are made once.
//!
//! All of this must happen before a measurement begins, because the generator shares the machine with the servers.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use headrace_ingest::github::tenant::login_of;
use headrace_ingest::tenant::TenantMap;
use headrace_ingest::tenant::Tenants;
use headrace_local::install::{Installer, Terminal};
use headrace_runtime::message::payload::RawDelivery;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::Sha256;

use crate::guid;

/// The webhook secret of every case.
pub(crate) const SECRET: &str = "a secret of benches, as long as GitHub recommends";
/// The path of the gateway's webhook.
const PATH: &str = "/webhooks/github";
/// The npm package with real bodies, its version, and the SHA-256 of its tarball.
const EXAMPLES: (&str, &str, &str) =
    ("@octokit/webhooks-examples", "7.6.1", "89e6cb1c6345d32e3dd775617fa54effbdc26c859e514898d7728e95e9738280");

/// One body, ready to be sent.
pub(crate) struct Body {
    /// The event kind: `push`.
    pub(crate) event: String,
    /// The body, without white space, as GitHub sends it.
    pub(crate) json: Bytes,
    /// HMAC-SHA256 of `json` under [`SECRET`].
    pub(crate) signature: [u8; 32],
    /// SHA-256 of `json`, hex.
    pub(crate) sha256: String,
    /// The tenant that the gateway finds in the body.
    pub(crate) tenant: String,
    /// The whole request. Each delivery overwrites the GUID at `guid_at`.
    request: Vec<u8>,
    guid_at: usize,
}

impl Body {
    fn new(event: String, json: Bytes) -> Self {
        let mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("HMAC takes keys of any length");
        let signature = mac.chain_update(&json).finalize().into_bytes().into();
        let tenant = TenantMap::new(&Tenants::default()).tenant(login_of(&json).as_deref());
        // These are the headers of a real delivery.
        let mut request = format!(
            "POST {PATH} HTTP/1.1\r\nHost: headrace.bench\r\nAccept: */*\r\nUser-Agent: GitHub-Hookshot/0000000\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nX-GitHub-Event: {event}\r\n\
             X-GitHub-Hook-ID: 292430182\r\nX-GitHub-Hook-Installation-Target-ID: 79929171\r\n\
             X-GitHub-Hook-Installation-Target-Type: organization\r\nX-Hub-Signature-256: sha256={}\r\n\
             X-GitHub-Delivery: ",
            json.len(),
            hex::encode(signature)
        )
        .into_bytes();
        let guid_at = request.len();
        request.extend_from_slice(&[b'0'; guid::LENGTH]);
        request.extend_from_slice(b"\r\n\r\n");
        request.extend_from_slice(&json);
        let sha256 = RawDelivery::sha256_of(&json);
        Self { event, json, signature, sha256, tenant, request, guid_at }
    }

    /// Replaces the content of `out` by the request that delivers this body as `guid`.
    pub(crate) fn request(&self, guid: &[u8; guid::LENGTH], out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.request);
        out[self.guid_at..self.guid_at + guid::LENGTH].copy_from_slice(guid);
    }
}

/// The bodies in the order in which they are sent, over and over.
pub(crate) struct Bodies(Vec<Body>);

/// What a report says about the bodies.
#[derive(Debug, Serialize)]
pub(crate) struct Described {
    count: usize,
    median_bytes: usize,
    pub(crate) mean_bytes: usize,
    max_bytes: usize,
}

/// An entry of the examples' `index.json`.
#[derive(Deserialize)]
struct Kind {
    name: String,
    examples: Vec<Box<RawValue>>,
}

impl Bodies {
    /// The bodies of `file`, or the real examples.
    pub(crate) fn load(file: Option<&Path>) -> anyhow::Result<Arc<Self>> {
        let path = match file {
            Some(file) => file.to_owned(),
            None => {
                let (name, version, sha256) = EXAMPLES;
                let installer = Installer::for_user(Arc::new(Terminal))?;
                installer.npm_package(name, version, Some(sha256))?.join("api.github.com/index.json")
            }
        };
        let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let kinds: Vec<Kind> = serde_json::from_slice(&text).with_context(|| {
            format!("{} is not in the form of the index.json of @octokit/webhooks-examples", path.display())
        })?;
        let mut bodies = Vec::new();
        for Kind { name, examples } in kinds {
            bodies.extend(examples.iter().map(|json| Body::new(name.clone(), compact(json.get()).into())));
        }
        anyhow::ensure!(!bodies.is_empty(), "{} holds no bodies", path.display());
        Ok(Arc::new(Self(mix(bodies))))
    }

    /// The body of delivery number `index`.
    pub(crate) fn of(&self, index: u64) -> &Body {
        let count = self.0.len() as u64;
        &self.0[usize::try_from(index % count).unwrap_or_default()]
    }

    /// Each body once.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Body> {
        self.0.iter()
    }

    /// Their sizes.
    pub(crate) fn describe(&self) -> Described {
        let mut sizes: Vec<usize> = self.iter().map(|body| body.json.len()).collect();
        sizes.sort_unstable();
        Described {
            count: sizes.len(),
            median_bytes: sizes[sizes.len() / 2],
            mean_bytes: sizes.iter().sum::<usize>() / sizes.len(),
            max_bytes: sizes.last().copied().unwrap_or_default(),
        }
    }
}

/// Mixes the bodies, which the file groups by kind. The order is the same each time. The step and the count have no
/// common divisor, so each place is visited once.
fn mix(bodies: Vec<Body>) -> Vec<Body> {
    let count = bodies.len();
    let step = (count * 5 / 8..).find(|&step| divisor(step, count) == 1).unwrap_or(1);
    let mut places: Vec<Option<Body>> = bodies.into_iter().map(Some).collect();
    (0..count).filter_map(|turn| places[turn * step % count].take()).collect()
}

fn divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { divisor(b, a % b) }
}

/// Removes the white space between the tokens of JSON. Nothing else changes, not even the form of numbers.
fn compact(json: &str) -> Vec<u8> {
    let (mut in_text, mut escaped) = (false, false);
    let keep = |byte: &u8| {
        if in_text {
            in_text = escaped || *byte != b'"';
            escaped = !escaped && *byte == b'\\';
            return true;
        }
        in_text = *byte == b'"';
        !byte.is_ascii_whitespace()
    };
    json.bytes().filter(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_goes_and_texts_stay() {
        let json = "{ \"a b\" : [ 1.0 , \" \\\" } \\\\\" ] ,\n \"c\": null }";
        assert_eq!(compact(json), br#"{"a b":[1.0," \" } \\"],"c":null}"#);
    }

    #[test]
    fn every_body_has_its_place() {
        for count in [1, 2, 3, 8, 329] {
            let bodies = (0..count).map(|number| Body::new(number.to_string(), Bytes::from_static(b"{}"))).collect();
            let mut events: Vec<String> = mix(bodies).into_iter().map(|body| body.event).collect();
            events.sort_unstable();
            events.dedup();
            assert_eq!(events.len(), count);
        }
    }

    #[test]
    fn a_request_carries_its_guid() {
        let body = Body::new("push".to_owned(), Bytes::from_static(b"{}"));
        let mut out = b"what was there".to_vec();
        body.request(b"72d3162e-cc78-11e3-81ab-4c9367dc0958", &mut out);
        let text = String::from_utf8(out).expect("ASCII");
        assert!(text.starts_with("POST /webhooks/github HTTP/1.1\r\n"), "{text}");
        assert!(text.contains("\r\nContent-Length: 2\r\n"), "{text}");
        assert!(text.ends_with("\r\nX-GitHub-Delivery: 72d3162e-cc78-11e3-81ab-4c9367dc0958\r\n\r\n{}"), "{text}");
    }
}
