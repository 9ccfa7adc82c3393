//! An audit log that is asked over HTTP, page by page.

use async_trait::async_trait;
use headrace_ingest::source::Record;
use headrace_ingest::source::pull::{Cursor, Pace, Page, Pull};
use headrace_runtime::fault::Fault;
use headrace_schemas::id::EventId;
use headrace_schemas::time::Timestamp;
use reqwest::StatusCode;
use reqwest::header::RETRY_AFTER;
use serde::Deserialize;
use serde_json::Value;

/// An audit log that tells what happened after a number, oldest first.
pub(crate) struct AuditLog {
    pub(crate) http: reqwest::Client,
    pub(crate) url: String,
    pub(crate) pace: Pace,
}

#[derive(Deserialize)]
struct Answer {
    entries: Vec<Entry>,
    more: bool,
}

#[derive(Deserialize)]
struct Entry {
    number: u64,
    at: String,
    kind: String,
    owner: String,
}

#[async_trait]
impl Pull for AuditLog {
    fn source(&self) -> &'static str {
        "auditlog"
    }

    fn name(&self) -> &str {
        "entries"
    }

    fn pace(&self) -> Pace {
        self.pace
    }

    async fn check(&self) -> Result<(), Fault> {
        self.page(None).await.map(|_| ())
    }

    async fn page(&self, cursor: Option<&Cursor>) -> Result<Page, Fault> {
        let after = cursor.and_then(Cursor::as_u64).unwrap_or_default();
        let request = self.http.get(format!("{}/entries?after={after}", self.url));
        let response = request.send().await.map_err(Fault::transient)?;
        let status = response.status();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(Fault::broken(anyhow::anyhow!("the audit log refuses us ({status}); renew the token")));
        }
        if !status.is_success() {
            let wait = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            let wait = wait.map(std::time::Duration::from_secs);
            return Err(Fault::transient_after(wait, anyhow::anyhow!("the audit log answered {status}")));
        }
        let body = response.bytes().await.map_err(Fault::transient)?;
        let Answer { entries, more } = serde_json::from_slice(&body).map_err(Fault::transient)?;
        let last = entries.last().map_or(after, |entry| entry.number);
        let records = entries.into_iter().map(record).collect();
        Ok(Page { records, cursor: Some(Value::from(last)), has_more: more })
    }
}

/// The same entry makes the same record, whenever it is read.
fn record(entry: Entry) -> Record {
    let Entry { number, at, kind, owner } = entry;
    Record {
        id: EventId::of_source("auditlog", &number.to_string()),
        event_time: Timestamp::parse(&at),
        body: format!(r#"{{"number":{number},"at":"{at}","kind":"{kind}","owner":"{owner}"}}"#).into(),
        kind,
        tenant: owner,
        headers: Vec::new(),
    }
}
