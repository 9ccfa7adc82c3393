//! The requests to Jira Cloud's REST API, version 3.

use std::collections::HashMap;

use anyhow::anyhow;
use headrace_runtime::fault::Fault;
use headrace_schemas::alert::Alert;
use reqwest::{Client, Method, RequestBuilder};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{ApiError, classify};
use super::cache::Ticket;
use super::{Config, ticket};
use crate::shared::http;

/// What the account must be allowed to do in the project.
const PERMISSIONS: [&str; 4] = ["BROWSE_PROJECTS", "CREATE_ISSUES", "ADD_COMMENTS", "EDIT_ISSUES"];
/// Tickets per page of a search: enough for the alerts of the largest batch, and for twins.
const PAGE: usize = 100;
/// The most pages of a search. This sink never makes more tickets than that for one batch.
const PAGES_MAX: usize = 10;

/// Speaks to one project.
pub(super) struct Jira {
    http: Client,
    config: Config,
}

#[derive(Deserialize)]
struct Created {
    id: String,
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    issues: Vec<Issue>,
    #[serde(default, rename = "nextPageToken")]
    next_page_token: Option<String>,
}

#[derive(Deserialize)]
struct Issue {
    id: String,
    fields: Labels,
    #[serde(default)]
    properties: HashMap<String, Value>,
}

#[derive(Deserialize)]
struct Labels {
    #[serde(default)]
    labels: Vec<String>,
}

#[derive(Deserialize)]
struct Permissions {
    permissions: HashMap<String, Permission>,
}

#[derive(Deserialize)]
struct Permission {
    #[serde(rename = "havePermission")]
    granted: bool,
}

#[derive(Deserialize)]
struct IssueTypes {
    #[serde(rename = "issueTypes")]
    types: Vec<IssueType>,
}

#[derive(Deserialize)]
struct IssueType {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct Screen {
    fields: Vec<Field>,
}

#[derive(Deserialize)]
struct Field {
    #[serde(rename = "fieldId")]
    id: String,
}

impl Jira {
    pub(super) fn new(config: &Config) -> anyhow::Result<Self> {
        let http = http::client(config.timeout(), config.ca_path.as_deref())?;
        Ok(Self { http, config: config.clone() })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let base = self.config.url.trim_end_matches('/');
        self.http
            .request(method, format!("{base}/rest/api/3/{path}"))
            .basic_auth(&self.config.email, Some(self.config.api_token.expose()))
            .header(reqwest::header::ACCEPT, "application/json")
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, Fault> {
        let answer = http::send(self.request(Method::GET, path)).await;
        classify(answer).map_err(|error| match error {
            ApiError::Receiver(fault) | ApiError::Internal(fault) => fault,
            ApiError::Item(fault) => Fault::broken(fault.source),
            ApiError::Gone => Fault::broken(anyhow!(
                "Jira has no project {} that the account may see; check `project` and `url`",
                self.config.project
            )),
        })
    }

    /// Whether the account may do what this sink does, and the project takes what it sends.
    pub(super) async fn check(&self) -> Result<(), Fault> {
        let Config { project, issue_type, .. } = &self.config;
        let path = format!("mypermissions?projectKey={project}&permissions={}", PERMISSIONS.join(","));
        let Permissions { permissions } = self.get(&path).await?;
        let granted = |name: &&str| permissions.get(*name).is_some_and(|permission| permission.granted);
        let missing: Vec<&str> = PERMISSIONS.into_iter().filter(|name| !granted(name)).collect();
        if !missing.is_empty() {
            let missing = missing.join(", ");
            return Err(Fault::broken(anyhow!("the account lacks {missing} in the project {project}; grant them")));
        }
        let IssueTypes { types } = self.get(&format!("issue/createmeta/{project}/issuetypes?maxResults=200")).await?;
        let Some(found) = types.iter().find(|found| found.name == *issue_type) else {
            let names: Vec<&str> = types.iter().map(|found| found.name.as_str()).collect();
            return Err(Fault::broken(anyhow!(
                "the project {project} has no issue type `{issue_type}`; set `issue_type` to one of {}",
                names.join(", ")
            )));
        };
        let path = format!("issue/createmeta/{project}/issuetypes/{}?maxResults=200", found.id);
        let Screen { fields } = self.get(&path).await?;
        let needed = ["summary", "description", "labels"].into_iter();
        for field in needed.chain((!self.config.priorities.is_empty()).then_some("priority")) {
            if !fields.iter().any(|offered| offered.id == field) {
                return Err(Fault::broken(anyhow!(
                    "the create screen of `{issue_type}` in {project} lacks the field `{field}`; add it in Jira"
                )));
            }
        }
        Ok(())
    }

    /// The tickets of `alerts` (ids) that Jira's search knows, by alert id. Of twins it is the oldest.
    ///
    /// The search lags behind writes by seconds to minutes. Its parameter `reconcileIssues` makes it
    /// current for issues whose ids one knows; those are in our cache and need no search, so it is
    /// of no use here.
    pub(super) async fn find(&self, alerts: &[&str]) -> Result<HashMap<String, Ticket>, ApiError> {
        let by_label: HashMap<String, &str> = alerts.iter().map(|alert| (ticket::label(alert), *alert)).collect();
        let labels = by_label.keys().map(|label| format!("\"{label}\"")).collect::<Vec<_>>().join(", ");
        let jql = format!("project = \"{}\" AND labels in ({labels}) ORDER BY created ASC", self.config.project);
        let mut found = HashMap::new();
        let mut token: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let mut body = json!({
                "jql": jql, "fields": ["labels"], "properties": [ticket::PROPERTY], "maxResults": PAGE,
            });
            if let Some(token) = &token {
                body["nextPageToken"] = json!(token);
            }
            let answer = http::send(self.request(Method::POST, "search/jql").json(&body)).await;
            let page: Page = classify(answer).map_err(|error| self.set_up(error))?;
            for issue in page.issues {
                let alert = issue.fields.labels.iter().find_map(|label| by_label.get(label));
                if let Some(alert) = alert {
                    found.entry((*alert).to_owned()).or_insert_with(|| known(&issue));
                }
            }
            token = page.next_page_token;
            if token.is_none() {
                break;
            }
        }
        Ok(found)
    }

