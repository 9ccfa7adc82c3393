//! `crash`: kills NATS once while matching events are on their way, and measures how long it takes until alerts go on.
//!
//! Each event makes an alert of its own. Each alert needs a write to the stage's state and a publish. A dead server
//! confirms neither. If the product waited for these confirmations one after the other, the figures would show it.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream;
use headrace_local::poll;
use headrace_runtime::broker::Stream;
use headrace_runtime::message::payload::RawDelivery;
use headrace_runtime::publish::Publisher;
use headrace_schemas::id::EventId;
use headrace_tests::harness::samples::{Sample as _, guid};
use headrace_tests::product::process::signal;
use rustix::process::Signal;
use serde::Serialize;
use tokio::time::{Instant, interval};

use super::end;
use crate::backlog::{Backlog, Waiting};
use crate::cli::Crash;
use crate::figures::round;
use crate::servers::{Nats, Product};
use crate::tables::{Rows, Tables};
use crate::usage::Disturbance;

/// How often the case counts the alerts.
const LOOK: Duration = Duration::from_millis(100);
/// Alerts must go on within this many seconds.
const GOES_ON_WITHIN_S: f64 = 15.0;
/// How long everything may take to settle in the end. This only ends a run that hangs.
const SETTLED_WITHIN: Duration = Duration::from_secs(600);
/// How many publishes may be on their way at once.
const PUBLISHED_AT_ONCE: u16 = 1_000;
/// What RAW may hold, in bytes.
const RAW_BYTES_MAX: u64 = 1 << 30;

/// What the case reports.
#[derive(Serialize)]
struct Found {
    case: &'static str,
    recipe: Crash,
    /// How many alerts there were when NATS was killed.
    alerts_at_kill: u64,
    /// Seconds from the kill to the next alert.
    alerts_again_s: f64,
    /// The longest time without an alert after the kill, in seconds.
    alerts_gap_s: f64,
    /// Seconds from the kill until no message waited.
    settled_s: f64,
    alerts: u64,
    events: Rows,
    raw: Rows,
    disturbance: Disturbance,
}

/// How the alerts went on.
struct GoingOn {
    again: Duration,
    gap: Duration,
}

pub(crate) async fn run(options: Crash) -> anyhow::Result<()> {
    let product = Product::everything(Nats::start(RAW_BYTES_MAX).await?, &options.tested).await?;
    let backlog = Backlog::open(&product.nats.client).await?;
    publish(&product.nats, options.count).await?;
    let wanted = u64::from(options.count) / 10;
    poll::until("the first alerts are there", SETTLED_WITHIN, async || {
        alerts(&product.nats).await.ok().filter(|count| *count >= wanted)
    })
    .await?;
    let alerts_at_kill = alerts(&product.nats).await?;
    let (_, server) = product.nats.process().context("NATS runs")?;
    signal(server, Signal::KILL);
    let killed = Instant::now();
    eprintln!("NATS is killed with {alerts_at_kill} of {} alerts", options.count);
    let again = async || product.nats.process().filter(|(_, pid)| *pid != server);
    poll::until("NATS runs again", SETTLED_WITHIN, again).await?;
    // Measure from here on, because the kernel's counts for the killed process are gone.
    let meter = product.meter();
    let before = meter.sample()?;
    let going_on =
        watch(&product, killed, u64::from(options.count), alerts_at_kill).await.with_context(|| product.logs())?;
    let nothing_waits = async || backlog.waiting().await.ok().filter(|waiting| *waiting == Waiting::default());
    poll::until("nothing waits", SETTLED_WITHIN, nothing_waits).await.with_context(|| product.logs())?;
    let settled = killed.elapsed();
    let tables = Tables::new(&product.clickhouse_url().context("there is no ClickHouse")?);
    let disturbance = meter.sample()?.disturbance(&before);
    let found = Found {
        case: "crash",
        alerts_at_kill,
        alerts_again_s: round(going_on.again.as_secs_f64()),
        alerts_gap_s: round(going_on.gap.as_secs_f64()),
        settled_s: round(settled.as_secs_f64()),
        alerts: alerts(&product.nats).await?,
        events: tables.count("events").await?,
        raw: tables.count("raw").await?,
        disturbance,
        recipe: options,
    };
    end(product, &found, problems(&found)).await
}

/// Stores deliveries that match a rule, each in a repository of its own.
async fn publish(nats: &Nats, count: u16) -> anyhow::Result<()> {
    let publisher = Publisher::new(&nats.broker().await?);
    for first in (0..count).step_by(usize::from(PUBLISHED_AT_ONCE)) {
        let mut sent = Vec::new();
        for number in first..count.min(first.saturating_add(PUBLISHED_AT_ONCE)) {
            let delivery = RawDelivery { id: EventId::github(&guid(number)), ..RawDelivery::sample(number) };
            sent.push(publisher.send(delivery.message(), None).await.map_err(|fault| fault.source)?);
        }
        for sent in sent {
            sent.confirmed().await.map_err(|fault| fault.source)?;
        }
    }
    Ok(())
}

/// How many alerts there are.
async fn alerts(nats: &Nats) -> anyhow::Result<u64> {
    let stream = jetstream::new(nats.client.clone()).get_stream(Stream::Alerts.name()).await;
    Ok(stream.context("cannot count the alerts")?.cached_info().state.messages)
}

/// Watches until all `count` alerts are there. `seen` of them were there when NATS was `killed`.
async fn watch(product: &Product, killed: Instant, count: u64, mut seen: u64) -> anyhow::Result<GoingOn> {
    let mut ticks = interval(LOOK);
    let (mut last, mut again, mut gap) = (killed, None, Duration::ZERO);
    while seen < count {
        ticks.tick().await;
        anyhow::ensure!(killed.elapsed() < SETTLED_WITHIN, "{seen} of {count} alerts after {SETTLED_WITHIN:?}");
        // A server that is just starting cannot answer, so ask again.
        let Ok(now) = alerts(&product.nats).await else { continue };
        if now > seen {
            gap = gap.max(last.elapsed());
            again = again.or(Some(killed.elapsed()));
            (seen, last) = (now, Instant::now());
        }
    }
    Ok(GoingOn { again: again.unwrap_or_default(), gap })
}

fn problems(found: &Found) -> Vec<String> {
    let mut problems = Vec::new();
    let count = u64::from(found.recipe.count);
    if found.alerts != count {
        problems.push(format!("expected {count} alerts, found {}", found.alerts));
    }
    for (table, rows) in [("events", found.events), ("raw", found.raw)] {
        if (rows.rows, rows.distinct_ids) != (count, count) {
            problems.push(format!("{table}: expected {count} rows, each with an id of its own, found {rows:?}"));
        }
    }
    if found.alerts_gap_s > GOES_ON_WITHIN_S {
        problems.push(format!("alerts stood still for {} s, expected {GOES_ON_WITHIN_S} at most", found.alerts_gap_s));
    }
    problems
}
