//! `micro`: the hot functions alone, in this process, on one core.
//!
//! Each function works on all bodies again and again, so a figure is the mean over their mix. One run warms up. Then
//! come [`RUNS`] runs of the same length, and their median counts. Two hot functions are not public: the row encoding
//! is left out, and the gateway's search for the key is copied here.

use std::hint::black_box;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use headrace_ingest::github::tenant::login_of;
use headrace_ingest::tenant::TenantMap;
use headrace_ingest::tenant::Tenants;
use headrace_runtime::message::payload::RawDelivery;
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
use crate::figures::round;
use crate::guid;
use crate::report::Report;

/// How many runs each function gets. An odd number has a median.
const RUNS: u32 = 7;
/// Sizes of the rule sets.
const RULES: [usize; 3] = [10, 200, 1_000];

/// What the case reports.
#[derive(Debug, Serialize)]
struct Figures {
    /// Mean size of a scored event as Avro, in bytes.
    avro_bytes_mean: usize,
    functions: Vec<Figure>,
}

/// The figures of one function.
#[derive(Debug, Serialize)]
struct Figure {
    function: String,
    /// Nanoseconds per event.
    ns: f64,
    /// Events per second on one core.
    events_per_s: f64,
}

pub(crate) fn run(options: Micro) -> anyhow::Result<()> {
    let bodies = Bodies::repeated(options.bodies.as_deref())?;
    let all: Vec<&Body> = bodies.iter().collect();
    let raws: Vec<RawDelivery> = (0..).zip(&all).map(|(index, body)| raw(index, body)).collect();
    let normalized = raws.iter().map(|raw| normalize(raw).map_err(|fault| anyhow::anyhow!("{fault}")));
    let events: Vec<Event> = normalized.collect::<anyhow::Result<_>>().context("cannot normalize a body")?;

    let stopwatch = Stopwatch { only: options.only.clone(), budget: Duration::from_secs(options.seconds) };
    let mut functions = Vec::new();
    let key = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).context("HMAC takes keys of any length")?;
    let verify = |body: &&Body| key.clone().chain_update(&body.json).verify_slice(&body.signature);
    functions.extend(stopwatch.time("verify", &all, verify));
    let tenants = TenantMap::new(&Tenants::default());
    functions.extend(stopwatch.time("tenant", &all, |body| tenants.tenant(login_of(&body.json).as_deref())));
    functions.extend(stopwatch.time("normalize", &raws, normalize));
    for count in RULES {
        let score = Score::new(rules::load(count)?);
        functions.extend(stopwatch.time(&format!("score_{count}_rules"), &events, |event| score.assess(event)));
    }
    let score = Score::new(rules::load(RULES[0])?);
    let assessed = |mut event: Event| {
        event.assessment = Some(score.assess(&event));
        event
    };
    let scored: Vec<Event> = events.into_iter().map(assessed).collect();
    let encoded = scored.iter().map(codec::encode).collect::<Result<Vec<_>, _>>().context("cannot encode an event")?;
    functions.extend(stopwatch.time("avro_encode", &scored, codec::encode));
    functions.extend(stopwatch.time("avro_decode", &encoded, |bytes| codec::decode::<Event>(bytes)));
    let avro_bytes_mean = encoded.iter().map(Vec::len).sum::<usize>() / encoded.len();
    let figures = Figures { avro_bytes_mean, functions };
    Report { case: "micro", recipe: options, bodies: bodies.describe(), figures }.print()
}

struct Stopwatch {
    only: Option<String>,
    budget: Duration,
}

impl Stopwatch {
    /// Measures `function` over `items`. `None` if the command line asks only for other functions.
    fn time<T, R>(&self, name: &str, items: &[T], function: impl Fn(&T) -> R) -> Option<Figure> {
        if self.only.as_deref().is_some_and(|only| !name.starts_with(only)) {
            return None;
        }
        // The first run warms up.
        let length = self.budget / (RUNS + 1);
        mean_ns(items, length, &function);
        let mut runs: Vec<f64> = (0..RUNS).map(|_| mean_ns(items, length, &function)).collect();
        runs.sort_unstable_by(f64::total_cmp);
        let ns = runs[runs.len() / 2];
        eprintln!("{name}: {ns:.0} ns");
        Some(Figure { function: name.to_owned(), ns: round(ns), events_per_s: (1e9 / ns).round() })
    }
}

/// Calls `function` on all `items` again and again for `length`. Returns the nanoseconds per call.
fn mean_ns<T, R>(items: &[T], length: Duration, function: impl Fn(&T) -> R) -> f64 {
    let began = Instant::now();
    let mut calls = 0_usize;
    loop {
        for item in items {
            black_box(function(black_box(item)));
        }
        calls += items.len();
        let elapsed = began.elapsed();
        if elapsed >= length {
            return elapsed.as_nanos() as f64 / calls as f64;
        }
    }
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
        event_time: None,
        headers: vec![
            (text(header::CONTENT_TYPE), text("application/json")),
            (text(header::GITHUB_EVENT), body.event.clone()),
            (text(header::GITHUB_DELIVERY), guid),
        ],
        body: Bytes::clone(&body.json),
        sha256: body.sha256.clone(),
        sequence: index + 1,
    }
}
