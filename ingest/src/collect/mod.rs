//! Asks the sources that must be asked, page by page.
//!
//! Of several processes the one with the lease asks a source; each source has a lease of its own, so several processes
//! share them. A page is stored in RAW, and only then the cursor behind it is kept, by compare-and-set. So a process
//! that dies in between has the next one ask for the same page again, and what was stored is recognized. A process that
//! lost its lease without noticing cannot move the cursor.
//!
//! A source classifies its failures; what follows from them is decided here alone. The broker's trouble is never taken
//! for the source's. [`kept`] has the cursors, `turns` the pauses.

pub mod config;
pub mod kept;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use headrace_runtime::broker::Broker;
use headrace_runtime::crash::{self, Point};
use headrace_runtime::fault::Fault;
use headrace_runtime::memory::Account;
use headrace_runtime::observe::health::{ComponentHealth, Health};
use headrace_runtime::observe::metrics::{COLLECT_LEADER, COLLECT_PAGES, COLLECT_READ};
use headrace_runtime::observe::trace::TraceParent;
use headrace_runtime::retry::{Attempt, RetryPolicy};
use headrace_runtime::state::StateStore;
use headrace_runtime::state::budget::Budget;
use headrace_runtime::state::lease::{Job, Lease, lead};
use headrace_schemas::time::Timestamp;
use metrics::{Gauge, counter, gauge};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::kept::{Kept, Read, Status};
use self::turns::{After, Turns};
use crate::source::Record;
use crate::source::pull::{Page, Pull};
use crate::store::{Arrival, NotStored, Store};

/// The first part of the name of each of this role's components; there is one for each source that is asked.
pub const COMPONENT: &str = "collect";

/// After this time without a failure, the next one counts as the first.
const RECOVERED_AFTER: Duration = Duration::from_secs(60);
/// How long to wait when the hour's budget is used up. The budget is counted by minute.
const BUDGET_PAUSE: Duration = Duration::from_secs(60);

/// `<source>.<name>` of a source that is asked.
#[must_use]
pub fn name_of(pull: &dyn Pull) -> String {
    format!("{}.{}", pull.source(), pull.name())
}

/// Asks one source.
pub struct Collector {
    pull: Arc<dyn Pull>,
    name: String,
    component: String,
    broker: Broker,
    store: Store,
    policy: RetryPolicy,
    lease: Duration,
    health: ComponentHealth,
    leader: Gauge,
    read_at: Gauge,
    memory: Account,
}

impl Collector {
    /// Asks `pull`. After a failure it pauses as `policy` says. The lease is taken over after the time `lease`.
    #[must_use]
    pub fn new(pull: Arc<dyn Pull>, broker: &Broker, policy: RetryPolicy, lease: Duration, health: &Health) -> Self {
        let name = name_of(&*pull);
        let component = format!("{COMPONENT}:{name}");
        let health = health.register(&component);
        health.healthy();
        Self {
            store: Store::new(pull.source(), broker),
            leader: gauge!(COLLECT_LEADER, "component" => component.clone()),
            read_at: gauge!(COLLECT_READ, "component" => component.clone()),
            memory: Account::new(&component, pull.page_bytes_max()),
            broker: broker.clone(),
            pull,
            name,
            component,
            policy,
            lease,
            health,
        }
    }

    /// The name of its component.
    #[must_use]
    pub fn component(&self) -> &str {
        &self.component
    }

    /// Runs until `stop`. It asks while it holds the lease, and stands by otherwise.
    ///
    /// # Errors
    /// None: a broker that is away is waited for.
    pub async fn run(&self, stop: CancellationToken) -> anyhow::Result<()> {
        let (mut failures, mut began) = (0, Instant::now());
        while let Err(error) = self.take_part(&stop).await {
            // It had recovered from its earlier failures.
            failures = if began.elapsed() > RECOVERED_AFTER { 1 } else { failures + 1 };
            self.health.degraded(format!("{error:#}"));
            tokio::select! {
                () = sleep(self.policy.jittered(Attempt(failures))) => {}
                () = stop.cancelled() => return Ok(()),
            }
            began = Instant::now();
        }
        Ok(())
    }

    async fn take_part(&self, stop: &CancellationToken) -> anyhow::Result<()> {
        let store = StateStore::open_cursors(&self.broker).await?;
        // Take a new name at each start. A lease from before a restart must expire like anyone else's.
        let holder = Uuid::from_u128(rand::random()).to_string();
        let lease = Lease::new(store.clone(), format!("lease.{}", self.name), &holder, self.lease);
        let per_hour = self.pull.pace().pages_per_hour;
        let budget = per_hour.map(|pages| Budget::new(store.clone(), format!("budget.{}", self.name), pages));
        let job = Asking { collector: self, kept: Kept::new(store, &self.name), budget };
        lead(lease, &job, stop).await
    }

    fn count(&self, outcome: &'static str) {
        counter!(COLLECT_PAGES, "component" => self.component.clone(), "outcome" => outcome).increment(1);
    }
}

/// The job of the process with the lease.
struct Asking<'a> {
    collector: &'a Collector,
    kept: Kept,
    budget: Option<Budget>,
}

/// How asking for one page ended.
#[derive(Debug)]
enum Asked {
    /// It is stored, and there is more.
    More,
    /// It is stored, and there is no more for now.
    All,
    /// The source, or its page, is not as it must be.
    Failed(Fault),
    /// The hour's budget is used up.
    OverBudget,
    /// We are to stop. What was not stored is asked for again.
    Stopped,
}

