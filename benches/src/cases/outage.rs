//! `outage`: everything under load while ClickHouse stands still for minutes.
//!
//! RAW fills up to its limit, and then the gateway refuses. During the outage, the case reads the memory of each
//! process, because a backlog belongs on the broker's disk. Then ClickHouse goes on. Every delivery that was answered
//! with a 2xx must be in both tables, once.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use headrace_tests::product::process::{freeze, signal};
use rustix::process::Signal;
use serde::Serialize;
use tokio::time::{Instant, interval, sleep_until};

use crate::backlog::{Backlog, Waiting};
use crate::bodies::Bodies;
use crate::cli::Outage;
use crate::figures::round;
use crate::load::{Load, Outcome, Pace, Phase, Plan};
use crate::report::{Report, conclude, rate};
use crate::resident::{Growth, Resident};
use crate::servers::{Nats, Product};
use crate::tables::{Rows, Tables};
use crate::usage::{Disturbance, Meter};

/// About how many bytes a delivery takes in RAW besides its body: subject, headers and the record around them.
const RECORD_BYTES: u64 = 1_000;
/// If a backlog has not shrunk for this long, it never will. This is longer than a sink's longest pause together with
/// one call.
const STALLED_AFTER: Duration = Duration::from_secs(180);
/// With these answers, a delivery was certainly not stored.
const NOT_STORED: [&str; 2] = ["503 stream_full", "503 saturated"];

/// What the case reports.
#[derive(Debug, Serialize)]
struct Figures {
    /// The limit that was set for RAW.
    raw_bytes_max: u64,
    /// From the beginning of the outage to the first refusal, in seconds.
    refused_after_s: Option<f64>,
    /// Deliveries answered with a 2xx per second of the outage, until the first refusal.
    accepted_rate: f64,
    /// Deliveries refused per second of the outage, from the first refusal on.
    refused_rate: f64,
    /// Deliveries answered with a 2xx per second of the outage, from the first refusal on.
    accepted_rate_when_full: f64,
    /// From ClickHouse's return to the first 2xx, in seconds. 0 if nothing was refused.
    accepting_after_s: Option<f64>,
    backlog_at_return: Waiting,
    /// From ClickHouse's return until both tables had every row, in seconds. The load goes on for the first `after`
    /// seconds.
    drain_s: f64,
    sent: u64,
    accepted: u64,
    /// All other answers, by status and reason.
    refused: BTreeMap<String, u64>,
    /// Not answered.
    broken: u64,
    /// Due but never sent.
    unsent: u64,
    events: Rows,
    raw: Rows,
    dead_letters: u64,
    /// Resident memory of each process during the outage.
    memory: BTreeMap<String, Growth>,
    /// The readings, one entry for each.
    timeline: Vec<Look>,
    disturbance: Disturbance,
}

/// One reading of all counts and of the memory.
#[derive(Debug, Serialize)]
struct Look {
    /// Seconds since the beginning of the outage.
    at_s: f64,
    accepted: u64,
    refused: u64,
    broken: u64,
    backlog: u64,
    rss_mb: BTreeMap<String, f64>,
}

/// Takes readings again and again.
struct Watch<'a> {
    load: &'a Load,
    backlog: &'a Backlog,
    resident: &'a Resident,
    began: Instant,
    every: Duration,
    looks: Vec<Look>,
}

impl Watch<'_> {
    async fn look(&mut self) -> anyhow::Result<()> {
        let at_s = round(self.began.elapsed().as_secs_f64());
        let (accepted, refused, broken) = (self.load.accepted(), self.load.refused(), self.load.broken());
        let backlog = self.backlog.waiting().await?.rows();
        let rss_mb = self.resident.read()?;
        self.looks.push(Look { at_s, accepted, refused, broken, backlog, rss_mb });
        Ok(())
    }

    /// Takes readings until `end` resolves.
    async fn until(&mut self, end: impl Future<Output = ()>) -> anyhow::Result<()> {
        let mut ticks = interval(self.every);
        let mut end = std::pin::pin!(end);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.look().await?,
                () = &mut end => return self.look().await,
            }
        }
    }
}

