//! Records that are sent to us: who may send them, and the answers.
//!
//! The token is in the head of a request, so a stranger's body is only thrown away. No answer tells anything of the
//! tokens, and none quotes a record.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use headrace_runtime::secret::Secret;
use headrace_schemas::time::Timestamp;
use headrace_schemas::token;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::SOURCE;
use super::config::{Config, RECORD_BYTES};
use super::split::{BadLine, Split, lines};
use crate::source::{Common, Push, Receipt, Record, Refusal};

/// The path that takes records.
pub(super) const PATH: &str = "/collect/ndjson";
/// What lines of JSON are called. None has an owner who says which is right.
const MEDIA_TYPES: [&str; 5] =
    ["application/x-ndjson", "application/ndjson", "application/jsonl", "application/json", "text/plain"];
/// The header that names a request, if its sender gives it a name.
const REQUEST_ID: &str = "X-Request-Id";

/// Takes the requests.
pub struct Collect {
    tokens: Tokens,
    split: Split,
    records_max: usize,
}

/// Whose records a token may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Covers {
    /// Everybody's.
    All,
    /// Those of these tenants, as subject tokens.
    Only(BTreeSet<String>),
}

impl Covers {
    /// Whether `tenant`, a subject token, is one of them.
    fn covers(&self, tenant: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(tenants) => tenants.contains(tenant),
        }
    }

    fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::Only(one), Self::Only(other)) => Self::Only(one.into_iter().chain(other).collect()),
            _ => Self::All,
        }
    }
}

/// The tokens, each as its SHA-256. So all have one length, and a comparison tells nothing by its time.
struct Tokens(Vec<([u8; 32], Arc<Covers>)>);

impl Tokens {
    fn new(config: &Config) -> Self {
        let digest = |token: &Secret| <[u8; 32]>::from(Sha256::digest(token.expose()));
        let of_all = config.tokens.iter().map(|token| (digest(token), Covers::All));
        let scoped = config.scoped.iter().flat_map(|scoped| {
            let tenants = scoped.tenants.iter().map(|tenant| token::of_tenant(tenant)).collect();
            let covers = Covers::Only(tenants);
            scoped.tokens.iter().map(move |token| (digest(token), covers.clone()))
        });
        // One token may stand in several entries.
        let mut tokens: BTreeMap<[u8; 32], Covers> = BTreeMap::new();
        for (digest, covers) in of_all.chain(scoped) {
            let joined = match tokens.remove(&digest) {
                Some(other) => other.join(covers),
                None => covers,
            };
            tokens.insert(digest, joined);
        }
        Self(tokens.into_iter().map(|(digest, covers)| (digest, Arc::new(covers))).collect())
    }

    /// Whose records `token` may send.
    fn find(&self, token: &str) -> Option<Arc<Covers>> {
        let digest = Sha256::digest(token);
        // Compare with each of them, so that the time tells nothing of which it is.
        self.0.iter().fold(None, |found, (own, covers)| {
            if bool::from(own.as_slice().ct_eq(digest.as_slice())) { Some(Arc::clone(covers)) } else { found }
        })
    }
}

impl Collect {
    pub(super) fn new(config: &Config, common: Common<'_>) -> Self {
        Self { tokens: Tokens::new(config), split: Split::new(config, common), records_max: config.records_max }
    }

    fn authorize(&self, headers: &HeaderMap) -> Result<Arc<Covers>, Refusal> {
        let missing = || {
            let message = format!(
                "expected the header Authorization with `Bearer` and a token of `ingest.{SOURCE}`, found none; send it \
                 with each request"
            );
            denied("token_missing", StatusCode::UNAUTHORIZED, message)
        };
        let value = headers.get(header::AUTHORIZATION).ok_or_else(missing)?;
        let (scheme, token) = value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or_else(missing)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(missing());
        }
        self.tokens.find(token.trim()).ok_or_else(|| {
            let message = "the token is none of those configured here; it may have been replaced".to_owned();
            denied("token_wrong", StatusCode::UNAUTHORIZED, message)
        })
    }
}

impl Push for Collect {
    const NAME: &'static str = SOURCE;
    const TAKES_GZIP: bool = true;
    /// Whose records the request may bring.
    type Head = Arc<Covers>;
    type Sender = ();

