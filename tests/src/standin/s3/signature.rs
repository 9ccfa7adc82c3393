//! AWS Signature Version 4 in the header `Authorization`, computed again and compared.

use std::fmt::Write as _;

use axum::http::{HeaderMap, Method, StatusCode, Uri};
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use percent_encoding::percent_decode_str;
use sha2::{Digest as _, Sha256};

use super::{ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY};

/// How far a request's time may be from ours.
const SKEW_MAX_S: i64 = 15 * 60;

/// A status, a code and a message.
pub(super) type Refused = (StatusCode, &'static str, String);

/// Checks who sent a request.
pub(super) fn check(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Refused> {
    let denied = |code: &'static str, message: &str| (StatusCode::FORBIDDEN, code, message.to_owned());
    let malformed = |message: &str| (StatusCode::BAD_REQUEST, "AuthorizationHeaderMalformed", message.to_owned());
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let authorization = header("authorization").ok_or_else(|| denied("AccessDenied", "Access Denied"))?;
    let parts = authorization.strip_prefix("AWS4-HMAC-SHA256 ").ok_or_else(|| malformed("another algorithm"))?;
    let part = |name: &str| {
        let found = parts.split(',').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='));
        found.ok_or_else(|| malformed(name))
    };
    let (credential, signed, signature) = (part("Credential")?, part("SignedHeaders")?, part("Signature")?);
    let [id, date, region, service, end] = credential.split('/').collect::<Vec<_>>()[..] else {
        return Err(malformed("the credential's scope"));
    };
    if id != ACCESS_KEY_ID {
        return Err(denied("InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."));
    }
    if region != REGION || service != "s3" || end != "aws4_request" {
        return Err(malformed(&format!("the region '{region}' is wrong; expecting '{REGION}'")));
    }
    let at =
        header("x-amz-date").ok_or_else(|| denied("AccessDenied", "a valid Date or x-amz-date header is missing"))?;
    let moment = DateTime::strptime("%Y%m%dT%H%M%SZ", at).ok().and_then(|at| at.to_zoned(TimeZone::UTC).ok());
    let moment = moment.ok_or_else(|| denied("AccessDenied", "x-amz-date"))?;
    if !at.starts_with(date) || (moment.timestamp().as_second() - Timestamp::now().as_second()).abs() > SKEW_MAX_S {
        return Err(denied("RequestTimeTooSkewed", "The difference between the request time and ours is too large."));
    }
    let hash = header("x-amz-content-sha256")
        .ok_or_else(|| (StatusCode::BAD_REQUEST, "InvalidRequest", "x-amz-content-sha256 is missing".to_owned()))?;
    if !["host", "x-amz-date", "x-amz-content-sha256"].iter().all(|name| signed.split(';').any(|own| own == *name)) {
        return Err(denied("AccessDenied", "There were headers present in the request which were not signed"));
    }
    let mut request = format!("{method}\n{}\n{}\n", encoded(&decoded(uri.path()), true), query_of(uri));
    for name in signed.split(';') {
        let value = header(name).ok_or_else(|| denied("AccessDenied", "a header that is signed is missing"))?;
        let _ = writeln!(request, "{name}:{}", value.trim());
    }
    let _ = write!(request, "\n{signed}\n{hash}");
    let scope = format!("{date}/{region}/{service}/{end}");
    let text = format!("AWS4-HMAC-SHA256\n{at}\n{scope}\n{}", hex::encode(Sha256::digest(request)));
    let key = [date, region, service, end]
        .iter()
        .fold(format!("AWS4{SECRET_ACCESS_KEY}").into_bytes(), |key, part| signed_with(&key, part));
    if hex::encode(signed_with(&key, &text)) == signature {
        return Ok(());
    }
    let message = "The request signature we calculated does not match the signature you provided.";
    Err(denied("SignatureDoesNotMatch", message))
}

fn signed_with(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length will do");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// The query in the order of its names, each part encoded as S3 wants it.
fn query_of(uri: &Uri) -> String {
    let query = uri.query().unwrap_or_default();
    let pairs = form_urlencoded::parse(query.as_bytes());
    let mut pairs: Vec<String> =
        pairs.map(|(name, value)| format!("{}={}", encoded(&name, false), encoded(&value, false))).collect();
    pairs.sort_unstable();
    pairs.join("&")
}

fn encoded(text: &str, keeps_slash: bool) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            b'/' if keeps_slash => encoded.push('/'),
            _ => _ = write!(encoded, "%{byte:02X}"),
        }
    }
    encoded
}
