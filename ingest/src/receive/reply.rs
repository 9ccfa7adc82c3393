//! Every refusal of the gateway, in one place: its status, its code for the metric, its words.
//!
//! No answer may hold a secret, or tell which of several secrets came close.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use headrace_runtime::observe::metrics::REQUESTS;
use metrics::counter;
use serde_json::json;

/// How long we ask a sender to wait before it tries again, in seconds.
const RETRY_AFTER_S: u64 = 5;

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("expected the header {name}, found none; send what GitHub sends")]
    MissingHeader { name: &'static str },
    #[error("expected {expected} in the header {name}, found something else")]
    BadHeader { name: &'static str, expected: &'static str },
    #[error("this path accepts {accepts} events; `{event}` belongs to /webhooks/github/{belongs} or /webhooks/github")]
    WrongFamily { accepts: &'static str, event: String, belongs: &'static str },
    #[error("the request's body ended early or broke off: {0}")]
    BodyBroken(String),
    /// A source refuses the request, with this code, status and text.
    #[error("{message}")]
    Denied { code: &'static str, status: StatusCode, message: String },
    #[error("nothing is served at this path; webhooks go to /webhooks/github")]
    UnknownPath,
    #[error("expected POST, found {0}")]
    MethodNotAllowed(String),
    #[error("the body did not arrive within {0:?}")]
    BodySlow(Duration),
    #[error("expected a body of at most {max} bytes, found more")]
    BodyTooLarge { max: usize },
    #[error("more requests per second than the configured {0}")]
    TooMany(u32),
    #[error("too many requests are being served; nothing was stored, send it again")]
    Saturated,
    #[error("the message broker did not store the event in time; send it again")]
    BrokerAway,
    #[error(
        "the stream RAW is full of events that a stage or a sink has not settled yet; nothing was stored, send it again later"
    )]
    StreamFull,
    #[error("expected a body without a content encoding, found `{0}`; send it as it was signed")]
    UnsupportedEncoding(String),
}

impl Refusal {
    /// The stable code, in the answer and on the metric.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::MissingHeader { .. } => "missing_header",
            Self::BadHeader { .. } => "bad_header",
            Self::WrongFamily { .. } => "wrong_family",
            Self::BodyBroken(_) => "body_broken",
            Self::Denied { code, .. } => code,
            Self::UnknownPath => "unknown_path",
            Self::MethodNotAllowed(_) => "method_not_allowed",
            Self::BodySlow(_) => "body_slow",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::TooMany(_) => "too_many",
            Self::Saturated => "saturated",
            Self::BrokerAway => "broker_away",
            Self::StreamFull => "stream_full",
            Self::UnsupportedEncoding(_) => "unsupported_encoding",
        }
    }

    const fn status(&self) -> StatusCode {
        match self {
            Self::MissingHeader { .. } | Self::BadHeader { .. } | Self::WrongFamily { .. } | Self::BodyBroken(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::Denied { status, .. } => *status,
            Self::UnknownPath => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodySlow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedEncoding(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Saturated | Self::BrokerAway | Self::StreamFull => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        counter!(REQUESTS, "reason" => self.code()).increment(1);
        tracing::debug!(reason = self.code(), "request refused");
        let status = self.status();
        let body = Json(json!({ "error": self.code(), "message": self.to_string() }));
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        match status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
            }
            // The rest of the body may never be read, so the connection cannot carry another request.
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}
