//! A stand-in for GitHub's webhooks. It sends signed deliveries and must never repeat one by itself. It also serves the
//! endpoints of the REST API that list deliveries and repeat one when asked (`rest.rs`).
//!
//! It follows GitHub's reference of the endpoints for App, organization and repository webhooks. GitHub does not
//! publish two things: the status with which it refuses a redelivery, and how long a redelivery takes to be listed.

mod app;
mod rest;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::{Method, Uri};
use headrace_schemas::id::EventId;
use headrace_schemas::time::Timestamp;
use reqwest::Client;
use serde_json::json;
use tokio::task::JoinSet;

use super::server::{Protocol, Server};
use crate::product::hook::{guid, sha256, signature};

pub use self::app::{APP_ID, App};

/// The token that it accepts for hooks of organizations and repositories.
pub const TOKEN: &str = "github_pat_stand_in";
/// The route of the App's own hook.
pub const APP_HOOK: &str = "/app/hook";
/// How long GitHub waits for the gateway's answer.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// How long a delivery is kept.
const KEPT: Duration = Duration::from_secs(3 * 24 * 3_600);

/// One attempt at a delivery.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// GitHub's id of the attempt.
    pub id: u64,
    /// The delivery's GUID.
    pub guid: String,
    /// When it was sent.
    pub delivered_at: Timestamp,
    /// Whether it was a redelivery that somebody asked for.
    pub redelivery: bool,
    /// The gateway's status. 0 when there was no answer.
    pub status_code: u16,
    event: String,
    body: Vec<u8>,
}

/// A hook.
#[derive(Clone, Debug, Default)]
pub struct HookData {
    /// The attempts, oldest first.
    pub attempts: Vec<Attempt>,
    /// The status with which it refuses every redelivery. `None` when it does not refuse.
    pub refuses: Option<u16>,
    /// Whether the hook is switched off. Then it sends nothing, not even redeliveries.
    pub disabled: bool,
}

/// The stand-in's data and settings.
#[derive(Default)]
pub struct Data {
    /// The hooks by their routes: `/app/hook`, `/orgs/acme/hooks/7`, `/repos/acme/app/hooks/7`. Any other route is
    /// answered with "not found".
    pub hooks: BTreeMap<String, HookData>,
    /// The gateway to which deliveries go.
    pub gateway: String,
    /// The secret that signs them.
    pub secret: String,
    /// Whether the token is revoked.
    pub revoked: bool,
    /// How many requests the rate limit allows until `reset_at`.
    pub remaining: u64,
    /// When the rate limit allows 5000 requests again.
    pub reset_at: Timestamp,
    last_id: u64,
    under_way: JoinSet<()>,
}

type Shared = Arc<Mutex<Data>>;

/// The running stand-in.
pub struct GitHub {
    server: Server<Rest>,
    data: Shared,
    app: App,
}

/// GitHub's protocol for the server.
pub struct Rest;

impl Protocol for Rest {
    fn is_delivery(&self, method: &Method, uri: &Uri) -> bool {
        method == Method::POST && uri.path().ends_with("/attempts")
    }

    fn error_body(&self, status: u16) -> String {
        let page = match status {
            403 | 429 => "https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api",
            _ => "https://docs.github.com/rest",
        };
        json!({ "message": format!("failing with {status} on command"), "documentation_url": page }).to_string()
    }
}

impl Deref for GitHub {
    type Target = Server<Rest>;
    fn deref(&self) -> &Self::Target {
        &self.server
    }
}

impl GitHub {
    /// Starts the stand-in on a free port, with a hook for each of these routes.
    pub async fn start(hooks: &[&str]) -> Self {
        let app = App::new();
        let hooks = hooks.iter().map(|route| ((*route).to_owned(), HookData::default())).collect();
        let data = Data { hooks, remaining: rest::LIMIT, ..Data::default() };
        let data = Arc::new(Mutex::new(data));
        let router = rest::router(Arc::clone(&data), app.verifier());
        Self { server: Server::start(Rest, router).await, data, app }
    }

