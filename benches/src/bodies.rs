//! The bodies to send, each in the request that delivers it.
//!
//! Whatever can be made before a measurement begins must be, because the generator shares the machine with the servers.
//! A load that repeats the bodies only writes a GUID into a request. One that varies them writes a body of its own for
//! each delivery ([`crate::vary`]), and signs it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use headrace_ingest::github::tenant::login_of;
use headrace_ingest::tenant::TenantMap;
use headrace_ingest::tenant::Tenants;
use headrace_local::install::{Installer, Terminal};
use headrace_runtime::message::payload::RawDelivery;
use headrace_schemas::time::Timestamp;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::Sha256;

use crate::cli::{Sending, Variety};
use crate::figures::round;
use crate::guid;
use crate::vary::{Seed, Variation};

/// The webhook secret of every case.
pub(crate) const SECRET: &str = "a secret of benches, as long as GitHub recommends";
/// The path of the gateway's webhook.
const PATH: &str = "/webhooks/github";
/// The npm package with real bodies, its version, and the SHA-256 of its tarball.
const EXAMPLES: (&str, &str, &str) =
    ("@octokit/webhooks-examples", "7.6.1", "89e6cb1c6345d32e3dd775617fa54effbdc26c859e514898d7728e95e9738280");

/// How many requests are made to see what one costs.
const TRIED: u64 = 2_000;

/// One body as GitHub publishes it, ready to be sent.
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
    /// The whole request. Each delivery overwrites the GUID at `guid_at`, and one of its own body also the signature and
    /// the body.
    request: Vec<u8>,
    signature_at: usize,
    guid_at: usize,
    body_at: usize,
}

impl Body {
    fn new(event: String, json: Bytes) -> Self {
        let signature = key().chain_update(&json).finalize().into_bytes().into();
        let tenant = tenant_of(&json);
        // These are the headers of a real delivery.
        let mut request = format!(
            "POST {PATH} HTTP/1.1\r\nHost: headrace.bench\r\nAccept: */*\r\nUser-Agent: GitHub-Hookshot/0000000\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nX-GitHub-Event: {event}\r\n\
             X-GitHub-Hook-ID: 292430182\r\nX-GitHub-Hook-Installation-Target-ID: 79929171\r\n\
             X-GitHub-Hook-Installation-Target-Type: organization\r\nX-Hub-Signature-256: sha256=",
            json.len(),
        )
        .into_bytes();
        let signature_at = request.len();
        request.extend_from_slice(hex::encode(signature).as_bytes());
        request.extend_from_slice(b"\r\nX-GitHub-Delivery: ");
        let guid_at = request.len();
        request.extend_from_slice(&[b'0'; guid::LENGTH]);
        request.extend_from_slice(b"\r\n\r\n");
        let body_at = request.len();
        request.extend_from_slice(&json);
        let sha256 = RawDelivery::sha256_of(&json);
        Self { event, json, signature, sha256, tenant, request, signature_at, guid_at, body_at }
    }
}

/// The key of [`SECRET`].
fn key() -> Hmac<Sha256> {
    Hmac::new_from_slice(SECRET.as_bytes()).expect("HMAC takes keys of any length")
}

/// The tenant that the gateway finds in `json`.
pub(crate) fn tenant_of(json: &[u8]) -> String {
    TenantMap::new(&Tenants::default()).tenant(login_of(json).as_deref())
}

/// The bodies in the order in which they are sent, over and over.
pub(crate) struct Bodies {
    bodies: Vec<Body>,
    variation: Option<Variation>,
    key: Hmac<Sha256>,
}

/// What a report says about the bodies.
#[derive(Debug, Serialize)]
pub(crate) struct Described {
    load: Variety,
    count: usize,
    median_bytes: usize,
    pub(crate) mean_bytes: usize,
    max_bytes: usize,
    /// Microseconds that one request takes to be made, on a core of its own.
    request_us: f64,
    /// The same for a load that repeats the bodies.
    repeated_request_us: f64,
}

/// An entry of the examples' `index.json`.
#[derive(Deserialize)]
struct Kind {
    name: String,
    examples: Vec<Box<RawValue>>,
}

impl Bodies {
    /// The bodies that the command line asks for.
    pub(crate) fn load(sending: &Sending) -> anyhow::Result<Arc<Self>> {
        Self::with_seed(sending, sending.seed)
    }

    /// The same bodies, varied in another way.
    pub(crate) fn with_seed(sending: &Sending, number: u64) -> anyhow::Result<Arc<Self>> {
        let bodies = read(sending.bodies.as_deref())?;
        let began = Timestamp::now().as_micros() / 1_000_000;
        let seed = Seed { number, began, organizations: sending.organizations };
        Ok(Arc::new(Self::new(bodies, (sending.load == Variety::Varied).then_some(seed))?))
    }

