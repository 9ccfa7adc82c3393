//! The two forms in which GitHub sends a body: JSON, and a form with the JSON in one field.

use axum::http::{HeaderMap, header};

use super::denied::Denied;

/// The two media types that GitHub sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaType {
    /// `application/json`
    Json,
    /// `application/x-www-form-urlencoded`, with the JSON in the field `payload`.
    Form,
}

impl MediaType {
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Denied> {
        Self::parse(headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default())
    }

    /// Reads a value of `Content-Type`.
    ///
    /// # Errors
    /// When it is any other media type.
    pub fn parse(value: &str) -> Result<Self, Denied> {
        let essence = value.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/json") {
            Ok(Self::Json)
        } else if essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            Ok(Self::Form)
        } else {
            Err(Denied::UnsupportedType(value.chars().take(80).collect()))
        }
    }
}

/// The JSON in a form's field `payload`. Bytes that are not UTF-8 are replaced. If the field occurs twice, the first
/// counts, as in normalize.
#[must_use]
pub fn form_payload(form: &[u8]) -> Option<String> {
    payloads(form).next()
}

/// The text of each field `payload`.
pub(super) fn form_payloads(form: &[u8]) -> Vec<String> {
    payloads(form).collect()
}

fn payloads(form: &[u8]) -> impl Iterator<Item = String> {
    form_urlencoded::parse(form).filter(|(name, _)| name == "payload").map(|(_, value)| value.into_owned())
}
