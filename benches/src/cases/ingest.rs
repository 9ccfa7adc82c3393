//! `ingest`: measures the gateway with NATS alone, and before that the ceiling that NATS itself sets.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::backlog::Backlog;
use crate::bodies::Bodies;
use crate::ceiling;
use crate::cli::Ingest;
use crate::figures::round;
use crate::load::{Load, Pace, Phase, Plan};
use crate::report::{Quantiles, Report, conclude, rate};
use crate::servers::{Nats, Product};
use crate::usage::{Cost, Disturbance};

/// The longest measurement of the ceiling. It is steady at once, and at full speed it fills the disk.
const CEILING_MAX: Duration = Duration::from_secs(10);

/// What the case reports.
#[derive(Debug, Serialize)]
struct Figures {
    /// Deliveries accepted per second, within the window.
    rate: f64,
    /// Messages per second that NATS accepted directly.
    ceiling_rate: f64,
    /// `rate` divided by `ceiling_rate`. Meaningful only with `--rate 0`.
    ratio: f64,
    /// From the time when a delivery was due to its answer.
    #[serde(flatten)]
    latency: Quantiles,
    errors: u64,
    sent: u64,
    accepted: u64,
    stored: u64,
    seconds: u64,
    processes: BTreeMap<String, Cost>,
    disturbance: Disturbance,
    /// The disturbance while the ceiling was measured.
    ceiling_disturbance: Disturbance,
}

pub(crate) async fn run(options: Ingest) -> anyhow::Result<()> {
    let common = &options.common;
    let bodies = Bodies::load(&common.sending)?;
    eprintln!("ceiling: publishing to NATS directly, {} on their way at once", common.connections);
    let ceiling_window = common.window().min(CEILING_MAX);
    let (ceiling_rate, ceiling_disturbance) = ceiling::measure(&bodies, common.connections, ceiling_window).await?;
    eprintln!("ceiling: {ceiling_rate}/s");

    // RAW gets all of the disk, because nothing reads it here and nothing makes room in it.
    let product = Product::gateway(Nats::start(u64::MAX).await?, &common.tested).await?;
    let pace = if options.rate == 0 { Pace::Free } else { Pace::Rate(options.rate) };
    let load = Load::start(Plan::new(product.address()?, &bodies, common, pace))?;
    let meter = product.meter();
    load.reached(Phase::Window).await;
    let (before, accepted_before) = (meter.sample()?, load.accepted());
    load.reached(Phase::After).await;
    let (after, accepted_after) = (meter.sample()?, load.accepted());
    let outcome = load.finish().await?;
    let stored = Backlog::open(&product.nats.client).await?.stored().await?;

    let mut problems: Vec<String> = outcome.loss().into_iter().collect();
    if stored != outcome.accepted {
        problems.push(format!("{} deliveries were accepted and {stored} are stored", outcome.accepted));
    }
    if !problems.is_empty() {
        eprintln!("{}", product.logs());
    }
    product.stop().await;
    let rate = rate(outcome.accepted_in_window, common.window());
    Report {
        case: "ingest",
        bodies: bodies.describe(),
        figures: Figures {
            rate,
            ceiling_rate,
            ratio: round(rate / ceiling_rate),
            latency: Quantiles::of(&outcome.latency),
            errors: outcome.refused + outcome.broken + outcome.unsent,
            sent: outcome.sent,
            accepted: outcome.accepted,
            stored,
            seconds: common.seconds,
            processes: after.costs(&before, accepted_after - accepted_before),
            disturbance: after.disturbance(&before),
            ceiling_disturbance,
        },
        recipe: options,
    }
    .print()?;
    conclude(problems)
}
