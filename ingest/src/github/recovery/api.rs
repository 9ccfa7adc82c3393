//! The part of GitHub's REST API that recovery needs: it lists a hook's deliveries and asks for one again.
//!
//! Every call has a time limit, and first waits for as long as GitHub's rate limits ask. Octocrab signs and sends. Its
//! own retries must stay off, because they would sleep unseen inside the call. `answer.rs` judges the answers.

use std::collections::HashSet;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use axum::http::{HeaderMap, Response, StatusCode};
use bytes::Bytes;
use headrace_runtime::observe::metrics::RECOVERY_QUOTA;
use headrace_runtime::retry::{Attempt, RetryPolicy};
use headrace_schemas::id::EventId;
use headrace_schemas::time::Timestamp;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Limited};
use metrics::{Gauge, gauge};
use octocrab::Octocrab;
use octocrab::auth::EncodingKey;
use octocrab::models::{AppId, InstallationId};
use serde::Deserialize;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::answer::{ApiError, RateLimit, classify, next_cursor};
use super::config::HookName;
use super::config::{self, Config};
use super::lookup::DeliveryKey;

/// Deliveries on a page. GitHub gives no more.
const PAGE: usize = 100;
/// Most bytes of an answer. A page of deliveries is about 40 KB.
pub(super) const ANSWER_BYTES_MAX: usize = 4 << 20;
/// How often to try to get a page before the run is given up. Waiting for a rate limit does not count as a try.
const PAGE_RETRIES: RetryPolicy = RetryPolicy {
    attempts_max: 5,
    backoff_min: Duration::from_millis(500),
    backoff_max: Duration::from_secs(8),
    retry_after_max: RetryPolicy::RETRY_AFTER_MAX,
};

/// One attempt at a delivery, as GitHub lists it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Row {
    pub(super) id: u64,
    pub(super) guid: String,
    pub(super) delivered_at: Timestamp,
    pub(super) redelivery: bool,
    /// GitHub's name of the kind.
    pub(super) event: String,
    /// 0 when the receiver did not answer.
    #[serde(default)]
    pub(super) status_code: Option<u16>,
}

impl Row {
    pub(super) fn succeeded(&self) -> bool {
        matches!(self.status_code, Some(200..=299))
    }

    /// The key to look for in the permanent record.
    pub(super) fn key(&self) -> DeliveryKey {
        DeliveryKey { id: EventId::github(&self.guid), event: self.event.clone() }
    }
}

/// Rows of the list, newest first, and the cursor of the next page.
pub(super) struct Page {
    pub(super) rows: Vec<Row>,
    pub(super) next: Option<String>,
}

/// An answer, read completely.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// GitHub's API for one hook.
pub(super) struct Api {
    hook: HookName,
    app_or_token: Octocrab,
    /// `None` before the first call.
    client: Option<Octocrab>,
    timeout: Duration,
    /// No call before this moment.
    ready_at: Instant,
    quota: Gauge,
    is_app: bool,
}

impl Api {
    /// The API as `config` describes it, which must have been validated. Reads the system's certificates.
    pub(super) fn new(config: &Config, own: &config::Hook) -> anyhow::Result<Self> {
        let hook = HookName::new(own);
        let url = config.api_url.trim_end_matches('/');
        let builder = Octocrab::builder().base_uri(url).context("the API's URL is not accepted")?;
        let is_app = own.token.is_empty();
        let builder = if is_app {
            let key = EncodingKey::from_rsa_pem(own.private_key.expose().as_bytes());
            builder.app(AppId(own.app_id.unwrap_or_default()), key.context("the App's private key is not accepted")?)
        } else {
            builder.personal_token(own.token.expose().to_owned())
        };
        Ok(Self {
            app_or_token: builder.build().context("cannot set up the client of GitHub's API")?,
            client: None,
            timeout: config.timeout(),
            ready_at: Instant::now(),
            quota: gauge!(RECOVERY_QUOTA, "hook" => hook.name.clone()),
            is_app,
            hook,
        })
    }

    /// The hook that it is for.
    pub(super) const fn hook(&self) -> &HookName {
        &self.hook
    }

    /// The page at `cursor`, or the first one. Waits while a rate limit applies, for up to an hour each time.
    pub(super) async fn page(&mut self, cursor: Option<&str>) -> Result<Page, ApiError> {
        let cursor = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let route = format!("{}?per_page={PAGE}{cursor}", self.hook.deliveries);
        let mut failures = 0;
        loop {
            match self.list(&route).await {
                Err(ApiError::Limited(_)) => {}
                Err(ApiError::Away(_)) if failures + 1 < PAGE_RETRIES.attempts_max => {
                    failures += 1;
                    sleep(PAGE_RETRIES.backoff(Attempt(failures))).await;
                }
                answer => return answer,
            }
        }
    }