    pub(super) async fn create(&self, alert: &Alert) -> Result<Ticket, ApiError> {
        let body = ticket::creation(alert, &self.config);
        let answer = http::send(self.request(Method::POST, "issue").json(&body)).await;
        let Created { id } = classify(answer).map_err(|error| match error {
            ApiError::Gone => self.set_up(error),
            other => other,
        })?;
        Ok(Ticket { issue: id, said_count: alert.count, said_risk: alert.risk })
    }

    /// Comments in the ticket how the alert has grown.
    pub(super) async fn comment(&self, ticket: &Ticket, alert: &Alert) -> Result<(), ApiError> {
        let issue = &ticket.issue;
        let request = self.request(Method::POST, &format!("issue/{issue}/comment"));
        let answer = http::send(request.json(&ticket::comment(alert))).await;
        classify::<Value>(answer)?;
        // After the comment: a crash between the two costs a second comment, the other order loses it.
        let request = self.request(Method::PUT, &format!("issue/{issue}/properties/{}", ticket::PROPERTY));
        let answer = http::send(request.json(&ticket::property(alert))).await;
        classify::<Value>(answer)?;
        Ok(())
    }

    /// Reads an error of a request that names no ticket. No single alert is to blame, because nothing in the request
    /// comes from one.
    fn set_up(&self, error: ApiError) -> ApiError {
        let fault = match error {
            ApiError::Gone => Fault::broken(anyhow!("no Jira Cloud at {}; check `url`", self.config.url)),
            ApiError::Item(fault) => Fault::broken(fault.source),
            ApiError::Receiver(fault) | ApiError::Internal(fault) => fault,
        };
        ApiError::Receiver(fault)
    }
}

/// A ticket that a search found. When somebody deleted its property, it counts as never updated.
fn known(issue: &Issue) -> Ticket {
    let property = issue.properties.get(ticket::PROPERTY);
    let number = |name: &str| property.and_then(|property| property[name].as_i64());
    let risk = number("risk").and_then(|risk| i32::try_from(risk).ok());
    Ticket { issue: issue.id.clone(), said_count: number("count").unwrap_or(1), said_risk: risk.unwrap_or(0) }
}
