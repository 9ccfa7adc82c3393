//! One Jira Cloud ticket per alert.
//!
//! A ticket carries a label made of the alert's id. Before one is created, it is looked up by that label. But Jira's
//! search lags behind its writes, so "not found" proves nothing about the last minute:
//!
//! * Tickets that this process created or found are remembered and need no search.
//! * Somebody else may have begun (a redelivered message, or an update of an alert whose opening this process did not
//!   see), or a creation may have had no clear answer. Then `index_lag_ms` passes before "not found" is believed and a
//!   ticket is created.
//!
//! Two tickets are still possible: when Jira's index lags longer than `index_lag_ms` after such a moment, or when two
//! processes take duplicates of the same opening message within that time. Comments, unlike tickets, come at least
//! once. This was tried only against a stand-in that follows the published REST API, never against Jira. Requests are
//! in [`client`], answers in [`answer`], the text in [`ticket`].

mod answer;
mod cache;
mod client;
mod config;
mod ticket;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::anyhow;
use async_trait::async_trait;
use headrace_runtime::broker::Stream;
use headrace_runtime::component::batch::{Batch, BatchPolicy, Item};
use headrace_runtime::component::sink::{BatchResult, Sink, SinkOptions, Taken};
use headrace_runtime::component::subscription::Start;
use headrace_runtime::config::Invalid;
use headrace_runtime::fault::{Effect, Fault};
use headrace_schemas::alert::{Alert, Status};
use headrace_schemas::event::Severity;
use headrace_schemas::subject;
use tokio::time::Instant;

use self::answer::ApiError;
use self::cache::{Known, Ticket, TicketCache};
pub use self::config::Config;
use crate::kind::{Identity, Kind, Part};

/// How many requests of one call may take the full timeout.
const SLOW_REQUESTS_MAX: u32 = 6;
/// How many requests one alert may take: comment and property.
const REQUESTS_PER_ALERT: u32 = 2;

/// The sink.
pub struct Jira {
    client: client::Jira,
    cache: Mutex<TicketCache>,
    timeout: Duration,
    index_lag: Duration,
}

impl Config {
    /// Builds the sink. Reads `ca_path`, and connects to nothing yet.
    ///
    /// # Errors
    /// When the CA certificate cannot be read.
    pub fn build(&self) -> anyhow::Result<Jira> {
        Ok(Jira {
            client: client::Jira::new(self)?,
            cache: Mutex::default(),
            timeout: self.timeout(),
            index_lag: self.index_lag(),
        })
    }

    /// The options with which it takes alerts.
    #[must_use]
    pub fn options(&self) -> SinkOptions {
        let call_timeout = self.timeout() * SLOW_REQUESTS_MAX;
        SinkOptions {
            filters: vec![subject::ALERTS.to_owned()],
            batching: BatchPolicy {
                events_max: self.batch_events_max,
                bytes_max: crate::MESSAGES_BYTES_MAX,
                linger: Duration::from_millis(self.linger_ms),
            },
            call_timeout,
            ack_wait: call_timeout * 2,
            workers: Self::CONCURRENCY,
        }
    }
}

#[async_trait]
impl Kind for Config {
    const NAME: &'static str = "jira";
    const COMPONENTS: &'static [(&'static str, Stream)] = &[("", Stream::Alerts)];
    // A new project must not be filled with tickets for last month's alerts.
    const START: Start = Start::Now;
    const MIN_SEVERITY: Severity = Severity::High;
    const ONE_AT_A_TIME: Option<&'static str> = Some("the messages of an alert must not overtake each other");

    fn validate(&self, path: &str) -> Vec<Invalid> {
        Self::validate(self, path)
    }

    fn parts(&self, _own: &Identity) -> anyhow::Result<Vec<Part>> {
        Ok(vec![Part::alerts(self.build()?, self.options())])
    }
}

#[async_trait]
impl Sink for Jira {
    type Item = Alert;

    async fn check(&self) -> Result<(), Fault> {
        self.client.check().await
    }

