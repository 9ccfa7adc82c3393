//! `micro`: the hot functions alone, in this process, on one core.
//!
//! Each function goes over all bodies again and again, so that a figure is the mean over their mix:
//! some passes to warm up, then [`RUNS`] runs of equal length, of which the median counts. The row
//! encoding and the gateway's key search are not public: the first is left out, the second is
//! written here as it is there.

use std::hint::black_box;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use headrace_ingest::config::Tenants;
use headrace_ingest::tenant::{TenantMap, login_of};
use headrace_runtime::payload::RawDelivery;
use headrace_schemas::codec;
use headrace_schemas::event::Event;
use headrace_schemas::header;
use headrace_schemas::id::EventId;
use headrace_schemas::time::Timestamp;
use headrace_stages::normalize::normalize;
use headrace_stages::score::Score;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Serialize;
use sha2::Sha256;
use tokio::time::Instant;

use crate::bodies::{Bodies, Body, SECRET};
use crate::cases::rules;
use crate::cli::Micro;
use crate::guid;
use crate::report::Report;
use crate::usage::round;

/// Runs of each function; an odd number has a median.
const RUNS: u32 = 7;
/// Sizes of the rule sets.
const RULES: [usize; 3] = [10, 200, 1_000];

/// What the case tells.
#[derive(Debug, Serialize)]
struct Figures {
    /// Size of a scored event as Avro, in bytes, on the average.
    avro_bytes_mean: usize,
    functions: Vec<Figure>,
}

/// One function.
#[derive(Debug, Serialize)]
struct Figure {
    function: String,
    /// For one event, in nanoseconds.
    ns: f64,
    /// On one core.
    events_per_s: f64,
}

/// Runs the case.
pub(crate) fn run(options: Micro) -> anyhow::Result<()> {
    let bodies = Bodies::load(options.bodies.as_deref())?;
    let budget = Duration::from_secs(options.seconds);
    let all: Vec<&Body> = bodies.iter().collect();
    let raws: Vec<RawDelivery> = (0..).zip(&all).map(|(index, body)| raw(index, body)).collect();
    let normalized = raws.iter().map(|raw| normalize(raw).map_err(|fault| anyhow::anyhow!("{fault}")));
    let events: Vec<Event> = normalized.collect::<anyhow::Result<_>>().context("cannot normalize a body")?;

    let key = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).context("HMAC takes keys of any length")?;
    let tenants = TenantMap::new(&Tenants::default());
    let mut functions = vec![
        measure("verify", &all, budget, |body| key.clone().chain_update(&body.json).verify_slice(&body.signature)),
        measure("tenant", &all, budget, |body| tenants.tenant(login_of(&body.json).as_deref())),
        measure("normalize", &raws, budget, normalize),
    ];
    for count in RULES {
        let score = Score::new(rules::load(count)?);
        functions.push(measure(&format!("score_{count}_rules"), &events, budget, |event| score.assess(event)));
    }
    let score = Score::new(rules::load(RULES[0])?);
    let assessed = |mut event: Event| {
        event.assessment = Some(score.assess(&event));
        event
    };
    let scored: Vec<Event> = events.into_iter().map(assessed).collect();
    let encoded = scored.iter().map(codec::encode).collect::<Result<Vec<_>, _>>().context("cannot encode an event")?;
    functions.push(measure("avro_encode", &scored, budget, codec::encode));
    functions.push(measure("avro_decode", &encoded, budget, |bytes| codec::decode::<Event>(bytes)));
    let avro_bytes_mean = encoded.iter().map(Vec::len).sum::<usize>() / encoded.len();
    Report {
        case: "micro",
        recipe: options,
        bodies: bodies.describe(),
        figures: Figures { avro_bytes_mean, functions },
    }
    .print()
}

/// Times `function` over `items` for `budget` in all.
fn measure<T, R>(name: &str, items: &[T], budget: Duration, function: impl Fn(&T) -> R) -> Figure {
    let pass = || {
        for item in items {
            black_box(function(black_box(item)));
        }
    };
    let run = |length: Duration| {
        let began = Instant::now();
        let mut passes = 0_u32;
        loop {
            pass();
            passes += 1;
            let elapsed = began.elapsed();
            if elapsed >= length {
                return elapsed.as_nanos() as f64 / f64::from(passes) / items.len() as f64;
            }
        }
    };
    let length = budget / (RUNS + 1);
    run(length);
    let mut runs: Vec<f64> = (0..RUNS).map(|_| run(length)).collect();
    runs.sort_unstable_by(f64::total_cmp);
    let ns = runs[runs.len() / 2];
    eprintln!("{name}: {ns:.0} ns");
    Figure { function: name.to_owned(), ns: round(ns), events_per_s: (1e9 / ns).round() }
}

/// The body as the pipeline reads it from RAW.
fn raw(index: u64, body: &Body) -> RawDelivery {
    let text = |text: &str| text.to_owned();
    let guid = String::from_utf8_lossy(&guid::make(index)).into_owned();
    RawDelivery {
        id: EventId::github(&guid),
        tenant: body.tenant.clone(),
        source: text("github"),
        event: body.event.clone(),
        received_at: Timestamp::now(),
        headers: vec![
            (text(header::CONTENT_TYPE), text("application/json")),
            (text(header::GITHUB_EVENT), body.event.clone()),
            (text(header::GITHUB_DELIVERY), guid),
        ],
        body: Bytes::clone(&body.json),
        sequence: index + 1,
    }
}
