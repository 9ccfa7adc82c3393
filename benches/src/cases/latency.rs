//! `latency`: how long an event takes from its acceptance to a subscriber and to a row.
//!
//! The case follows every delivery by its own number, which its GUID carries. *Accepted* is when the load has read the
//! 2xx. *Scored* is when a core NATS subscription on `events.scored.>` in this process has the event. An event that is
//! scored before the 2xx is read counts as 0. *Queryable* is when a query has returned the event's row. For this, the
//! case asks for the count of `events` every 50 ms, which reads no rows. After each change, it asks for the new ids. So
//! the figure is too high by at most 50 ms and the time of two queries. `inserted_at` would be too low, because
//! ClickHouse stamps a row before queries can see it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use hdrhistogram::Histogram;
use headrace_local::poll;
use headrace_schemas::header;
use headrace_schemas::subject::ALL_SCORED;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::bodies::Bodies;
use crate::cli::Latency;
use crate::guid;
use crate::load::{Load, Outcome, Pace, Phase, Plan};
use crate::moments::{Moments, Track};
use crate::report::{Quantiles, Report, conclude, rate};
use crate::servers::{Nats, Product};
use crate::tables::{Rows, Tables};
use crate::usage::{Cost, Disturbance};

/// How often the case asks for the count of rows.
const LOOK: Duration = Duration::from_millis(50);
/// How long the last events may take after the load.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);
/// RAW may be as large as the disk allows.
const RAW_BYTES_MAX: u64 = u64::MAX;

/// What the case reports.
#[derive(Debug, Serialize)]
struct Figures {
    /// Deliveries accepted per second, within the window.
    accepted_rate: f64,
    /// From the time when a delivery was due to its answer.
    due_to_accepted: Quantiles,
    accepted_to_scored: Quantiles,
    sent_to_scored: Quantiles,
    accepted_to_queryable: Quantiles,
    sent_to_queryable: Quantiles,
    errors: u64,
    sent: u64,
    accepted: u64,
    scored: u64,
    events: Rows,
    seconds: u64,
    processes: BTreeMap<String, Cost>,
    disturbance: Disturbance,
}

pub(crate) async fn run(options: Latency) -> anyhow::Result<()> {
    let common = &options.common;
    let bodies = Bodies::load(&common.sending)?;
    let product = Product::everything(Nats::start(RAW_BYTES_MAX).await?, &common.tested).await?;
    let tables = Tables::new(&product.clickhouse_url().context("there is no ClickHouse")?);
    let count = u64::from(options.rate) * (common.warmup + common.seconds);
    let moments = Arc::new(Moments::new(usize::try_from(count)?));
    let scored = Arc::new(AtomicU64::new(0));
    let subscription = product.nats.client.subscribe(ALL_SCORED).await.context("cannot subscribe")?;
    product.nats.client.flush().await.context("cannot subscribe")?;
    // Use a separate task, so that reading a query's answer delays no time stamp. It ends when the set is dropped.
    let mut subscribers = JoinSet::new();
    subscribers.spawn(follow(subscription, Arc::clone(&moments), Arc::clone(&scored)));

    let meter = product.meter();
    let before = meter.sample()?;
    let plan = Plan::new(product.address()?, &bodies, common, Pace::Rate(options.rate));
    let load = Load::start(Plan { moments: Some(Arc::clone(&moments)), ..plan })?;
    let end = async {
        load.reached(Phase::After).await;
        let outcome = load.finish().await?;
        settled(&outcome, &scored, &tables).await;
        anyhow::Ok(outcome)
    };
    let outcome = tokio::select! {
        outcome = end => outcome,
        error = discover(&tables, &moments) => Err(error),
    };
    let outcome = outcome.with_context(|| product.logs())?;
    let after = meter.sample()?;
    drop(subscribers);
    let (scored, events) = (scored.load(Ordering::Relaxed), tables.count("events").await?);
    // The count can be right before the case has seen the ids of the last rows.
    discover_once(&tables, &moments, &mut Seen::default()).await?;
    let problems = problems(&outcome, scored, events);
    if !problems.is_empty() {
        eprintln!("{}", product.logs());
    }
    product.stop().await;
    let first = usize::try_from(u64::from(options.rate) * common.warmup)?;
    let between = |from: &Track, to: &Track| between(from, to, first);
    Report {
        case: "latency",
        bodies: bodies.describe(),
        figures: Figures {
            accepted_rate: rate(outcome.accepted_in_window, common.window()),
            due_to_accepted: Quantiles::of(&outcome.latency),
            accepted_to_scored: between(&moments.accepted, &moments.scored)?,
            sent_to_scored: between(&moments.sent, &moments.scored)?,
            accepted_to_queryable: between(&moments.accepted, &moments.queryable)?,
            sent_to_queryable: between(&moments.sent, &moments.queryable)?,
            errors: outcome.refused + outcome.broken + outcome.unsent,
            sent: outcome.sent,
            accepted: outcome.accepted,
            scored,
            events,
            seconds: common.seconds,
            processes: after.costs(&before, outcome.accepted),
            disturbance: after.disturbance(&before),
        },
        recipe: options,
    }
    .print()?;
    conclude(problems)
}

