//! GitHub webhooks.
//!
//! A request is refused, or its body becomes one record, unchanged. `verify` decides who may sign what, `envelope` checks
//! the headers, and `recovery` asks GitHub for deliveries that did not arrive.

pub mod config;
mod denied;
mod envelope;
mod media_type;
pub mod recovery;
mod stored;
pub mod tenant;
mod verify;

use std::sync::Arc;

use axum::Json;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use headrace_runtime::config::Invalid;
use headrace_runtime::secret::Secret;
use headrace_schemas::catalog::Family;
use headrace_schemas::header;
use serde_json::json;

use crate::source::{CheckStored, Common, MakeSecret, Push, Receipt, Record, Refusal, Source};
use crate::tenant::Tenants;

use self::config::Config;
pub use self::denied::Denied;
use self::envelope::{Envelope, SOURCE};
pub use self::media_type::{MediaType, form_payload};
pub use self::verify::{Claim, Keys, parse_signature};

/// The path that takes events of every family.
const PATH: &str = "/webhooks/github";

/// The source.
pub struct GitHub;

impl Source for GitHub {
    const NAME: &'static str = SOURCE;
    type Config = Config;
    type Push = Webhooks;

    fn is_configured(config: &Config) -> bool {
        !config.secrets.is_empty() || !config.scoped.is_empty()
    }

    fn validate(config: &Config, path: &str) -> Vec<Invalid> {
        config.validate(path)
    }

    fn push(config: &Config, common: Common<'_>) -> Option<Webhooks> {
        Some(Webhooks(Keys::new(config, common.tenants)))
    }

    fn give_secret(config: &mut Config, make: &mut MakeSecret<'_>) -> anyhow::Result<()> {
        if !Self::is_configured(config) {
            config.secrets.push(make()?);
        }
        Ok(())
    }

    fn secret(config: &Config) -> Option<&Secret> {
        config.secrets.first()
    }

    fn check_stored(config: &Config, tenants: &Tenants) -> Option<CheckStored> {
        let keys = Keys::new(config, tenants);
        Some(Arc::new(move |raw| keys.check_stored(raw)))
    }
}

/// Takes webhook deliveries.
pub struct Webhooks(Keys);

impl Push for Webhooks {
    const NAME: &'static str = SOURCE;
    type Head = Envelope;
    /// The tenant of whoever the secret covers.
    type Sender = String;

    fn paths(&self) -> Vec<String> {
        let of_family = Family::ALL.iter().map(|family| format!("{PATH}/{}", family.as_str()));
        std::iter::once(PATH.to_owned()).chain(of_family).collect()
    }

    fn head(&self, path: &str, headers: &HeaderMap) -> Result<Envelope, Refusal> {
        let last = path.rsplit('/').next().unwrap_or_default();
        Envelope::read(headers, Family::ALL.into_iter().find(|family| family.as_str() == last))
    }

    fn work(&self, head: &Envelope, bytes: usize) -> usize {
        bytes.saturating_mul(self.0.tried(head.hook_id))
    }

    fn verify(&self, head: &Envelope, body: &[u8]) -> Result<String, Refusal> {
        let Envelope { hook_id, signature, media_type, .. } = *head;
        Ok(self.0.authorize(&Claim { body, hook_id, signature, media_type })?)
    }

    fn split(&self, head: Envelope, tenant: String, body: Bytes) -> Result<Vec<Record>, Refusal> {
        Ok(vec![head.into_record(tenant, body)])
    }

    fn answer(&self, receipts: &[Receipt]) -> Response {
        let is_duplicate = receipts.iter().all(|receipt| receipt.duplicate);
        let (status, word) =
            if is_duplicate { (StatusCode::OK, "duplicate") } else { (StatusCode::ACCEPTED, "stored") };
        let id = receipts.first().map(|receipt| receipt.id.as_str());
        (status, Json(json!({ "status": word, "id": id }))).into_response()
    }

    fn name<'h>(&self, headers: &'h HeaderMap) -> Option<&'h HeaderValue> {
        headers.get(header::GITHUB_DELIVERY)
    }
}
