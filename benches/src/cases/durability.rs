//! `durability`: how many messages NATS stores from one client. It depends on when NATS syncs, how many servers store a
//! message, and how the client publishes.
//!
//! All brokers run at once and take turns. So a disturbance of more than a few seconds affects all of them, and ratios
//! stay comparable even when rates differ from hour to hour. The case empties RAW after each turn, so that late writes
//! do not slow the next one.

use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use headrace_local::nats::SyncInterval;
use serde::Serialize;
use tokio::time::Instant;

use crate::bodies::Bodies;
use crate::brokers::Broker;
use crate::cli::Durability;
use crate::figures::round;
use crate::publish::{Confirmed, Recipe, Size, Source, Way, Window, histogram, publish};
use crate::report::{Quantiles, Report, conclude, rate};
use crate::usage::{Disturbance, Meter, OWN};

/// How long to publish before each window.
const WARMUP: Duration = Duration::from_millis(200);

/// A broker to compare: its servers, and when they sync.
#[derive(Clone, Copy, Debug, Serialize)]
struct Setup {
    servers: usize,
    sync_interval: &'static str,
    #[serde(skip)]
    sync: SyncInterval,
}

const fn setup(servers: usize, sync_interval: &'static str, sync: SyncInterval) -> Setup {
    Setup { servers, sync_interval, sync }
}

/// The case compares the others with the first.
const SETUPS: [Setup; 5] = [
    setup(1, "2m", SyncInterval::Every(Duration::from_secs(120))),
    setup(1, "1s", SyncInterval::Every(Duration::from_secs(1))),
    setup(1, "always", SyncInterval::Always),
    setup(3, "2m", SyncInterval::Every(Duration::from_secs(120))),
    setup(3, "always", SyncInterval::Always),
];

/// How many messages are on their way at once, and which batch sizes to try with that.
const BATCHES: [(u64, &[u64]); 2] = [(64, &[16, 64]), (256, &[16, 64, 256])];

/// What the case reports.
#[derive(Debug, Serialize)]
struct Figures {
    choices: Vec<Choice>,
    disturbance: Disturbance,
}

/// One choice, over all its rounds.
#[derive(Debug, Serialize)]
struct Choice {
    #[serde(flatten)]
    setup: Setup,
    #[serde(flatten)]
    recipe: Recipe,
    /// Messages confirmed per second, the median of the rounds.
    rate: f64,
    rate_min: f64,
    rate_max: f64,
    /// `rate` divided by that of one server with `sync_interval: 2m` and single messages, the median of the rounds.
    of_default: f64,
    /// From giving a message to NATS to its confirmation.
    #[serde(flatten)]
    latency: Quantiles,
    /// CPU time of all servers per message, in microseconds.
    nats_cpu_us: f64,
}

/// The measurements of a choice so far.
struct Measurements {
    rates: Vec<f64>,
    latency: Histogram<u64>,
    cpu_us: f64,
    confirmed: u64,
}

pub(crate) async fn run(options: Durability) -> anyhow::Result<()> {
    let bodies = Bodies::load(&options.sending)?;
    let mut brokers = Vec::new();
    for setup in SETUPS {
        brokers.push(Broker::start(setup.servers, setup.sync).await?);
    }
    let meter = Meter::new(brokers.iter().flat_map(Broker::processes).map(|(_, pid)| (pid.to_string(), pid)));
    let before = meter.sample()?;
    let source = Source::new(bodies.clone());
    let recipes = recipes(&options);
    let mut all_measurements: Vec<Measurements> = Vec::new();
    for _ in 0..recipes.len() * SETUPS.len() {
        all_measurements.push(Measurements { rates: Vec::new(), latency: histogram()?, cpu_us: 0.0, confirmed: 0 });
    }
    let mut problems = Vec::new();
    for number in 0..options.rounds {
        eprintln!("round {} of {}", number + 1, options.rounds);
        let mut measurements = all_measurements.iter_mut();
        for recipe in &recipes {
            for (broker, setup) in brokers.iter().zip(SETUPS) {
                let measurements = measurements.next().context("there is a measurement of each choice")?;
                let what = || format!("{setup:?} {recipe:?}");
                problems.extend(turn(broker, &source, *recipe, &options, measurements).await.with_context(what)?);
            }
        }
    }
    let disturbance = meter.sample()?.disturbance(&before);
    for broker in brokers {
        broker.stop().await;
    }
    let choices = choices(&recipes, &all_measurements);
    let figures = Figures { choices, disturbance };
    Report { case: "durability", bodies: bodies.describe(), figures, recipe: options }.print()?;
    conclude(problems)
}

fn recipes(options: &Durability) -> Vec<Recipe> {
    let mut recipes = Vec::new();
    for bodies in [Size::Whole, Size::Kibibyte] {
        for (in_flight, batches) in BATCHES {
            recipes.push(Recipe { bodies, in_flight, way: Way::Single, batch: 1 });
            for way in [Way::Atomic, Way::Fast].into_iter().filter(|_| !options.singles) {
                recipes.extend(batches.iter().map(|&batch| Recipe { bodies, in_flight, way, batch }));
            }
        }
    }
    recipes
}

/// Measures one choice for the length of a window. Returns a problem if the counts of confirmed and stored messages
/// differ.
async fn turn(
    broker: &Broker,
    source: &Source,
    recipe: Recipe,
    options: &Durability,
    measurements: &mut Measurements,
) -> anyhow::Result<Option<String>> {
    let meter = Meter::new(broker.processes());
    let (before, stored_before) = (meter.sample()?, broker.stored().await?);
    let opens = Instant::now() + WARMUP;
    let length = Duration::from_secs(options.seconds);
    let window = Window { opens, closes: opens + length };
    let Confirmed { in_window, total, latency } = publish(&broker.client, source, recipe, window).await?;
    let stored = broker.stored().await? - stored_before;
    let costs = meter.sample()?.costs(&before, total);
    broker.purge().await?;
    measurements.rates.push(rate(in_window, length));
    measurements.latency.add(&latency).context("all histograms are alike")?;
    let servers = costs.iter().filter(|(name, _)| *name != OWN);
    measurements.cpu_us += servers.map(|(_, cost)| cost.cpu_us_per_event).sum::<f64>() * total as f64;
    measurements.confirmed += total;
    Ok((stored != total).then(|| format!("{recipe:?}: {total} messages were confirmed and {stored} are stored")))
}

fn choices(recipes: &[Recipe], all_measurements: &[Measurements]) -> Vec<Choice> {
    let mut choices = Vec::new();
    let mut default: &[f64] = &[];
    for (recipe, all_measurements) in recipes.iter().zip(all_measurements.chunks(SETUPS.len())) {
        if recipe.way == Way::Single {
            default = &all_measurements[0].rates;
        }
        for (setup, measurements) in SETUPS.into_iter().zip(all_measurements) {
            let ratios = measurements.rates.iter().zip(default).map(|(rate, default)| rate / default);
            let rates = sorted(measurements.rates.iter().copied());
            choices.push(Choice {
                setup,
                recipe: *recipe,
                rate: median(&rates),
                rate_min: rates.first().copied().unwrap_or_default(),
                rate_max: rates.last().copied().unwrap_or_default(),
                of_default: round(median(&sorted(ratios))),
                latency: Quantiles::of(&measurements.latency),
                nats_cpu_us: round(measurements.cpu_us / measurements.confirmed.max(1) as f64),
            });
        }
    }
    choices
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
