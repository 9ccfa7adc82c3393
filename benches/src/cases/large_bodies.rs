//! `large-bodies`: sends bodies that are too large for a message while ClickHouse stands still. Then ClickHouse goes
//! on.
//!
//! RAW holds only references of a few hundred bytes. A sink that counted only these would fill its memory with bodies.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use headrace_local::poll;
use headrace_tests::product::hook::{Hook, guid};
use headrace_tests::product::process::{freeze, signal};
use rustix::process::Signal;
use serde::Serialize;
use tokio::time::Instant;

use super::end;
use crate::backlog::{Backlog, Waiting};
use crate::bodies::SECRET;
use crate::cli::LargeBodies;
use crate::figures::round;
use crate::servers::{Nats, Product, TOGETHER};
use crate::tables::{Rows, Tables};
use crate::usage::{Cost, Disturbance};

/// The most memory that gateway, pipeline and sinks may hold together when no limit is given, in MB of 10^6 bytes.
const RESIDENT_MAX_MB: f64 = 512.0;
/// How long it may take until every row is there. This only ends a run that hangs.
const DRAINED_WITHIN: Duration = Duration::from_secs(3_600);
/// What RAW may hold, in bytes. It holds only references.
const RAW_BYTES_MAX: u64 = 1 << 30;
/// The product's own processes.
const OWN: [&str; 4] = ["gateway", "pipeline", "sinks", TOGETHER];

/// What the case reports.
#[derive(Serialize)]
struct Found {
    case: &'static str,
    recipe: LargeBodies,
    /// Seconds until all were stored.
    stored_s: f64,
    /// Seconds from ClickHouse's return to the last row.
    drain_s: f64,
    events: Rows,
    raw: Rows,
    dead_letters: u64,
    /// The sum of the peaks of gateway, pipeline and sinks, in MB.
    own_peak_rss_mb: f64,
    processes: BTreeMap<String, Cost>,
    disturbance: Disturbance,
}

pub(crate) async fn run(options: LargeBodies) -> anyhow::Result<()> {
    let nats = Nats::start(RAW_BYTES_MAX).await?;
    let product = match options.limit_mb {
        Some(limit_mb) => Product::limited(nats, &options.tested, limit_mb).await?,
        None => Product::everything(nats, &options.tested).await?,
    };
    let backlog = Backlog::open(&product.nats.client).await?;
    let meter = product.meter();
    let before = meter.sample()?;
    let clickhouse = product.clickhouse_pid().context("there is no ClickHouse")?;
    freeze(clickhouse).await;
    let began = Instant::now();
    send(&product, &options).await.with_context(|| product.logs())?;
    let stored_s = round(began.elapsed().as_secs_f64());
    eprintln!("{} bodies are stored; ClickHouse goes on", options.count);
    signal(clickhouse, Signal::CONT);
    let began = Instant::now();
    let nothing_waits = async || backlog.waiting().await.ok().filter(|waiting| *waiting == Waiting::default());
    poll::until("nothing waits", DRAINED_WITHIN, nothing_waits).await.with_context(|| product.logs())?;
    let drain_s = round(began.elapsed().as_secs_f64());
    let tables = Tables::new(&product.clickhouse_url().context("there is no ClickHouse")?);
    let after = meter.sample()?;
    let processes = after.costs(&before, u64::from(options.count));
    let own = OWN.iter().filter_map(|name| processes.get(*name)).map(|cost| cost.peak_rss_mb).sum();
    let found = Found {
        case: "large-bodies",
        stored_s,
        drain_s,
        events: tables.count("events").await?,
        raw: tables.count("raw").await?,
        dead_letters: backlog.dead_letters().await?,
        own_peak_rss_mb: round(own),
        processes,
        disturbance: after.disturbance(&before),
        recipe: options,
    };
    end(product, &found, problems(&found)).await
}

/// Sends all bodies, one or two at a time.
async fn send(product: &Product, options: &LargeBodies) -> anyhow::Result<()> {
    let hook = Hook::new(format!("http://{}/webhooks/github", product.address()?), SECRET);
    let stored = stream::iter(0..options.count).map(|number| {
        let (hook, bytes) = (hook.clone(), options.bytes);
        async move {
            let answer = hook.send("repository", &guid(), body(number, bytes)).await;
            anyhow::ensure!(
                answer.is_stored(),
                "body {number}: expected a 2xx, found {} {}",
                answer.status,
                answer.body
            );
            Ok(())
        }
    });
    // With little memory, the gateway may have no room for a second body.
    let at_once = if options.limit_mb.is_some() { 1 } else { 2 };
    stored.buffer_unordered(at_once).try_collect().await
}

/// A body of `bytes` bytes that compresses about as well as text.
fn body(number: u32, bytes: usize) -> Vec<u8> {
    let mut body = format!(
        r#"{{"action":"edited","repository":{{"id":{number},"full_name":"acme/app-{number}"}},"organization":{{"id":5,"login":"acme"}},"sender":{{"id":7,"login":"mona"}},"padding":""#
    )
    .into_bytes();
    let mut state = u64::from(number) + 1;
    while body.len() + 2 < bytes {
        // xorshift64, so that each body has other digits.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        body.extend_from_slice(&hex::encode(state.to_le_bytes()).as_bytes()[..16.min(bytes - 2 - body.len())]);
    }
    body.extend_from_slice(br#""}"#);
    body
}

fn problems(found: &Found) -> Vec<String> {
    let mut problems = Vec::new();
    let count = u64::from(found.recipe.count);
    for (table, rows) in [("events", found.events), ("raw", found.raw)] {
        if (rows.rows, rows.distinct_ids) != (count, count) {
            problems.push(format!("{table}: expected {count} rows, each with an id of its own, found {rows:?}"));
        }
    }
    if found.dead_letters > 0 {
        problems.push(format!("{} dead letters", found.dead_letters));
    }
    let resident_max_mb = found.recipe.limit_mb.map_or(RESIDENT_MAX_MB, |limit_mb| limit_mb as f64);
    if found.own_peak_rss_mb > resident_max_mb {
        problems.push(format!("{} MB were resident, expected {resident_max_mb} at most", found.own_peak_rss_mb));
    }
    problems
}
