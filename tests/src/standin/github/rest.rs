//! The REST API: lists a hook's deliveries, newest first by pages, and sends one of them again.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Json};
use axum::routing::{get, post};
use headrace_schemas::time::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::app::Verifier;
use super::{Attempt, Data, KEPT, Shared, TOKEN, lock, send};

/// Most requests in an hour.
pub(super) const LIMIT: u64 = 5_000;
/// The token of the App's installation.
const INSTALLATION_TOKEN: &str = "ghs_stand_in";
/// The App's installation.
const INSTALLATION: u64 = 99;
/// Most deliveries on a page.
const PAGE_MAX: usize = 100;
const API_VERSION: &str = "2022-11-28";

#[derive(Clone)]
struct Api {
    data: Shared,
    verifier: Verifier,
}

type Answer = Response<Body>;
/// A refusal ends the handling of a request early. It is boxed, because answers are large.
type Result<T> = std::result::Result<T, Box<Answer>>;

pub(super) fn router(data: Shared, verifier: Verifier) -> Router {
    let api = Api { data, verifier };
    let routes = Router::new()
        .route("/app/hook/deliveries", get(list_app))
        .route("/app/hook/deliveries/{id}/attempts", post(repeat_app))
        .route("/app/installations/{id}/access_tokens", post(installation_token))
        .route("/orgs/{org}/installation", get(installation))
        .route("/repos/{owner}/{repo}/installation", get(installation))
        .route("/orgs/{org}/hooks/{hook}/deliveries", get(list_org))
        .route("/orgs/{org}/hooks/{hook}/deliveries/{id}/attempts", post(repeat_org))
        .route("/repos/{owner}/{repo}/hooks/{hook}/deliveries", get(list_repo))
        .route("/repos/{owner}/{repo}/hooks/{hook}/deliveries/{id}/attempts", post(repeat_repo))
        .fallback(async || refusal(StatusCode::NOT_FOUND, "Not Found"))
        .layer(from_fn_with_state(api.clone(), limit))
        .with_state(api);
    // The routes of github.com, and those of GitHub Enterprise Server.
    Router::new().nest("/api/v3", routes.clone()).merge(routes)
}

fn refusal(status: StatusCode, message: &str) -> Answer {
    let body =
        json!({ "message": message, "documentation_url": "https://docs.github.com/rest", "status": status.as_str() });
    (status, Json(body)).into_response()
}

fn refused(status: StatusCode, message: &str) -> Box<Answer> {
    Box::new(refusal(status, message))
}

/// Applies the primary rate limit, and checks what every request must have.
async fn limit(State(api): State<Api>, request: Request, next: Next) -> Answer {
    let (remaining, reset_at) = {
        let mut data = lock(&api.data);
        let now = Timestamp::now();
        if data.reset_at <= now {
            data.reset_at = Timestamp::from_micros(now.as_micros() + 3_600_000_000);
            data.remaining = if data.remaining == 0 { LIMIT } else { data.remaining };
        }
        let before = data.remaining;
        data.remaining = before.saturating_sub(1);
        (before, data.reset_at)
    };
    let headers = request.headers();
    let mut answer = if remaining == 0 {
        refusal(StatusCode::FORBIDDEN, "API rate limit exceeded for user ID 1.")
    } else if !headers.contains_key(header::USER_AGENT) {
        refusal(
            StatusCode::FORBIDDEN,
            "Request forbidden by administrative rules. Please make sure your request has a User-Agent header",
        )
    } else if headers.get("x-github-api-version").is_some_and(|version| version != API_VERSION) {
        refusal(StatusCode::BAD_REQUEST, "Unsupported API version")
    } else {
        next.run(request).await
    };
    let pairs = [
        ("x-ratelimit-limit", LIMIT),
        ("x-ratelimit-remaining", remaining.saturating_sub(1)),
        ("x-ratelimit-reset", u64::try_from(reset_at.as_micros() / 1_000_000).unwrap_or_default()),
    ];
    for (name, value) in pairs {
        answer.headers_mut().insert(name, HeaderValue::from(value));
    }
    answer
}

fn bearer(headers: &HeaderMap) -> &str {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.strip_prefix("Bearer ").unwrap_or_default()
}

impl Api {
    /// Fails unless the App itself asks.
    fn authorize_app(&self, headers: &HeaderMap) -> Result<()> {
        let accepted = self.verifier.accepts(bearer(headers));
        if accepted { Ok(()) } else { Err(refused(StatusCode::UNAUTHORIZED, "A JSON web token could not be decoded")) }
    }

    /// Fails unless the client may see the hook at `route`.
    fn authorize(&self, headers: &HeaderMap, route: &str) -> Result<()> {
        if route == super::APP_HOOK {
            return self.authorize_app(headers);
        }
        let known = match bearer(headers) {
            TOKEN => !lock(&self.data).revoked,
            token => token == INSTALLATION_TOKEN,
        };
        if known { Ok(()) } else { Err(refused(StatusCode::UNAUTHORIZED, "Bad credentials")) }
    }
}

#[derive(Deserialize)]
struct Paging {
    per_page: Option<usize>,
    cursor: Option<String>,
}

