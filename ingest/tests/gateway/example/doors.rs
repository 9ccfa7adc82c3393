//! Doors: each controller sends its openings by itself, signed with the key of the site.

use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use headrace_ingest::source::{Push, Receipt, Record, Refusal};
use headrace_ingest::tenant::TenantMap;
use headrace_runtime::secret::Secret;
use headrace_schemas::id::EventId;
use headrace_schemas::time::Timestamp;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Deserialize;
use sha2::Sha256;

pub(crate) struct Doors {
    pub(crate) key: Secret,
    pub(crate) tenants: TenantMap,
}

/// The body of a request. Other fields stay in RAW.
#[derive(Deserialize)]
struct Opening {
    door: String,
    number: u64,
    at: Timestamp,
    site: String,
}

impl Push for Doors {
    const NAME: &'static str = "doors";
    /// The signature.
    type Head = Vec<u8>;
    /// Whoever has the key may send for every site, so there is nothing to know of the sender.
    type Sender = ();

    fn paths(&self) -> Vec<String> {
        vec!["/collect/doors".to_owned()]
    }

    fn head(&self, _path: &str, headers: &HeaderMap) -> Result<Vec<u8>, Refusal> {
        const NAME: &str = "X-Door-Signature";
        let value = headers.get(NAME).ok_or(Refusal::MissingHeader { name: NAME })?;
        hex::decode(value).map_err(|_| Refusal::BadHeader { name: NAME, expected: "hex digits" })
    }

    fn verify(&self, head: &Vec<u8>, body: &[u8]) -> Result<(), Refusal> {
        let mac = Hmac::<Sha256>::new_from_slice(self.key.expose().as_bytes()).expect("HMAC takes keys of any length");
        let denied = |_| Refusal::Denied {
            code: "door_signature_wrong",
            status: StatusCode::UNAUTHORIZED,
            message: "the signature does not match the body; is the controller's key the configured one?".to_owned(),
        };
        mac.chain_update(body).verify_slice(head).map_err(denied)
    }

    fn split(&self, _head: Vec<u8>, (): (), body: Bytes) -> Result<Vec<Record>, Refusal> {
        let opening: Option<Opening> = serde_json::from_slice(&body).ok();
        // The id goes into headers of the broker, so it must be short and without line breaks.
        let is_name = |door: &str| (1..=64).contains(&door.len()) && door.bytes().all(|byte| byte.is_ascii_graphic());
        // An earlier copy is looked for from ten minutes before the event's time on.
        let is_past = |at: Timestamp| at.since(Timestamp::now()) <= Duration::from_secs(300);
        let good = |opening: &Opening| is_name(&opening.door) && is_past(opening.at);
        let opening = opening.filter(good).ok_or_else(|| Refusal::Denied {
            code: "door_malformed",
            status: StatusCode::BAD_REQUEST,
            message: "expected JSON with door, number, at (not ahead) and site, found something else".to_owned(),
        })?;
        Ok(vec![Record {
            id: EventId::of_source(Self::NAME, &format!("{}-{}", opening.door, opening.number)),
            event_time: Some(opening.at),
            kind: "opened".to_owned(),
            tenant: self.tenants.tenant(Some(&opening.site)),
            headers: Vec::new(),
            body,
        }])
    }

    fn answer(&self, receipts: &[Receipt]) -> Response {
        let is_known = receipts.iter().all(|receipt| receipt.duplicate);
        (StatusCode::OK, if is_known { "known\n" } else { "taken\n" }).into_response()
    }
}
