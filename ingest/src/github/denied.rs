//! Why a delivery is refused, in words for the sender. Read `verify` next for the rule.

use axum::http::StatusCode;

use crate::source::Refusal;

/// Why a delivery is refused, whoever brings it. No text reveals a secret, or tells which of several came close.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It has no signature.
    #[error(
        "expected the header X-Hub-Signature-256, found none; set a secret for the webhook (the SHA-1 header X-Hub-Signature is not accepted)"
    )]
    SignatureMissing,
    /// The signature's header holds something else.
    #[error("expected `sha256=` and 64 hex digits in the header X-Hub-Signature-256, found something else")]
    SignatureMalformed,
    /// No secret that is valid for the hook signed it.
    #[error("the signature does not match the body; the secret at GitHub must be one of those configured here")]
    SignatureWrong,
    /// The secret that signed it does not cover everybody whom the body names.
    #[error(
        "the body names {names}, and the secret that signed it does not cover that; sign with a secret of its own, or list it beside the secret in `ingest.github.scoped`"
    )]
    SignatureForeign {
        /// Who is not covered, in words.
        names: String,
    },
    /// A form without the field `payload`.
    #[error(
        "expected a form with the field `payload`, found none; choose the content type application/json for the hook"
    )]
    MissingPayload,
    /// The path is for another family of events.
    #[error("this path accepts {accepts} events; `{event}` belongs to /webhooks/github/{belongs} or /webhooks/github")]
    WrongFamily {
        /// The family of the path.
        accepts: &'static str,
        /// The event's kind.
        event: String,
        /// The family of that kind.
        belongs: &'static str,
    },
    /// Neither JSON nor a form.
    #[error("expected the content type application/json or application/x-www-form-urlencoded, found `{0}`")]
    UnsupportedType(String),
}

impl Denied {
    /// The stable code, in the answer and on the metric.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::SignatureMissing => "signature_missing",
            Self::SignatureMalformed => "signature_malformed",
            Self::SignatureWrong => "signature_wrong",
            Self::SignatureForeign { .. } => "signature_foreign",
            Self::MissingPayload => "missing_payload",
            Self::WrongFamily { .. } => "wrong_family",
            Self::UnsupportedType(_) => "unsupported_type",
        }
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        let status = match denied {
            Denied::MissingPayload | Denied::WrongFamily { .. } => StatusCode::BAD_REQUEST,
            Denied::SignatureMissing | Denied::SignatureMalformed | Denied::SignatureWrong => StatusCode::UNAUTHORIZED,
            Denied::SignatureForeign { .. } => StatusCode::FORBIDDEN,
            Denied::UnsupportedType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        };
        Self::Denied { code: denied.code(), status, message: denied.to_string() }
    }
}