    /// The stand-in's data and settings.
    pub fn data(&self) -> MutexGuard<'_, Data> {
        lock(&self.data)
    }

    /// The App to which its hooks belong.
    #[must_use]
    pub const fn app(&self) -> &App {
        &self.app
    }

    /// Sends deliveries to `gateway` from now on, signed with `secret`.
    pub fn deliver_to(&self, gateway: &str, secret: &str) {
        let mut data = self.data();
        data.gateway = format!("{gateway}/webhooks/github");
        secret.clone_into(&mut data.secret);
    }

    /// Makes an event happen: the hook sends it, once. Returns its GUID and the gateway's status, 0 without an answer.
    ///
    /// # Panics
    /// When there is no such hook, or it is disabled.
    pub async fn emit(&self, hook: &str, event: &str, body: impl Into<Vec<u8>>) -> (String, u16) {
        let guid = guid();
        let disabled = self.data().hooks[hook].disabled;
        assert!(!disabled, "a disabled hook sends nothing");
        let status = send(&self.data, hook, event, &guid, body.into(), false).await;
        (guid, status)
    }

    /// Makes all attempts of a hook older.
    pub fn age(&self, hook: &str, by: Duration) {
        let mut data = self.data();
        let attempts = data.hooks.get_mut(hook).into_iter().flat_map(|hook| &mut hook.attempts);
        attempts.for_each(|attempt| attempt.delivered_at = attempt.delivered_at.minus(by));
    }

    /// How often each GUID of a hook was sent again.
    #[must_use]
    pub fn redeliveries(&self, hook: &str) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for attempt in self.data().hooks[hook].attempts.iter().filter(|attempt| attempt.redelivery) {
            *counts.entry(attempt.guid.clone()).or_default() += 1;
        }
        counts
    }

    /// The bodies of a hook that were ever answered 2xx: the SHA-256 of each in hex, by the event's id.
    #[must_use]
    pub fn taken(&self, hook: &str) -> BTreeMap<String, String> {
        let data = self.data();
        let taken = data.hooks[hook].attempts.iter().filter(|attempt| matches!(attempt.status_code, 200..=299));
        taken.map(|attempt| (EventId::github(&attempt.guid).to_string(), sha256(&attempt.body))).collect()
    }

    /// How many redeliveries were asked for, whatever was answered.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.recorded()
            .iter()
            .filter(|request| request.line.starts_with("POST ") && request.line.ends_with("/attempts"))
            .count()
    }
}

fn lock(data: &Shared) -> MutexGuard<'_, Data> {
    data.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends one attempt and records it. It never sends twice, whatever comes back.
async fn send(data: &Shared, hook: &str, event: &str, guid: &str, body: Vec<u8>, redelivery: bool) -> u16 {
    let delivered_at = Timestamp::now();
    let (gateway, secret) = {
        let data = lock(data);
        (data.gateway.clone(), data.secret.clone())
    };
    let hook_id = hook.rsplit('/').next().unwrap_or_default();
    let request = Client::new()
        .post(gateway)
        .timeout(ANSWER_WAIT)
        .header("Content-Type", "application/json")
        .header("User-Agent", "GitHub-Hookshot/stand-in")
        .header("X-GitHub-Event", event)
        .header("X-GitHub-Delivery", guid)
        .header("X-GitHub-Hook-ID", hook_id)
        .header("X-Hub-Signature-256", signature(&secret, &body))
        .body(body.clone());
    let status_code = request.send().await.map_or(0, |answer| answer.status().as_u16());
    let mut data = lock(data);
    data.last_id += 1;
    let (id, guid, event) = (data.last_id, guid.to_owned(), event.to_owned());
    let attempt = Attempt { id, guid, delivered_at, redelivery, status_code, event, body };
    if let Some(hook) = data.hooks.get_mut(hook) {
        hook.attempts.push(attempt);
    }
    status_code
}
