//! A stand-in for Jira Cloud's REST API, version 3, as far as a program needs it to file tickets.
//!
//! It follows Atlassian's reference and its page "Search after write". A search must find a ticket only once it is
//! indexed, except for issues named in `reconcileIssues`. The private module `rules` checks tickets.

mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post, put};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::server::{Protocol, Server};

/// The account that it accepts.
pub const EMAIL: &str = "headrace@acme.example";
/// That account's token.
pub const API_TOKEN: &str = "ATATT3xFfGF0-stand-in";
/// The only project.
pub const PROJECT: &str = "SEC";
/// The project's issue types.
pub const ISSUE_TYPES: [&str; 2] = ["Task", "Incident"];
/// The priorities that exist.
pub const PRIORITIES: [&str; 3] = ["Highest", "High", "Medium"];

/// A ticket.
#[derive(Clone, Debug)]
pub struct Issue {
    /// Jira's id.
    pub id: String,
    /// Its fields as they were sent.
    pub fields: Value,
    /// Its properties.
    pub properties: BTreeMap<String, Value>,
    /// Bodies of its comments.
    pub comments: Vec<Value>,
    indexed_at: Option<Instant>,
}

impl Issue {
    /// Whether a search finds it by now.
    #[must_use]
    pub fn is_indexed(&self) -> bool {
        self.indexed_at.is_some_and(|at| at <= Instant::now())
    }
}

/// The stand-in's data and settings.
#[derive(Default)]
pub struct Data {
    /// Tickets in the order of their creation.
    pub issues: Vec<Issue>,
    /// It refuses tickets with these properties `headrace.alert` as bad.
    pub refused: BTreeSet<String>,
    /// Whether the account's token is revoked.
    pub revoked: bool,
    /// Permissions that the account lacks.
    pub missing_permissions: BTreeSet<String>,
    /// Fields that the create screen lacks.
    pub missing_fields: BTreeSet<String>,
    /// Whether new tickets stay out of the search index until [`Jira::index_all`].
    pub index_stopped: bool,
    /// Otherwise, how long after its creation a ticket is indexed.
    pub index_lag: Duration,
}

type Shared = Arc<Mutex<Data>>;

/// The running stand-in.
pub struct Jira {
    server: Server<Rest>,
    data: Shared,
}

/// Jira's protocol for the server.
pub struct Rest;

impl Protocol for Rest {
    fn is_delivery(&self, method: &Method, uri: &Uri) -> bool {
        method == "POST" && (uri.path() == "/rest/api/3/issue" || uri.path().ends_with("/comment"))
    }

    fn error_body(&self, status: u16) -> String {
        json!({ "errorMessages": [format!("failing with {status} on command")], "errors": {} }).to_string()
    }
}

impl Deref for Jira {
    type Target = Server<Rest>;
    fn deref(&self) -> &Self::Target {
        &self.server
    }
}

impl Jira {
    /// Starts the stand-in on a free port.
    pub async fn start() -> Self {
        let data = Shared::default();
        let router = Router::new()
            .route("/rest/api/3/mypermissions", get(permissions))
            .route("/rest/api/3/issue/createmeta/{project}/issuetypes", get(issue_types))
            .route("/rest/api/3/issue/createmeta/{project}/issuetypes/{id}", get(screen))
            .route("/rest/api/3/search/jql", post(search))
            .route("/rest/api/3/issue", post(create))
            .route("/rest/api/3/issue/{issue}/comment", post(comment))
            .route("/rest/api/3/issue/{issue}/properties/{key}", put(set_property))
            .with_state(Arc::clone(&data));
        Self { server: Server::start(Rest, router).await, data }
    }

    /// The stand-in's data and settings.
    pub fn data(&self) -> MutexGuard<'_, Data> {
        lock(&self.data)
    }

    /// The alerts that have tickets, in order, including twins.
    #[must_use]
    pub fn alerts(&self) -> Vec<String> {
        let alert = |issue: &Issue| issue.properties["headrace"]["alert"].as_str().unwrap_or_default().to_owned();
        self.data().issues.iter().map(alert).collect()
    }

    /// Indexes every ticket, and from now on each new one at once.
    pub fn index_all(&self) {
        let mut data = self.data();
        data.index_stopped = false;
        let now = Some(Instant::now());
        data.issues.iter_mut().for_each(|issue| issue.indexed_at = now);
    }
}