/// What the case saw from the beginning of the outage to the end of the load.
struct Seen {
    looks: Vec<Look>,
    /// How many of the readings were taken before ClickHouse's return.
    during: usize,
    first_refusal: Option<Duration>,
    accepting_after: Option<Duration>,
    backlog_at_return: Waiting,
    returned: Instant,
    outcome: Outcome,
}

pub(crate) async fn run(options: Outage) -> anyhow::Result<()> {
    let bodies = Bodies::load(&options.sending)?;
    let raw_bytes_max = options.raw_bytes.unwrap_or_else(|| comes_in(&options, &bodies) / 2);
    let product = Product::everything(Nats::start(raw_bytes_max).await?, &options.tested).await?;
    let raw_bytes_max = product.nats.streams.raw.max_bytes;
    eprintln!("RAW holds at most {raw_bytes_max} bytes");
    let backlog = Backlog::open(&product.nats.client).await?;
    let meter = product.meter();
    let before = meter.sample()?;
    let plan = Plan {
        gateway: product.address()?,
        bodies: bodies.clone(),
        connections: options.connections,
        warmup: options.warmup(),
        window: options.outage() + options.after(),
        pace: Pace::Rate(options.rate),
        moments: None,
        repetitions: None,
        records: None,
    };
    let seen = watch(Load::start(plan)?, &product, &backlog, &meter, &options).await;
    let seen = seen.with_context(|| product.logs())?;
    drain(&backlog).await.with_context(|| product.logs())?;
    let drain_s = round(seen.returned.elapsed().as_secs_f64());

    let tables = Tables::new(&product.clickhouse_url().context("there is no ClickHouse")?);
    let (events, raw) = (tables.count("events").await?, tables.count("raw").await?);
    let dead_letters = backlog.dead_letters().await?;
    let disturbance = meter.sample()?.disturbance(&before);
    let problems = problems(&seen, events, raw, dead_letters);
    if !problems.is_empty() {
        eprintln!("{}", product.logs());
    }
    product.stop().await;
    let figures = figures(seen, raw_bytes_max, drain_s, (events, raw, dead_letters), disturbance);
    Report { case: "outage", bodies: bodies.describe(), figures, recipe: options }.print()?;
    conclude(problems)
}

/// How many bytes come to RAW during the outage.
fn comes_in(options: &Outage, bodies: &Bodies) -> u64 {
    u64::from(options.rate) * options.outage().as_secs() * (bodies.describe().mean_bytes as u64 + RECORD_BYTES)
}

/// Follows the load from its beginning to its end, and makes the outage in between.
async fn watch(
    load: Load,
    product: &Product,
    backlog: &Backlog,
    meter: &Meter,
    options: &Outage,
) -> anyhow::Result<Seen> {
    let clickhouse = product.clickhouse_pid().context("there is no ClickHouse")?;
    let resident = meter.resident();
    load.reached(Phase::Window).await;
    // Suspend ClickHouse instead of killing it. Its connections stay open and nothing answers, which is worse for the
    // product.
    freeze(clickhouse).await;
    let began = Instant::now();
    eprintln!("ClickHouse stands still");
    let (every, refused_before) = (options.every(), load.refused());
    let mut watch = Watch { load: &load, backlog, resident: &resident, began, every, looks: Vec::new() };
    let end = began + options.outage();
    let first_refusal = async {
        load.until_counted(|counts| counts.refused() > refused_before).await;
        began.elapsed()
    };
    let first_refusal = async { tokio::time::timeout_at(end, first_refusal).await.ok() };
    let (looked, first_refusal) = tokio::join!(watch.until(sleep_until(end)), first_refusal);
    looked?;
    let during = watch.looks.len();
    let backlog_at_return = backlog.waiting().await?;
    let accepted_before = load.accepted();
    signal(clickhouse, Signal::CONT);
    let returned = Instant::now();
    eprintln!("ClickHouse goes on; waiting: {backlog_at_return:?}");
    let accepting = async {
        load.until_counted(|counts| counts.accepted() > accepted_before).await;
        returned.elapsed()
    };
    let accepting = async { tokio::time::timeout_at(returned + options.after(), accepting).await.ok() };
    let (looked, accepting_after) = tokio::join!(watch.until(load.reached(Phase::After)), accepting);
    looked?;
    let looks = watch.looks;
    let outcome = load.finish().await?;
    Ok(Seen { looks, during, first_refusal, accepting_after, backlog_at_return, returned, outcome })
}

