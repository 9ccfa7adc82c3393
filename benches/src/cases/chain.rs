//! `chain`: everything, from the webhook to the rows in both tables.
//!
//! At a fixed rate, the backlog at both ends of the window shows whether the chain keeps up. With `--rate 0`, the case
//! finds the rate that the chain sustains. It sends a delivery only while fewer than `--backlog` events are accepted
//! but not yet rows. So the load is as fast as the rows.
//!
//! With `--suspects`, a share of the deliveries is of an earlier time, and with `--prefill` the tables have rows before
//! the load. Both make the product look for rows among many.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use headrace_schemas::time::Timestamp;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use crate::backlog::{Backlog, Waiting};
use crate::bodies::Bodies;
use crate::cli::{Chain, Common, SuspectsBy};
use crate::figures::round;
use crate::load::{Load, Outcome, Pace, Phase, Plan, Records, Repetitions};
use crate::prefill::{Prefilled, prefill};
use crate::report::{Quantiles, Report, conclude, rate};
use crate::servers::{Nats, Product};
use crate::tables::{Packed, Rows, Tables};
use crate::usage::{Cost, Disturbance, Meter, Sample};

/// How often the case reads the backlog.
const LOOK: Duration = Duration::from_millis(100);
/// If a backlog has not shrunk for this long after the load, it never will.
const STALLED_AFTER: Duration = Duration::from_secs(60);
/// How long nothing waits once the product has read the last lines of its folder, at which it looks each second.
const SETTLE: Duration = Duration::from_secs(3);
/// The product's default for RAW, in bytes.
const RAW_BYTES_MAX: u64 = 10 << 30;
/// The product's own processes.
const OWN_PROCESSES: [&str; 4] = ["gateway", "collect", "pipeline", "sinks"];

/// What the case reports.
#[derive(Debug, Serialize)]
struct Figures {
    /// Deliveries accepted per second, within the window.
    accepted_rate: f64,
    /// Rows per second, within the window, in the table that got fewer rows.
    rows_rate: f64,
    /// Rows per second, within the window, in `events`.
    events_rows_rate: f64,
    /// Rows per second, within the window, in `raw`.
    raw_rows_rate: f64,
    backlog_at_start: Waiting,
    backlog_at_end: Waiting,
    /// Seconds from the end of the load until both tables had every row.
    drain_s: f64,
    #[serde(flatten)]
    latency: Quantiles,
    errors: u64,
    sent: u64,
    accepted: u64,
    /// Accepted deliveries that were accepted before: they make no row.
    repeated: u64,
    /// Accepted deliveries whose ids are of an earlier time, and that are new all the same.
    aged: u64,
    events: Rows,
    raw: Rows,
    dead_letters: u64,
    /// What the tables take on the disk, what was there before the load included.
    packed: BTreeMap<&'static str, Packed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefill: Option<Prefilled>,
    seconds: u64,
    /// CPU time of gateway, stages and sinks together, for each event from its request to its rows.
    own_cpu_us_per_event: f64,
    processes: BTreeMap<String, Cost>,
    disturbance: Disturbance,
}

/// The progress of each part at one moment.
struct Mark {
    at: Instant,
    accepted: u64,
    waiting: Waiting,
}

impl Mark {
    async fn take(load: &Load, backlog: &Backlog) -> anyhow::Result<Self> {
        // What comes again makes no row.
        let accepted = load.accepted() - load.repeated();
        Ok(Self { at: Instant::now(), accepted, waiting: backlog.waiting().await? })
    }

    /// Rows per second since `earlier`, in a table. `lacking` says how many rows the table still lacks.
    fn rows_rate(&self, earlier: &Self, lacking: fn(&Waiting) -> u64) -> f64 {
        let rows = |mark: &Self| mark.accepted.saturating_sub(lacking(&mark.waiting));
        rate(rows(self).saturating_sub(rows(earlier)), self.at - earlier.at)
    }
}

/// What the case saw while the load ran and afterwards.
struct Seen {
    opened: Mark,
    closed: Mark,
    outcome: Outcome,
    drained_after: Duration,
    before: Sample,
    after: Sample,
}

/// What is there in the end.
struct Found {
    events: Rows,
    raw: Rows,
    dead_letters: u64,
    packed: BTreeMap<&'static str, Packed>,
}

impl Found {
    /// Looks for what was received since `since`.
    async fn look(tables: &Tables, backlog: &Backlog, since: Timestamp) -> anyhow::Result<Self> {
        Ok(Self {
            events: tables.count_since("events", since).await?,
            raw: tables.count_since("raw", since).await?,
            dead_letters: backlog.dead_letters().await?,
            packed: BTreeMap::from([("events", tables.packed("events").await?), ("raw", tables.packed("raw").await?)]),
        })
    }
}

