//! `chain`: everything, from the webhook to the rows in both tables.
//!
//! At a fixed rate, the backlog at both ends of the window shows whether the chain keeps up. With `--rate 0`, the case
//! finds the rate that the chain sustains. It sends a delivery only while fewer than `--backlog` events are accepted
//! but not yet rows. So the load is as fast as the rows.
//!
//! With `--suspects`, a share of the deliveries is of an earlier time, and with `--prefill` the tables have rows before
//! the load. Both make the product look for rows among many. `turns` compares loads with and without such deliveries.

mod turns;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use headrace_schemas::time::Timestamp;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use self::turns::InTurn;
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
struct Reported {
    #[serde(flatten)]
    loads: Loads,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefill: Option<Prefilled>,
}

/// What the loads of a run show.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Loads {
    One(Box<Figures>),
    InTurn(Box<InTurn>),
}

/// What one load shows.
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
    /// Since the product began.
    dead_letters: u64,
    /// What the tables take on the disk, what was there before the load included.
    packed: BTreeMap<&'static str, Packed>,
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

/// What the loads of a run are made on.
struct Site<'a> {
    options: &'a Chain,
    product: &'a Product,
    backlog: Backlog,
    tables: Tables,
    meter: Meter,
}

/// A load to make.
#[derive(Clone, Copy)]
struct Wanted {
    /// Its number in the run. Each number gives other bodies and ids.
    number: u32,
    /// The share of deliveries of an earlier time.
    suspects: f64,
}

/// What came of a load.
struct Measured {
    figures: Figures,
    /// When it began. All its rows were received since.
    since: Timestamp,
    problems: Vec<String>,
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
    let site = Site::open(&options, &product).await?;
    let prefill = site.prefill().await.with_context(|| product.logs())?;
    let (loads, problems) = match options.turns {
        0 => {
            let measured = site.measure(Wanted { number: 0, suspects: options.suspects }).await?;
            (Loads::One(Box::new(measured.figures)), measured.problems)
        }
        pairs => {
            let (found, problems) = turns::run(&site, pairs).await?;
            (Loads::InTurn(Box::new(found)), problems)
        }
    };
    if !problems.is_empty() {
        eprintln!("{}", product.logs());
    }
    product.stop().await;
    let figures = Reported { loads, prefill };
    Report { case: "chain", bodies: bodies.describe(), figures, recipe: options }.print()?;
    conclude(problems)
}

impl<'a> Site<'a> {
    async fn open(options: &'a Chain, product: &'a Product) -> anyhow::Result<Self> {
        let backlog = Backlog::open(&product.nats.client).await?;
        let tables = Tables::new(&product.clickhouse_url().context("there is no ClickHouse")?);
        Ok(Self { options, product, backlog, tables, meter: product.meter() })
    }

    async fn prefill(&self) -> anyhow::Result<Option<Prefilled>> {
        let Self { options, product, backlog, tables, .. } = self;
        match options.prefill {
            0 => Ok(None),
            rows => prefill(rows, product, tables, backlog, &options.common).await.map(Some),
        }
    }

    /// The seed of a load, which no other load of this run has.
    fn seed(&self, wanted: Wanted) -> u64 {
        self.options.common.sending.seed.wrapping_add(u64::from(wanted.number))
    }

    /// Loads the product, waits until everything is in the tables, and counts it.
    async fn measure(&self, wanted: Wanted) -> anyhow::Result<Measured> {
        let Self { options, product, backlog, tables, meter } = self;
        let (common, seed) = (&options.common, self.seed(wanted));
        // Made anew for each load, because the times in the bodies begin now.
        let bodies = Bodies::with_seed(&common.sending, seed)?;
        let repetitions = Repetitions::new(wanted.suspects, options.ages, seed);
        // Only what is of an earlier time comes as a line.
        let folder = product.folder.as_deref().filter(|_| repetitions.is_some());
        let records = folder.map(|folder| Records::open(folder, wanted.number)).transpose()?;
        // Each load has its own: permits that the last one left over would let this one exceed the backlog.
        let permits = Arc::new(Semaphore::new(0));
        let pace = if options.rate == 0 { Pace::Permits(Arc::clone(&permits)) } else { Pace::Rate(options.rate) };
        let since = Timestamp::now();
        let load = Load::start(Plan { repetitions, records, ..Plan::new(product.address()?, &bodies, common, pace) })?;
        let settle = if product.folder.is_some() { SETTLE } else { Duration::ZERO };
        let watched = tokio::select! {
            watched = watch(load, backlog, settle, meter) => watched,
            // Other loads take no permits, so this does not disturb them.
            error = steer(&permits, backlog, options.backlog) => Err(error),
        };
        let seen = watched.with_context(|| product.logs())?;
        let found = Found::look(tables, backlog, since).await?;
        let problems = problems(&seen.outcome, &found);
        Ok(Measured { figures: figures(&seen, found, common), since, problems })
    }
}

fn figures(seen: &Seen, found: Found, common: &Common) -> Figures {
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
        seconds: common.seconds,
        own_cpu_us_per_event: round(own.map(|cost| cost.cpu_us_per_event).sum()),
        processes,
        disturbance: seen.after.disturbance(&seen.before),
    }
}

fn problems(outcome: &Outcome, found: &Found) -> Vec<String> {
    let mut problems: Vec<String> = outcome.loss().into_iter().collect();
    problems.extend(miscounted(outcome.accepted - outcome.repeated, &found.events, &found.raw));
    if found.dead_letters > 0 {
        problems.push(format!("{} dead letters", found.dead_letters));
    }
    problems
}

/// Says which table has not one row of each of `rows` events.
fn miscounted(rows: u64, events: &Rows, raw: &Rows) -> impl Iterator<Item = String> {
    let expected = Rows { rows, distinct_ids: rows };
    let wrong = [("events", *events), ("raw", *raw)].into_iter().filter(move |(_, found)| *found != expected);
    wrong.map(move |(table, found)| format!("{table}: expected {expected:?}, found {found:?}"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_with_too_few_rows_or_one_twice_is_told() {
        let rows = |rows, distinct_ids| Rows { rows, distinct_ids };
        let told = |events, raw| miscounted(5, &events, &raw).collect::<Vec<_>>().join("; ");
        assert_eq!(told(rows(5, 5), rows(5, 5)), "");
        let (lost, twice) = (rows(4, 4), rows(6, 5));
        assert!(told(lost, rows(5, 5)).starts_with("events: expected"), "{}", told(lost, rows(5, 5)));
        assert!(told(rows(5, 5), twice).starts_with("raw: expected"), "{}", told(rows(5, 5), twice));
        assert!(told(rows(5, 4), twice).contains("; raw: "), "{}", told(rows(5, 4), twice));
    }
}