    fn paths(&self) -> Vec<String> {
        vec![PATH.to_owned()]
    }

    fn head(&self, _path: &str, headers: &HeaderMap) -> Result<Arc<Covers>, Refusal> {
        let covers = self.authorize(headers)?;
        check_media_type(headers)?;
        Ok(covers)
    }

    /// The token says who sent it, so nothing of the body is hashed.
    fn work(&self, _head: &Arc<Covers>, _bytes: usize) -> usize {
        0
    }

    fn verify(&self, _head: &Arc<Covers>, _body: &[u8]) -> Result<(), Refusal> {
        Ok(())
    }

    fn split(&self, head: Arc<Covers>, (): (), body: Bytes) -> Result<Vec<Record>, Refusal> {
        let now = Timestamp::now();
        let mut records = Vec::new();
        for (number, line) in lines(&body) {
            if records.len() == self.records_max {
                let message = format!(
                    "expected at most {} records in a request, found more in line {number}; send them in several",
                    self.records_max
                );
                return Err(denied("too_many_records", StatusCode::BAD_REQUEST, message));
            }
            let record = self.split.record(line).map_err(|bad| refused(number, &bad))?;
            self.split.check_ahead(&record, now).map_err(|bad| refused(number, &bad))?;
            if !head.covers(&record.tenant) {
                let message = format!(
                    "line {number}: the token does not cover the record's tenant; send it with another token, or list \
                     the tenant beside the token in `ingest.{SOURCE}.scoped`"
                );
                return Err(denied("token_foreign", StatusCode::FORBIDDEN, message));
            }
            records.push(record);
        }
        if records.is_empty() {
            let message = "expected one JSON object a line, found no line that is not blank".to_owned();
            return Err(denied("no_records", StatusCode::BAD_REQUEST, message));
        }
        Ok(records)
    }

    fn record_bytes(&self, body: &[u8]) -> usize {
        let lines = body.iter().filter(|byte| **byte == b'\n').count() + 1;
        lines.min(self.records_max).saturating_mul(RECORD_BYTES)
    }

    fn answer(&self, receipts: &[Receipt]) -> Response {
        let duplicates = receipts.iter().filter(|receipt| receipt.duplicate).count();
        let (status, word) =
            if duplicates == receipts.len() { (StatusCode::OK, "duplicate") } else { (StatusCode::ACCEPTED, "stored") };
        let body = json!({ "status": word, "records": receipts.len(), "duplicates": duplicates });
        (status, Json(body)).into_response()
    }

    fn name<'h>(&self, headers: &'h HeaderMap) -> Option<&'h HeaderValue> {
        headers.get(REQUEST_ID)
    }
}