pub(crate) async fn run(options: Chain) -> anyhow::Result<()> {
    let common = &options.common;
    let bodies = Bodies::load(&common.sending)?;
    let nats = Nats::start(RAW_BYTES_MAX).await?;
    let product = if options.suspects > 0.0 && options.suspects_by == SuspectsBy::All {
        Product::with_records(nats, &common.tested).await?
    } else {
        Product::everything(nats, &common.tested).await?
    };
    let backlog = Backlog::open(&product.nats.client).await?;
    let tables = Tables::new(&product.clickhouse_url().context("there is no ClickHouse")?);
    let prefilled = match options.prefill {
        0 => None,
        rows => Some(prefill(rows, &product, &tables, &backlog, common).await.with_context(|| product.logs())?),
    };
    let permits = Arc::new(Semaphore::new(0));
    let meter = product.meter();
    let pace = if options.rate == 0 { Pace::Permits(Arc::clone(&permits)) } else { Pace::Rate(options.rate) };
    let repetitions = Repetitions::new(options.suspects, options.ages, common.sending.seed);
    let since = Timestamp::now();
    let records = product.folder.as_deref().map(Records::open).transpose()?;
    let load = Load::start(Plan { repetitions, records, ..Plan::new(product.address()?, &bodies, common, pace) })?;
    let settle = if product.folder.is_some() { SETTLE } else { Duration::ZERO };
    let watched = tokio::select! {
        watched = watch(load, &backlog, settle, &meter) => watched,
        // Other loads take no permits, so this does not disturb them.
        error = steer(&permits, &backlog, options.backlog) => Err(error),
    };
    let seen = watched.with_context(|| product.logs())?;
    let found = Found::look(&tables, &backlog, since).await?;
    let problems = problems(&seen.outcome, &found);
    if !problems.is_empty() {
        eprintln!("{}", product.logs());
    }
    product.stop().await;
    let figures = figures(&seen, found, prefilled, common);
    Report { case: "chain", bodies: bodies.describe(), figures, recipe: options }.print()?;
    conclude(problems)
}

fn figures(seen: &Seen, found: Found, prefill: Option<Prefilled>, common: &Common) -> Figures {
    let outcome = &seen.outcome;
    let processes = seen.after.costs(&seen.before, outcome.accepted);
    let own = OWN_PROCESSES.iter().filter_map(|&name| processes.get(name));
    let rows_rate = |lacking| seen.closed.rows_rate(&seen.opened, lacking);
    let (events_rows_rate, raw_rows_rate) = (rows_rate(Waiting::events), rows_rate(|waiting| waiting.clickhouse_raw));
    Figures {
        accepted_rate: rate(outcome.accepted_in_window, common.window()),
        rows_rate: events_rows_rate.min(raw_rows_rate),
        events_rows_rate,
        raw_rows_rate,
        backlog_at_start: seen.opened.waiting,
        backlog_at_end: seen.closed.waiting,
        drain_s: round(seen.drained_after.as_secs_f64()),
        latency: Quantiles::of(&outcome.latency),
        errors: outcome.refused + outcome.broken + outcome.unsent,
        sent: outcome.sent,
        accepted: outcome.accepted,
        repeated: outcome.repeated,
        aged: outcome.aged,
        events: found.events,
        raw: found.raw,
        dead_letters: found.dead_letters,
        packed: found.packed,
        prefill,
        seconds: common.seconds,
        own_cpu_us_per_event: round(own.map(|cost| cost.cpu_us_per_event).sum()),
        processes,
        disturbance: seen.after.disturbance(&seen.before),
    }
}

fn problems(outcome: &Outcome, found: &Found) -> Vec<String> {
    let mut problems: Vec<String> = outcome.loss().into_iter().collect();
    let Found { events, raw, dead_letters, .. } = found;
    let rows = outcome.accepted - outcome.repeated;
    let expected = &Rows { rows, distinct_ids: rows };
    for (table, found) in [("events", events), ("raw", raw)] {
        if found != expected {
            problems.push(format!("{table}: expected {expected:?}, found {found:?}"));
        }
    }
    if *dead_letters > 0 {
        problems.push(format!("{dead_letters} dead letters"));
    }
    problems
}

/// Marks the window, and waits until the load has ended and the backlog is gone, and has been for `settle`.
async fn watch(load: Load, backlog: &Backlog, settle: Duration, meter: &Meter) -> anyhow::Result<Seen> {
    let before = meter.sample()?;
    load.reached(Phase::Window).await;
    let opened = Mark::take(&load, backlog).await?;
    load.reached(Phase::After).await;
    let closed = Mark::take(&load, backlog).await?;
    let outcome = load.finish().await?;
    let mut last = closed.waiting;
    eprintln!("the load has ended; waiting for {last:?}");
    let (mut changed_at, mut drained_after) = (Instant::now(), None);
    // Wait for alerts too, because their cost belongs to these events.
    while last != Waiting::default() || drained_after.is_none() || changed_at.elapsed() < settle {
        anyhow::ensure!(changed_at.elapsed() < STALLED_AFTER, "the backlog does not shrink any more: {last:?}");
        sleep(LOOK).await;
        let now = backlog.waiting().await?;
        drained_after = (now.rows() == 0).then(|| drained_after.unwrap_or_else(|| closed.at.elapsed()));
        if now != last {
            (last, changed_at) = (now, Instant::now());
        }
    }
    let drained_after = drained_after.unwrap_or_default();
    Ok(Seen { opened, closed, outcome, drained_after, before, after: meter.sample()? })
}

/// Gives permits as long as the backlog is below `backlog_max`. Ends only with an error.
async fn steer(permits: &Semaphore, backlog: &Backlog, backlog_max: u64) -> anyhow::Error {
    loop {
        let waiting = match backlog.waiting().await {
            Ok(waiting) => waiting.rows(),
            Err(error) => return error,
        };
        let outstanding = waiting + permits.available_permits() as u64;
        permits.add_permits(usize::try_from(backlog_max.saturating_sub(outstanding)).unwrap_or_default());
        sleep(LOOK).await;
    }
}