#[async_trait]
impl Job for Asking<'_> {
    fn leads(&self, leads: bool) {
        let collector = self.collector;
        collector.leader.set(if leads { 1.0 } else { 0.0 });
        if leads {
            tracing::info!(component = collector.component, "asking this source");
        }
    }

    async fn work(&self, stop: &CancellationToken) -> anyhow::Result<()> {
        let collector = self.collector;
        let interval = collector.pull.pace().interval;
        // For people only, so nothing depends on it.
        let status = self.kept.status().await.unwrap_or_default();
        let read_at = status.and_then(|status| status.read_at);
        let mut turns = Turns::new(collector.policy, interval, read_at);
        loop {
            let asked = self.page(stop).await?;
            if matches!(asked, Asked::Stopped) {
                return Ok(());
            }
            let After { wait, state, why } = turns.after(&asked, Timestamp::now());
            if let Some(read_at) = turns.read_at() {
                collector.read_at.set(read_at.as_micros() as f64 / 1e6);
            }
            turns.report(&collector.health, state, why.clone());
            turns.tell(&self.kept, state, why, wait).await;
            tokio::select! {
                () = sleep(wait) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// A process that stands by reports the same time, so it does not matter which one is asked.
    async fn stand_by(&self) -> anyhow::Result<()> {
        self.collector.health.healthy();
        if let Ok(Some(Status { read_at: Some(read_at), .. })) = self.kept.status().await {
            self.collector.read_at.set(read_at.as_micros() as f64 / 1e6);
        }
        Ok(())
    }
}

impl Asking<'_> {
    /// Asks for a page, stores it and keeps the cursor behind it.
    async fn page(&self, stop: &CancellationToken) -> anyhow::Result<Asked> {
        let collector = self.collector;
        // One page at a time, so it never waits.
        let _held = collector.memory.take_at_most(collector.pull.page_bytes_max()).await;
        // Read the cursor each time: a person may have removed it.
        let read = self.kept.cursor().await?;
        if let Some(budget) = &self.budget
            && budget.take(1).await? == 0
        {
            collector.count("over_budget");
            return Ok(Asked::OverBudget);
        }
        let asked = tokio::select! {
            asked = self.ask(&read) => asked,
            // Nothing of the page is stored, so nothing is lost with it.
            () = stop.cancelled() => return Ok(Asked::Stopped),
        };
        match asked {
            Ok((page, encoded)) => self.take(page, encoded, &read, stop).await,
            Err(fault) => {
                collector.count("failed");
                Ok(Asked::Failed(fault))
            }
        }
    }

    /// The page behind the cursor, and its own cursor as it is to be kept, if that is another one.
    async fn ask(&self, read: &Read) -> Result<(Page, Option<Vec<u8>>), Fault> {
        let collector = self.collector;
        let within = collector.pull.pace().timeout;
        let page = timeout(within, collector.pull.page(read.cursor.as_ref())).await;
        let page = page.unwrap_or_else(|_| Err(Fault::transient(anyhow::anyhow!("no page came within {within:?}"))))?;
        let next = page.cursor.as_ref().filter(|next| Some(*next) != read.cursor.as_ref());
        let encoded = next.map(|next| kept::encoded(next, &collector.name)).transpose()?;
        if page.has_more && encoded.is_none() {
            return Err(Fault::broken(anyhow::anyhow!(
                "expected another cursor with a page that is not the last of the source {}, found the same; this is a \
                 defect of the source",
                collector.name
            )));
        }
        Ok((page, encoded))
    }

    async fn take(
        &self,
        page: Page,
        encoded: Option<Vec<u8>>,
        read: &Read,
        stop: &CancellationToken,
    ) -> anyhow::Result<Asked> {
        let collector = self.collector;
        let Page { records, has_more, .. } = page;
        let outcome = if records.is_empty() { "empty" } else { "stored" };
        if let Err(asked) = self.store(records, stop).await {
            return Ok(asked);
        }
        if let Some(encoded) = encoded {
            crash::pass(Point::BeforeCursor);
            if !self.kept.advance(encoded, read).await? {
                let component = &collector.component;
                tracing::warn!(component, "somebody has changed the cursor meanwhile; going on from where it is now");
                return Ok(Asked::More);
            }
            crash::pass(Point::AfterCursor);
        }
        collector.count(outcome);
        Ok(if has_more { Asked::More } else { Asked::All })
    }

    /// Stores a page, for as long as the broker needs.
    ///
    /// # Errors
    /// How asking for the page ended, when it is not stored: we are to stop, or a record can never be stored.
    async fn store(&self, records: Vec<Record>, stop: &CancellationToken) -> Result<(), Asked> {
        let collector = self.collector;
        let traceparent = TraceParent::generate();
        let mut failures = 0;
        if records.is_empty() {
            return Ok(());
        }
        loop {
            let arrival = Arrival { received_at: Timestamp::now(), traceparent: &traceparent };
            // Not cut off by a stop: it ends within the broker's timeout, and then the next process need not ask again.
            let Err(not_stored) = collector.store.store(records.clone(), arrival).await else { return Ok(()) };
            let why = match not_stored {
                NotStored::Unfit(unfit) => {
                    collector.count("failed");
                    let defect = format!("cannot store a record of the source {}, which has a defect", collector.name);
                    return Err(Asked::Failed(Fault::broken(anyhow::Error::new(unfit).context(defect))));
                }
                NotStored::Full => "the stream RAW is full; what the source gave is stored when there is room",
                NotStored::Away { .. } => "NATS does not confirm; what the source gave is stored when it does",
            };
            failures += 1;
            collector.count("unstored");
            collector.health.degraded(why);
            // Keep the page: the source need not be asked again for the broker's trouble.
            tokio::select! {
                () = sleep(collector.policy.jittered(Attempt(failures))) => {}
                () = stop.cancelled() => return Err(Asked::Stopped),
            }
        }
    }
}