fn list(api: &Api, headers: &HeaderMap, route: &str, paging: &Paging) -> Result<Answer> {
    api.authorize(headers, route)?;
    let data = lock(&api.data);
    let hook = data.hooks.get(route).ok_or_else(|| refused(StatusCode::NOT_FOUND, "Not Found"))?;
    let per_page = paging.per_page.unwrap_or(30);
    if !(1..=PAGE_MAX).contains(&per_page) {
        return Err(refused(StatusCode::UNPROCESSABLE_ENTITY, "per_page must be at most 100"));
    }
    let from = match &paging.cursor {
        None => u64::MAX,
        Some(cursor) => cursor
            .strip_prefix("v1_")
            .and_then(|id| id.parse().ok())
            .ok_or_else(|| refused(StatusCode::BAD_REQUEST, "Invalid cursor"))?,
    };
    let oldest = Timestamp::now().minus(KEPT);
    let mut attempts = hook.attempts.iter().rev().filter(|attempt| attempt.id <= from && attempt.delivered_at > oldest);
    let page: Vec<Value> = attempts.by_ref().take(per_page).map(object).collect();
    let mut answer = Json(page).into_response();
    if let Some(next) = attempts.next() {
        // An address as clients outside see it. Only the cursor matters.
        let link = format!(
            "<https://api.github.com{route}/deliveries?per_page={per_page}&cursor=v1_{}>; rel=\"next\"",
            next.id
        );
        answer.headers_mut().insert(header::LINK, HeaderValue::try_from(link).expect("a route is ASCII"));
    }
    Ok(answer)
}

/// The short form of a delivery, as in lists.
fn object(attempt: &Attempt) -> Value {
    let status = match attempt.status_code {
        0 => "failed to connect to host".to_owned(),
        code => {
            StatusCode::from_u16(code).ok().and_then(|code| code.canonical_reason()).unwrap_or("unknown").to_owned()
        }
    };
    let body: Value = serde_json::from_slice(&attempt.body).unwrap_or_default();
    json!({
        "id": attempt.id,
        "guid": attempt.guid,
        // GitHub gives whole seconds.
        "delivered_at": format!("{}Z", &attempt.delivered_at.to_string()[..19]),
        "redelivery": attempt.redelivery,
        "duration": 0.27,
        "status": status,
        "status_code": attempt.status_code,
        "event": attempt.event,
        "action": body["action"],
        "installation_id": Value::Null,
        "repository_id": body["repository"]["id"],
        "throttled_at": Value::Null,
    })
}

fn repeat(api: &Api, headers: &HeaderMap, route: &str, id: u64) -> Result<Answer> {
    api.authorize(headers, route)?;
    let mut data = lock(&api.data);
    let Data { hooks, under_way, .. } = &mut *data;
    let not_found = || refused(StatusCode::NOT_FOUND, "Not Found");
    let hook = hooks.get(route).ok_or_else(not_found)?;
    let oldest = Timestamp::now().minus(KEPT);
    let found = hook.attempts.iter().find(|attempt| attempt.id == id && attempt.delivered_at > oldest);
    let Attempt { guid, event, body, .. } = found.ok_or_else(not_found)?.clone();
    if hook.disabled {
        return Err(refused(StatusCode::UNPROCESSABLE_ENTITY, "The hook is not active"));
    }
    if let Some(status) = hook.refuses {
        return Err(refused(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), "refused on command"));
    }
    let (shared, route) = (Arc::clone(&api.data), route.to_owned());
    under_way.spawn(async move {
        send(&shared, &route, &event, &guid, body, true).await;
    });
    Ok((StatusCode::ACCEPTED, Json(json!({}))).into_response())
}

fn one(result: Result<Answer>) -> Answer {
    result.unwrap_or_else(|refused| *refused)
}

async fn list_app(State(api): State<Api>, headers: HeaderMap, Query(paging): Query<Paging>) -> Answer {
    one(list(&api, &headers, super::APP_HOOK, &paging))
}

async fn repeat_app(State(api): State<Api>, headers: HeaderMap, Path(id): Path<u64>) -> Answer {
    one(repeat(&api, &headers, super::APP_HOOK, id))
}

async fn list_org(
    State(api): State<Api>,
    headers: HeaderMap,
    Path((org, hook)): Path<(String, u64)>,
    Query(paging): Query<Paging>,
) -> Answer {
    one(list(&api, &headers, &format!("/orgs/{org}/hooks/{hook}"), &paging))
}

async fn repeat_org(
    State(api): State<Api>,
    headers: HeaderMap,
    Path((org, hook, id)): Path<(String, u64, u64)>,
) -> Answer {
    one(repeat(&api, &headers, &format!("/orgs/{org}/hooks/{hook}"), id))
}

async fn list_repo(
    State(api): State<Api>,
    headers: HeaderMap,
    Path((owner, repo, hook)): Path<(String, String, u64)>,
    Query(paging): Query<Paging>,
) -> Answer {
    one(list(&api, &headers, &format!("/repos/{owner}/{repo}/hooks/{hook}"), &paging))
}

async fn repeat_repo(
    State(api): State<Api>,
    headers: HeaderMap,
    Path((owner, repo, hook, id)): Path<(String, String, u64, u64)>,
) -> Answer {
    one(repeat(&api, &headers, &format!("/repos/{owner}/{repo}/hooks/{hook}"), id))
}

async fn installation(State(api): State<Api>, headers: HeaderMap) -> Answer {
    one(api.authorize_app(&headers).map(|()| Json(json!({ "id": INSTALLATION })).into_response()))
}

async fn installation_token(State(api): State<Api>, headers: HeaderMap, Path(id): Path<u64>) -> Answer {
    one(api.authorize_app(&headers).and_then(|()| {
        if id != INSTALLATION {
            return Err(refused(StatusCode::NOT_FOUND, "Not Found"));
        }
        let expires_at = Timestamp::from_micros(Timestamp::now().as_micros() + 3_600_000_000).to_string();
        let token =
            json!({ "token": INSTALLATION_TOKEN, "expires_at": format!("{}Z", &expires_at[..19]), "permissions": {} });
        Ok((StatusCode::CREATED, Json(token)).into_response())
    }))
}