fn check_media_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let value = String::from_utf8_lossy(value.as_bytes());
    let essence = value.split(';').next().unwrap_or_default().trim();
    if essence.is_empty() || MEDIA_TYPES.iter().any(|known| known.eq_ignore_ascii_case(essence)) {
        return Ok(());
    }
    let found: String = value.chars().take(80).collect();
    let message = format!("expected the content type {} or none, found `{}`", MEDIA_TYPES[0], found.escape_debug());
    Err(denied("unsupported_type", StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
}

fn refused(number: usize, bad: &BadLine) -> Refusal {
    denied(bad.code, StatusCode::BAD_REQUEST, format!("line {number}: {bad}; nothing of the request was stored"))
}

const fn denied(code: &'static str, status: StatusCode, message: String) -> Refusal {
    Refusal::Denied { code, status, message }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ndjson::config::Scoped;
    use crate::tenant::Tenants;

    fn collect() -> Collect {
        let secrets = |texts: &[&str]| texts.iter().map(|text| Secret::new(*text)).collect();
        let scoped = |tenants: &[&str], tokens: &[&str]| Scoped {
            tenants: tenants.iter().map(|&tenant| tenant.to_owned()).collect(),
            tokens: secrets(tokens),
        };
        let config = Config {
            tokens: secrets(&["any", "both"]),
            scoped: vec![scoped(&["acme"], &["acme's", "two"]), scoped(&["Corp EU"], &["two", "both"])],
            records_max: 3,
            ..Config::default()
        };
        Collect::new(&config, Common { tenants: &Tenants::default(), duplicate_window: Duration::from_secs(120) })
    }

    fn head(pairs: &[(&str, &str)]) -> Result<Arc<Covers>, &'static str> {
        let pair = |(name, value): &(&str, &str)| {
            (name.parse::<axum::http::HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        let headers = pairs.iter().map(pair).collect();
        collect().head(PATH, &headers).map_err(|refusal| refusal.code())
    }

    fn only(tenants: &[&str]) -> Covers {
        Covers::Only(tenants.iter().map(|&tenant| tenant.to_owned()).collect())
    }

    #[test]
    fn a_token_covers_what_its_entries_list() {
        let of = |value: &str| head(&[("authorization", value)]).map(|covers| (*covers).clone());
        assert_eq!(of("Bearer any"), Ok(Covers::All));
        assert_eq!(of("bearer  any "), Ok(Covers::All));
        assert_eq!(of("Bearer both"), Ok(Covers::All));
        assert_eq!(of("Bearer acme's"), Ok(only(&["acme"])));
        assert_eq!(of("Bearer two"), Ok(only(&["acme", "corp_20eu"])));
        for wrong in ["Bearer an", "Bearer anyy", "Bearer ANY", "Bearer ", "Bearer acme"] {
            assert_eq!(of(wrong), Err("token_wrong"), "{wrong}");
        }
        for missing in ["any", "Basic any", "", "Bearer\u{e9} any"] {
            assert_eq!(of(missing), Err("token_missing"), "{missing}");
        }
        assert_eq!(head(&[]).err(), Some("token_missing"));
        assert!(only(&["corp_20eu"]).covers("corp_20eu") && !only(&["corp_20eu"]).covers("corp"));
    }

    #[test]
    fn lines_of_json_have_many_names() {
        let of = |value: &str| head(&[("authorization", "Bearer any"), ("content-type", value)]).err();
        for taken in [
            "application/x-ndjson",
            "application/jsonl; charset=utf-8",
            "Application/JSON",
            "text/plain;charset=UTF-8",
            "",
        ] {
            assert_eq!(of(taken), None, "{taken}");
        }
        for refused in ["application/x-www-form-urlencoded", "text/plainer", "\u{e9}"] {
            assert_eq!(of(refused), Some("unsupported_type"), "{refused}");
        }
        let stranger = head(&[("content-type", "image/png")]).err();
        assert_eq!(stranger, Some("token_missing"), "a stranger learns nothing else");
    }

    #[test]
    fn a_request_is_taken_or_refused_as_a_whole() {
        let line = |id: usize, tenant: &str| format!("{{\"id\":{id},\"time\":1700000000,\"tenant\":\"{tenant}\"}}\n");
        let split = |covers: Covers, body: String| {
            let split = collect().split(Arc::new(covers), (), body.into());
            split.map(|records| records.len()).map_err(|refusal| (refusal.code(), refusal.to_string()))
        };
        let code = |covers: Covers, body: String| split(covers, body).map_err(|(code, _)| code);
        assert_eq!(code(Covers::All, line(1, "acme") + &line(2, "octo")), Ok(2));
        assert_eq!(code(only(&["acme"]), line(1, "ACME")), Ok(1));
        let (code_found, message) = split(only(&["acme"]), line(1, "acme") + "\n" + &line(2, "octo")).unwrap_err();
        assert_eq!(code_found, "token_foreign");
        assert!(message.starts_with("line 3: ") && !message.contains("octo"), "{message}");
        let three = line(1, "a") + &line(2, "a") + &line(3, "a");
        assert_eq!(code(Covers::All, three.clone() + "\n \r\n"), Ok(3));
        assert_eq!(code(Covers::All, three + &line(4, "a")), Err("too_many_records"));
        assert_eq!(code(Covers::All, "\r\n\n  \n".to_owned()), Err("no_records"));
        let (bad, message) = split(Covers::All, line(1, "a") + "{\"id\":2,\"time\":\"secret\"}").unwrap_err();
        assert_eq!(bad, "time_malformed");
        assert!(message.starts_with("line 2: expected ") && !message.contains("secret"), "{message}");
    }
}