/// Notes each scored event once.
async fn follow(mut subscription: async_nats::Subscriber, moments: Arc<Moments>, scored: Arc<AtomicU64>) {
    while let Some(message) = subscription.next().await {
        let stamp = moments.stamp(Instant::now());
        let id = message.headers.as_ref().and_then(|headers| headers.get(header::ID));
        let first = id.and_then(|id| guid::index_of(id.as_str())).is_some_and(|at| moments.scored.note(at, stamp));
        scored.fetch_add(u64::from(first), Ordering::Relaxed);
    }
}

/// Which rows of `events` the case has seen.
#[derive(Default)]
struct Seen {
    rows: u64,
    /// Time of the latest insert, in microseconds since the Unix epoch.
    inserted_at: i64,
}

/// Notes when rows can be queried. Ends only with an error.
async fn discover(tables: &Tables, moments: &Moments) -> anyhow::Error {
    let mut seen = Seen::default();
    loop {
        if let Err(error) = discover_once(tables, moments, &mut seen).await {
            return error;
        }
        sleep(LOOK).await;
    }
}

async fn discover_once(tables: &Tables, moments: &Moments, seen: &mut Seen) -> anyhow::Result<()> {
    let rows = tables.events().await?;
    if rows == seen.rows {
        return Ok(());
    }
    let (ids, inserted_at) = tables.inserted_after(seen.inserted_at).await?;
    let stamp = moments.stamp(Instant::now());
    for index in ids.iter().filter_map(|id| guid::index_of(id)) {
        moments.queryable.note(index, stamp);
    }
    *seen = Seen { rows, inserted_at };
    Ok(())
}

/// Waits until every accepted event is scored and has a row. If the time runs out, the counts show what is missing.
async fn settled(outcome: &Outcome, scored: &AtomicU64, tables: &Tables) {
    let all = async || {
        let rows = tables.events().await.ok()?;
        (scored.load(Ordering::Relaxed) >= outcome.accepted && rows >= outcome.accepted).then_some(())
    };
    if let Err(error) = poll::until("every event is scored and a row", SETTLED_WITHIN, all).await {
        eprintln!("{error}");
    }
}

fn problems(outcome: &Outcome, scored: u64, events: Rows) -> Vec<String> {
    let mut problems: Vec<String> = outcome.loss().into_iter().collect();
    let accepted = outcome.accepted;
    if scored != accepted {
        problems.push(format!("{accepted} deliveries were accepted and {scored} reached the subscriber"));
    }
    if events != (Rows { rows: accepted, distinct_ids: accepted }) {
        problems.push(format!("{accepted} deliveries were accepted; in the table are {events:?}"));
    }
    problems
}

/// The times from one moment to the other, for deliveries from number `first` on.
fn between(from: &Track, to: &Track, first: usize) -> anyhow::Result<Quantiles> {
    let mut micros = Histogram::new_with_bounds(1, 600_000_000, 3).context("cannot make a histogram")?;
    for index in first..from.len() {
        if let (Some(from), Some(to)) = (from.at(index), to.at(index)) {
            micros.saturating_record(to.saturating_sub(from) / 1_000);
        }
    }
    Ok(Quantiles::of(&micros))
}