    /// The bodies of `file`, or the real examples, as they are.
    pub(crate) fn repeated(file: Option<&Path>) -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self::new(read(file)?, None)?))
    }

    fn new(bodies: Vec<Body>, seed: Option<Seed>) -> anyhow::Result<Self> {
        let variation = match seed {
            None => None,
            Some(seed) => {
                let texts = bodies.iter().map(|body| Ok((std::str::from_utf8(&body.json)?, login_of(&body.json))));
                let texts = texts.collect::<anyhow::Result<Vec<_>>>().context("a body is not UTF-8")?;
                Some(Variation::new(&texts, seed))
            }
        };
        Ok(Self { bodies, variation, key: key() })
    }

    fn place(&self, index: u64) -> usize {
        usize::try_from(index % self.bodies.len() as u64).unwrap_or_default()
    }

    /// The body that that of delivery number `index` is made from.
    pub(crate) fn of(&self, index: u64) -> &Body {
        &self.bodies[self.place(index)]
    }

    /// The body of delivery number `index`.
    pub(crate) fn json(&self, index: u64) -> Bytes {
        let place = self.place(index);
        let json = &self.bodies[place].json;
        let Some(variation) = &self.variation else { return json.clone() };
        let mut json = json.to_vec();
        variation.write(place, index, &mut json);
        json.into()
    }

    /// The login that the gateway finds in `json`, which is one of these bodies.
    pub(crate) fn login(&self, json: &[u8]) -> String {
        login_of(json).unwrap_or_else(|| self.bodies[0].tenant.clone())
    }

    /// Replaces the content of `out` by the request that brings delivery number `index` as `guid`.
    pub(crate) fn request(&self, index: u64, guid: &[u8; guid::LENGTH], out: &mut Vec<u8>) {
        self.write(self.variation.as_ref(), index, guid, out);
    }

    fn write(&self, variation: Option<&Variation>, index: u64, guid: &[u8; guid::LENGTH], out: &mut Vec<u8>) {
        let place = self.place(index);
        let body = &self.bodies[place];
        out.clear();
        out.extend_from_slice(&body.request);
        out[body.guid_at..body.guid_at + guid::LENGTH].copy_from_slice(guid);
        let Some(variation) = variation else { return };
        let (head, json) = out.split_at_mut(body.body_at);
        variation.write(place, index, json);
        let signature = self.key.clone().chain_update(&*json).finalize().into_bytes();
        let written = hex::encode_to_slice(signature, &mut head[body.signature_at..body.signature_at + 64]);
        written.expect("64 digits hold 32 bytes");
    }

    /// Microseconds of this thread's time for one request.
    fn request_us(&self, variation: Option<&Variation>) -> f64 {
        let mut request = Vec::new();
        let mut make = |count| (0..count).for_each(|it| self.write(variation, it, &guid::make(it), &mut request));
        // The first ones warm up.
        make(TRIED / 4);
        let began = thread_time();
        make(TRIED);
        round((thread_time() - began).as_secs_f64() * 1e6 / TRIED as f64)
    }

    /// Each body once.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Body> {
        self.bodies.iter()
    }

    /// Their sizes, and what a request costs.
    pub(crate) fn describe(&self) -> Described {
        let mut sizes: Vec<usize> = self.iter().map(|body| body.json.len()).collect();
        sizes.sort_unstable();
        Described {
            load: if self.variation.is_some() { Variety::Varied } else { Variety::Repeated },
            count: sizes.len(),
            median_bytes: sizes[sizes.len() / 2],
            mean_bytes: sizes.iter().sum::<usize>() / sizes.len(),
            max_bytes: sizes.last().copied().unwrap_or_default(),
            request_us: self.request_us(self.variation.as_ref()),
            repeated_request_us: self.request_us(None),
        }
    }
}

/// The bodies of `file`, or the real examples.
fn read(file: Option<&Path>) -> anyhow::Result<Vec<Body>> {
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
    Ok(mix(bodies))
}

/// The CPU time of this thread. Others may use the machine meanwhile.
fn thread_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
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
    fn a_request_carries_its_guid_and_its_signature() {
        let body = || Body::new("push".to_owned(), Bytes::from_static(br#"{"id":123456}"#));
        let seed = Seed { number: 1, began: 0, organizations: 1 };
        for seed in [None, Some(seed)] {
            let bodies = Bodies::new(vec![body()], seed).expect("UTF-8");
            let mut out = b"what was there".to_vec();
            bodies.request(7, b"72d3162e-cc78-11e3-81ab-4c9367dc0958", &mut out);
            let text = String::from_utf8(out).expect("ASCII");
            let (head, json) = text.split_once("\r\n\r\n").expect("a head ends in an empty line");
            assert!(head.starts_with("POST /webhooks/github HTTP/1.1\r\n"), "{text}");
            assert!(head.contains("\r\nContent-Length: 13\r\n"), "{text}");
            assert!(head.ends_with("\r\nX-GitHub-Delivery: 72d3162e-cc78-11e3-81ab-4c9367dc0958"), "{text}");
            let signature = hex::encode(key().chain_update(json).finalize().into_bytes());
            assert!(head.contains(&format!("\r\nX-Hub-Signature-256: sha256={signature}\r\n")), "{text}");
            assert_eq!(json.as_bytes(), bodies.json(7));
            assert_eq!(json == r#"{"id":123456}"#, seed.is_none(), "{json}");
        }
    }
}