    /// The sink remembers what it has done for a batch, so that a batch that is presented again goes on where it
    /// stopped. So when the receiver goes away in the middle, the batch fails as a whole.
    async fn deliver(&self, batch: &Batch<Alert>) -> BatchResult {
        let began = Instant::now();
        if let Err(error) = self.look_up(batch.items()).await {
            return BatchResult::Whole(into_fault(error));
        }
        let last_start = self.timeout * (SLOW_REQUESTS_MAX - REQUESTS_PER_ALERT);
        let mut results = Vec::with_capacity(batch.items().len());
        let mut internal = false;
        for item in batch.items() {
            if began.elapsed() > last_start {
                let late = anyhow!("Jira is slow: {} of {} alerts done", results.len(), batch.items().len());
                return BatchResult::Whole(Fault::transient(late));
            }
            results.push(match self.file(item, began).await {
                Ok(taken) => Ok(taken),
                Err(ApiError::Receiver(fault)) => return BatchResult::Whole(fault),
                Err(ApiError::Internal(fault)) => {
                    internal = true;
                    Err(fault)
                }
                Err(ApiError::Item(fault)) => Err(fault),
                Err(ApiError::Gone) => {
                    self.cache().forget(&item.value.id);
                    Err(Fault::transient(anyhow!("the alert's ticket is gone from Jira; it is looked up again")))
                }
            });
        }
        // Jira failed internally, and nothing succeeded: ask whether it is Jira or the alert.
        if internal
            && results.iter().all(Result::is_err)
            && let Err(fault) = self.check().await
        {
            return BatchResult::Whole(fault);
        }
        BatchResult::Told(results)
    }
}

impl Jira {
    fn cache(&self) -> MutexGuard<'_, TicketCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Searches for the tickets of all alerts that are not remembered, and remembers what it finds.
    async fn look_up(&self, items: &[Item<Alert>]) -> Result<(), ApiError> {
        let mut sought: Vec<&str> = {
            let cache = self.cache();
            let known = |id: &str| matches!(cache.get(id), Some(Known::Ticket(_)));
            items.iter().map(|item| item.value.id.as_str()).filter(|id| !known(id)).collect()
        };
        sought.sort_unstable();
        sought.dedup();
        if sought.is_empty() {
            return Ok(());
        }
        let found = self.client.find(&sought).await?;
        let mut cache = self.cache();
        found.into_iter().for_each(|(alert, ticket)| cache.set(&alert, Known::Ticket(ticket)));
        Ok(())
    }

    /// Opens or updates the ticket of one alert, if needed. `searched_at` is when the look-up began.
    async fn file(&self, item: &Item<Alert>, searched_at: Instant) -> Result<Taken, ApiError> {
        let alert = &item.value;
        let known = self.cache().get(&alert.id).cloned();
        match known {
            Some(Known::Ticket(ticket)) => self.update(ticket, alert).await,
            Some(Known::Unclear { searchable_from }) if searched_at < searchable_from => {
                Err(not_yet(searchable_from - searched_at))
            }
            None if item.redelivered || alert.status == Status::Updated => {
                let searchable_from = searched_at + self.index_lag;
                self.cache().set(&alert.id, Known::Unclear { searchable_from });
                Err(not_yet(self.index_lag))
            }
            Some(Known::Unclear { .. }) | None => self.create(alert).await.map(|()| Taken::Now),
        }
    }

    async fn create(&self, alert: &Alert) -> Result<(), ApiError> {
        // Note this beforehand: the call may be cut off at any moment, with the request on its way.
        let searchable_from = Instant::now() + self.timeout + self.index_lag;
        self.cache().set(&alert.id, Known::Unclear { searchable_from });
        match self.client.create(alert).await {
            Ok(ticket) => {
                self.cache().set(&alert.id, Known::Ticket(ticket));
                Ok(())
            }
            Err(error) => {
                // Without an effect it is searchable from now on: when the alert is presented again, it is searched for
                // and, if not found, created.
                let lag = if error.effect() == Effect::Possible { self.index_lag } else { Duration::ZERO };
                self.cache().set(&alert.id, Known::Unclear { searchable_from: Instant::now() + lag });
                Err(error)
            }
        }
    }

    async fn update(&self, ticket: Ticket, alert: &Alert) -> Result<Taken, ApiError> {
        if !ticket.is_outgrown_by(alert) {
            return Ok(Taken::Before);
        }
        self.client.comment(&ticket, alert).await?;
        let said = Ticket {
            said_count: alert.count.max(ticket.said_count),
            said_risk: alert.risk.max(ticket.said_risk),
            ..ticket
        };
        self.cache().set(&alert.id, Known::Ticket(said));
        Ok(Taken::Now)
    }
}

/// It is not yet certain whether a ticket exists.
fn not_yet(wait: Duration) -> ApiError {
    let problem = anyhow!("the alert may have a ticket that Jira's search does not show yet");
    ApiError::Item(Fault::transient_after(Some(wait), problem))
}

fn into_fault(error: ApiError) -> Fault {
    match error {
        ApiError::Receiver(fault) | ApiError::Item(fault) | ApiError::Internal(fault) => fault,
        ApiError::Gone => Fault::transient(anyhow!("a ticket is gone from Jira")),
    }
}