fn lock(data: &Shared) -> MutexGuard<'_, Data> {
    data.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An answer that ends the handling of a request early.
struct Refusal(Box<Response>);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        *self.0
    }
}

type Answer = Result<Response, Refusal>;

fn refusal(status: StatusCode, messages: &[&str], errors: Value) -> Refusal {
    let body = Json(json!({ "errorMessages": messages, "errors": errors }));
    Refusal(Box::new((status, body).into_response()))
}

fn authorize(headers: &HeaderMap, data: &Data) -> Result<(), Refusal> {
    let expected = format!("Basic {}", STANDARD.encode(format!("{EMAIL}:{API_TOKEN}")));
    let good = headers.get(header::AUTHORIZATION).is_some_and(|value| value.as_bytes() == expected.as_bytes());
    if good && !data.revoked {
        return Ok(());
    }
    let text = "Client must be authenticated to access this resource.";
    Err(Refusal(Box::new((StatusCode::UNAUTHORIZED, text).into_response())))
}

/// The body as JSON. Jira accepts it only with JSON's media type.
fn json_body(headers: &HeaderMap, body: &Bytes) -> Result<Value, Refusal> {
    if headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/json") {
        return Err(Refusal(Box::new((StatusCode::UNSUPPORTED_MEDIA_TYPE, "").into_response())));
    }
    serde_json::from_slice(body)
        .map_err(|_| refusal(StatusCode::BAD_REQUEST, &["There was an error parsing JSON."], json!({})))
}

async fn permissions(
    State(data): State<Shared>,
    headers: HeaderMap,
    Query(query): Query<BTreeMap<String, String>>,
) -> Answer {
    let data = lock(&data);
    authorize(&headers, &data)?;
    if query.get("projectKey").is_some_and(|key| key != PROJECT) {
        return Err(refusal(StatusCode::NOT_FOUND, &["No project could be found with that key."], json!({})));
    }
    let Some(asked) = query.get("permissions") else {
        return Err(refusal(StatusCode::BAD_REQUEST, &["The 'permissions' query parameter is required."], json!({})));
    };
    let granted = |name: &str| {
        (name.to_owned(), json!({ "key": name, "havePermission": !data.missing_permissions.contains(name) }))
    };
    let permissions: serde_json::Map<String, Value> = asked.split(',').map(granted).collect();
    Ok(Json(json!({ "permissions": permissions })).into_response())
}

async fn issue_types(State(data): State<Shared>, headers: HeaderMap, Path(project): Path<String>) -> Answer {
    authorize(&headers, &lock(&data))?;
    if project != PROJECT {
        return Err(refusal(StatusCode::NOT_FOUND, &["Project not found."], json!({})));
    }
    let types = ISSUE_TYPES.iter().enumerate().map(|(number, name)| json!({ "id": number.to_string(), "name": name }));
    Ok(Json(json!({ "issueTypes": types.collect::<Vec<_>>(), "startAt": 0, "total": ISSUE_TYPES.len() }))
        .into_response())
}

async fn screen(State(data): State<Shared>, headers: HeaderMap, Path((project, id)): Path<(String, String)>) -> Answer {
    let data = lock(&data);
    authorize(&headers, &data)?;
    if project != PROJECT || id.parse::<usize>().is_ok_and(|id| id >= ISSUE_TYPES.len()) {
        return Err(refusal(StatusCode::NOT_FOUND, &["Not found."], json!({})));
    }
    let all = ["project", "issuetype", "summary", "description", "labels", "priority"];
    let fields = all.iter().filter(|field| !data.missing_fields.contains(**field));
    Ok(Json(json!({ "fields": fields.map(|field| json!({ "fieldId": field })).collect::<Vec<_>>() })).into_response())
}