/// Waits until no consumer has messages left.
async fn drain(backlog: &Backlog) -> anyhow::Result<()> {
    let mut ticks = interval(Duration::from_millis(100));
    let (mut last, mut changed_at) = (Waiting::default(), Instant::now());
    loop {
        ticks.tick().await;
        let now = backlog.waiting().await?;
        if now == Waiting::default() {
            return Ok(());
        }
        if now != last {
            (last, changed_at) = (now, Instant::now());
        }
        anyhow::ensure!(changed_at.elapsed() < STALLED_AFTER, "the backlog does not shrink any more: {last:?}");
    }
}

fn problems(seen: &Seen, events: Rows, raw: Rows, dead_letters: u64) -> Vec<String> {
    let Outcome { accepted, broken, refused_by, .. } = &seen.outcome;
    let unclear = refused_by.iter().filter(|(answer, _)| !NOT_STORED.contains(&answer.as_str()));
    let unclear = broken + unclear.map(|(_, count)| count).sum::<u64>();
    let mut problems = Vec::new();
    for (table, found) in [("events", events), ("raw", raw)] {
        // A delivery without a clear answer may be stored.
        let expected = *accepted..=accepted + unclear;
        if found.rows != found.distinct_ids || !expected.contains(&found.rows) {
            problems.push(format!("{table}: expected {expected:?} rows, each with an id of its own, found {found:?}"));
        }
    }
    if events.rows != raw.rows {
        problems.push(format!("{} rows in events and {} in raw", events.rows, raw.rows));
    }
    if dead_letters > 0 {
        problems.push(format!("{dead_letters} dead letters"));
    }
    if seen.first_refusal.is_none() {
        problems.push("RAW did not reach its limit within the outage; lower --raw-bytes or raise --rate".to_owned());
    } else if seen.accepting_after.is_none() {
        problems.push("the gateway did not accept again while the load went on; raise --after".to_owned());
    }
    problems
}

fn figures(
    seen: Seen,
    raw_bytes_max: u64,
    drain_s: f64,
    (events, raw, dead_letters): (Rows, Rows, u64),
    disturbance: Disturbance,
) -> Figures {
    let seconds = |time: Duration| round(time.as_secs_f64());
    let outage = &seen.looks[..seen.during];
    let full_at = seen.first_refusal.map_or(f64::INFINITY, |time| time.as_secs_f64());
    let open: Vec<&Look> = outage.iter().filter(|look| look.at_s < full_at).collect();
    let full: Vec<&Look> = outage.iter().filter(|look| look.at_s >= full_at).collect();
    let names = outage.first().map(|look| look.rss_mb.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let growth = |name: &String| {
        let points = outage.iter().filter_map(|look| Some((look.at_s / 60.0, *look.rss_mb.get(name)?)));
        Growth::of(&points.collect::<Vec<_>>())
    };
    let memory = names.iter().filter_map(|name| Some((name.clone(), growth(name)?))).collect();
    let Outcome { sent, accepted, refused_by, broken, unsent, .. } = seen.outcome;
    Figures {
        raw_bytes_max,
        refused_after_s: seen.first_refusal.map(seconds),
        accepted_rate: rate_of(&open, |look| look.accepted),
        refused_rate: rate_of(&full, |look| look.refused),
        accepted_rate_when_full: rate_of(&full, |look| look.accepted),
        accepting_after_s: seen.accepting_after.map(seconds),
        backlog_at_return: seen.backlog_at_return,
        drain_s,
        sent,
        accepted,
        refused: refused_by,
        broken,
        unsent,
        events,
        raw,
        dead_letters,
        memory,
        timeline: seen.looks,
        disturbance,
    }
}

/// How much a count grew per second, from the first of these readings to the last.
fn rate_of(looks: &[&Look], count: fn(&Look) -> u64) -> f64 {
    let [first, .., last] = looks else { return 0.0 };
    rate(count(last) - count(first), Duration::from_secs_f64((last.at_s - first.at_s).max(1e-3)))
}