    async fn list(&mut self, route: &str) -> Result<Page, ApiError> {
        let client = self.client().await?;
        let answer = self.call(client._get(route)).await?;
        let rows: Vec<Row> = serde_json::from_slice(&answer.body)
            .map_err(|error| ApiError::Away(anyhow::Error::new(error).context("GitHub's list cannot be read")))?;
        let mut known = HashSet::with_capacity(rows.len());
        let rows = rows.into_iter().filter(|row| known.insert(row.id)).collect();
        Ok(Page { rows, next: next_cursor(&answer.headers) })
    }

    /// Asks GitHub to send the delivery `id` again. GitHub answers before it delivers.
    pub(super) async fn redeliver(&mut self, id: u64) -> Result<(), ApiError> {
        let client = self.client().await?;
        let route = format!("{}/{id}/attempts", self.hook.deliveries);
        self.call(client._post(route, None::<&()>)).await.map(|_| ())
    }

    /// The client with the rights for this hook: that of the App's installation, if there is one.
    async fn client(&mut self) -> Result<Octocrab, ApiError> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let client = match self.hook.installation.clone().filter(|_| self.is_app) {
            None => self.app_or_token.clone(),
            Some(route) => {
                #[derive(Deserialize)]
                struct Installation {
                    id: u64,
                }
                let app = self.app_or_token.clone();
                let answer = self.call(app._get(route)).await?;
                let Installation { id } = serde_json::from_slice(&answer.body).map_err(|error| {
                    ApiError::Away(anyhow::Error::new(error).context("no installation in the answer"))
                })?;
                app.installation(InstallationId(id)).map_err(|error| ApiError::Broken(error.into()))?
            }
        };
        self.client = Some(client.clone());
        Ok(client)
    }

    async fn call<F>(&mut self, request: F) -> Result<Answer, ApiError>
    where
        F: Future<Output = octocrab::Result<Response<BoxBody<Bytes, octocrab::Error>>>>,
    {
        sleep_until(self.ready_at).await;
        let read = async {
            let (parts, body) = request.await.map_err(unsent)?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| ApiError::Away(anyhow!("GitHub's answer broke off: {error}")))?;
            Ok(Answer { status: parts.status, headers: parts.headers, body: body.to_bytes() })
        };
        let away = |_| {
            let problem = format!("GitHub did not answer within {:?}", self.timeout);
            Err(ApiError::Away(anyhow::Error::new(io::Error::from(ErrorKind::TimedOut)).context(problem)))
        };
        let answer = timeout(self.timeout, read).await.unwrap_or_else(away);
        let rate_limit =
            answer.as_ref().map(|answer| RateLimit::read(&answer.headers, Timestamp::now())).unwrap_or_default();
        if let Some(remaining) = rate_limit.remaining {
            self.quota.set(remaining as f64);
        }
        let result = answer.and_then(|answer| classify(answer.status, &rate_limit, &answer.body).map(|()| answer));
        let wait = match &result {
            Err(ApiError::Limited(wait)) => Some(*wait),
            _ => rate_limit.wait_to_spare(),
        };
        if let Some(wait) = wait {
            tracing::warn!(hook = self.hook.name, wait_s = wait.as_secs(), "GitHub's rate limit is reached: waiting");
            self.ready_at = Instant::now() + wait;
        }
        result
    }
}

/// No connection. Octocrab's own error repeats the first of the causes.
#[derive(Debug, thiserror::Error)]
#[error("cannot reach GitHub")]
struct Unreached(#[source] Box<dyn std::error::Error + Send + Sync>);

/// A failure of octocrab itself: no connection, or no token for an installation.
fn unsent(error: octocrab::Error) -> ApiError {
    match error {
        octocrab::Error::GitHub { source, .. } => {
            let body = serde_json::json!({ "message": source.message, "documentation_url": source.documentation_url });
            let rate_limit = source.headers.as_ref().map(|headers| RateLimit::read(headers, Timestamp::now()));
            let rate_limit = rate_limit.unwrap_or_default();
            let problem = classify(source.status_code, &rate_limit, body.to_string().as_bytes());
            problem.err().unwrap_or_else(|| ApiError::Away(anyhow!("GitHub gave no token for the installation")))
        }
        octocrab::Error::Service { source, .. } => ApiError::Away(Unreached(source).into()),
        other => ApiError::Away(anyhow::Error::new(other).context("cannot ask GitHub")),
    }
}