async fn search(State(data): State<Shared>, headers: HeaderMap, body: Bytes) -> Answer {
    let data = lock(&data);
    authorize(&headers, &data)?;
    let body = json_body(&headers, &body)?;
    let labels = rules::labels_of(&body).map_err(|problem| refusal(StatusCode::BAD_REQUEST, &[&problem], json!({})))?;
    let reconciled = body["reconcileIssues"].as_array().cloned().unwrap_or_default();
    let shown = |issue: &&Issue| {
        let named = reconciled.iter().any(|id| id.as_u64() == issue.id.parse().ok());
        let has = |label: &Value| labels.iter().any(|sought| label == sought);
        (issue.is_indexed() || named) && issue.fields["labels"].as_array().is_some_and(|own| own.iter().any(has))
    };
    // Two issues to a page, so that we notice a client that stops at the first page.
    let first: usize = body["nextPageToken"].as_str().and_then(|token| token.parse().ok()).unwrap_or(0);
    let found: Vec<&Issue> = data.issues.iter().filter(shown).collect();
    let page = found.iter().skip(first).take(2).map(|issue| rules::shown(issue, &body)).collect::<Vec<_>>();
    let mut answer = json!({ "issues": page, "isLast": first + 2 >= found.len() });
    if first + 2 < found.len() {
        answer["nextPageToken"] = json!((first + 2).to_string());
    }
    Ok(Json(answer).into_response())
}

async fn create(State(data): State<Shared>, headers: HeaderMap, body: Bytes) -> Answer {
    let mut data = lock(&data);
    authorize(&headers, &data)?;
    let body = json_body(&headers, &body)?;
    let errors = rules::problems(&body, &data);
    if !errors.is_empty() {
        return Err(refusal(StatusCode::BAD_REQUEST, &[], json!(errors)));
    }
    let number = data.issues.len() + 1;
    let id = (10_000 + number).to_string();
    let properties = body["properties"].as_array().into_iter().flatten();
    let properties = properties.map(|own| (own["key"].as_str().unwrap_or_default().to_owned(), own["value"].clone()));
    let issue = Issue {
        id: id.clone(),
        fields: body["fields"].clone(),
        properties: properties.collect(),
        comments: Vec::new(),
        indexed_at: (!data.index_stopped).then(|| Instant::now() + data.index_lag),
    };
    data.issues.push(issue);
    let created = json!({ "id": id, "key": format!("{PROJECT}-{number}"), "self": "https://stand-in" });
    Ok((StatusCode::CREATED, Json(created)).into_response())
}

const GONE: &str = "Issue does not exist or you do not have permission to see it.";

async fn comment(State(data): State<Shared>, headers: HeaderMap, Path(issue): Path<String>, body: Bytes) -> Answer {
    let mut data = lock(&data);
    authorize(&headers, &data)?;
    let body = json_body(&headers, &body)?;
    let Some(issue) = data.issues.iter_mut().find(|own| own.id == issue) else {
        return Err(refusal(StatusCode::NOT_FOUND, &[GONE], json!({})));
    };
    if !rules::is_document(&body["body"]) {
        return Err(refusal(StatusCode::BAD_REQUEST, &[], json!({ "comment": "Comment body is not valid!" })));
    }
    issue.comments.push(body["body"].clone());
    Ok((StatusCode::CREATED, Json(json!({ "id": issue.comments.len().to_string() }))).into_response())
}

async fn set_property(
    State(data): State<Shared>,
    headers: HeaderMap,
    Path((issue, key)): Path<(String, String)>,
    body: Bytes,
) -> Answer {
    let mut data = lock(&data);
    authorize(&headers, &data)?;
    let body = json_body(&headers, &body)?;
    let Some(issue) = data.issues.iter_mut().find(|own| own.id == issue) else {
        return Err(refusal(StatusCode::NOT_FOUND, &[GONE], json!({})));
    };
    let known = issue.properties.insert(key, body).is_some();
    Ok((if known { StatusCode::OK } else { StatusCode::CREATED }).into_response())
}
