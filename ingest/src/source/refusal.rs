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
pub enum Refusal {
    /// The request lacks a header.
    #[error("expected the header {name}, found none")]
    MissingHeader {
        /// The header's name.
        name: &'static str,
    },
    /// A header has another value than it must.
    #[error("expected {expected} in the header {name}, found something else")]
    BadHeader {
        /// The header's name.
        name: &'static str,
        /// What it must hold, in words.
        expected: &'static str,
    },
    /// The sender ended the body early.
    #[error("the request's body ended early or broke off: {0}")]
    BodyBroken(String),
    /// The body is not packed as its header says.
    #[error("cannot unpack the body: {0}; pack it as its Content-Encoding says")]
    BodyUnpackable(String),
    /// A source refuses the request.
    #[error("{message}")]
    Denied {
        /// The stable code, in the answer and on the metric. With the status 401 or 403 it is logged too.
        code: &'static str,
        /// The status.
        status: StatusCode,
        /// Why, for the sender: what was expected, what was found, what to do. No secret, and no hint at one.
        message: String,
    },
    /// No source serves the path.
    #[error("nothing is served at this path; what is sent goes to {0}")]
    UnknownPath(String),
    /// The method is not POST.
    #[error("expected POST, found {0}")]
    MethodNotAllowed(String),
    /// The body came too slowly.
    #[error("the body did not arrive within {0:?}")]
    BodySlow(Duration),
    /// The body is too large, packed or unpacked.
    #[error("expected a body of at most {max} bytes, found more")]
    BodyTooLarge {
        /// The most bytes.
        max: usize,
    },
    /// More requests came than the configuration allows.
    #[error("more requests per second than the configured {0}")]
    TooMany(u32),
    /// There is no room.
    #[error("too many requests are being served; nothing was stored, send it again")]
    Saturated,
    /// The source took something from the body that no message of the broker can hold.
    #[error("the source {source_name} cannot store a record of this body: {problem}; nothing was stored")]
    RecordUnfit {
        /// The source's name.
        source_name: &'static str,
        /// What was expected, and what was found.
        problem: String,
    },
    /// The broker did not confirm.
    #[error("the message broker did not store the event in time; send it again")]
    BrokerAway,
    /// RAW has no room.
    #[error(
        "the stream RAW is full of events that a stage or a sink has not settled yet; nothing was stored, send it again later"
    )]
    StreamFull,
    /// The body is packed in a way that the source does not take.
    #[error("expected {expected}, found `{found}`")]
    UnsupportedEncoding {
        /// What the source takes, in words.
        expected: &'static str,
        /// The header's value, cut.
        found: String,
    },
}

impl Refusal {
    /// The stable code, in the answer and on the metric.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::MissingHeader { .. } => "missing_header",
            Self::BadHeader { .. } => "bad_header",
            Self::BodyBroken(_) => "body_broken",
            Self::BodyUnpackable(_) => "body_unpackable",
            Self::Denied { code, .. } => code,
            Self::UnknownPath(_) => "unknown_path",
            Self::MethodNotAllowed(_) => "method_not_allowed",
            Self::BodySlow(_) => "body_slow",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::TooMany(_) => "too_many",
            Self::Saturated => "saturated",
            Self::RecordUnfit { .. } => "record_unfit",
            Self::BrokerAway => "broker_away",
            Self::StreamFull => "stream_full",
            Self::UnsupportedEncoding { .. } => "unsupported_encoding",
        }
    }

    const fn status(&self) -> StatusCode {
        match self {
            Self::MissingHeader { .. }
            | Self::BadHeader { .. }
            | Self::BodyBroken(_)
            | Self::BodyUnpackable(_)
            | Self::RecordUnfit { .. } => StatusCode::BAD_REQUEST,
            Self::Denied { status, .. } => *status,
            Self::UnknownPath(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodySlow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedEncoding { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
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
