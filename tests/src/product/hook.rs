//! A webhook at GitHub: sends signed requests to the gateway.

use std::sync::atomic::{AtomicU16, Ordering};

use futures::{StreamExt as _, stream};
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Client, RequestBuilder};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::process::Ready;
use crate::harness::samples;

/// Most requests of [`Hook::send_all`] under way at once.
const AT_ONCE: usize = 8;

/// A webhook with the gateway's address and secret. Cheap to clone.
#[derive(Clone)]
pub struct Hook {
    http: Client,
    url: String,
    secret: String,
}

/// The gateway's answer.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, which is always JSON.
    pub body: Value,
}

impl Answer {
    /// Whether the gateway says that it stored the event.
    #[must_use]
    pub const fn is_stored(&self) -> bool {
        matches!(self.status, 200..=299)
    }
}

impl Hook {
    /// A hook that sends to `url` and signs with `secret`.
    #[must_use]
    pub fn new(url: impl Into<String>, secret: &str) -> Self {
        Self { http: Client::new(), url: url.into(), secret: secret.to_owned() }
    }

    /// A hook for the gateway in `ready`.
    ///
    /// # Panics
    /// When that process has no gateway, or does not report its secret.
    #[must_use]
    pub fn of(ready: &Ready) -> Self {
        let gateway = ready.gateway.as_ref().expect("it has a gateway");
        let secret = ready.webhook_secret.as_ref().expect("`up` reports its secret");
        Self::new(format!("{gateway}/webhooks/github"), secret)
    }

    /// A request without a signature.
    pub fn unsigned(&self, kind: &str, guid: &str, body: impl Into<Vec<u8>>) -> RequestBuilder {
        let request = self.http.post(&self.url).header(CONTENT_TYPE, "application/json");
        request.header("X-GitHub-Event", kind).header("X-GitHub-Delivery", guid).body(body.into())
    }

    /// A signed request, as GitHub sends it.
    pub fn request(&self, kind: &str, guid: &str, body: impl Into<Vec<u8>>) -> RequestBuilder {
        let body = body.into();
        let signature = signature(&self.secret, &body);
        self.unsigned(kind, guid, body).header("X-Hub-Signature-256", signature)
    }

    /// Sends a signed request.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn send(&self, kind: &str, guid: &str, body: impl Into<Vec<u8>>) -> Answer {
        answer(self.request(kind, guid, body)).await.expect("the gateway answers")
    }

    /// Sends an event that must be stored.
    ///
    /// # Panics
    /// When it is not answered with 202.
    pub async fn store(&self, kind: &str, guid: &str, body: impl Into<Vec<u8>>) {
        let answer = self.send(kind, guid, body).await;
        assert_eq!(answer.status, 202, "{kind} {guid}: {}", answer.body);
    }

    /// Sends signed requests, a few at once: each as its event kind, its GUID and its body. Returns the answers in the
    /// same order.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn send_all<'a>(&self, deliveries: impl IntoIterator<Item = (&'a str, &'a str, Vec<u8>)>) -> Vec<Answer> {
        let answers = deliveries.into_iter().map(|(kind, guid, body)| self.send(kind, guid, body));
        stream::iter(answers).buffered(AT_ONCE).collect().await
    }

    /// Sends events that must be stored, a few at once.
    ///
    /// # Panics
    /// When one is not answered with 202.
    pub async fn store_all<'a>(&self, deliveries: impl IntoIterator<Item = (&'a str, &'a str, Vec<u8>)>) {
        for answer in self.send_all(deliveries).await {
            assert_eq!(answer.status, 202, "{}", answer.body);
        }
    }
}

/// Sends `request`.
///
/// # Errors
/// When there is no answer, or an answer that is not JSON.
pub async fn answer(request: RequestBuilder) -> reqwest::Result<Answer> {
    let response = request.send().await?;
    Ok(Answer { status: response.status().as_u16(), headers: response.headers().clone(), body: response.json().await? })
}

/// A delivery GUID that no other event of this test program has.
#[must_use]
pub fn guid() -> String {
    // A test may make several within one microsecond.
    static NUMBER: AtomicU16 = AtomicU16::new(0);
    samples::guid(NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// The value of `X-Hub-Signature-256`.
#[must_use]
pub fn signature(secret: &str, body: &[u8]) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    format!("sha256={}", hex::encode(mac.chain_update(body).finalize().into_bytes()))
}

/// The SHA-256 of a body, in hexadecimal digits.
#[must_use]
pub fn sha256(body: &[u8]) -> String {
    hex::encode(Sha256::digest(body))
}
