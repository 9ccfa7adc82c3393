//! The one line that a case prints on stdout.

use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use headrace_schemas::time::Timestamp;
use serde::Serialize;

use crate::bodies::Described;
use crate::figures::round;
use crate::machine::{Machine, commit};

/// What every case reports.
#[derive(Debug, Serialize)]
pub(crate) struct Report<R, F> {
    pub(crate) case: &'static str,
    /// The case's options. With `case`, they say how to repeat it.
    pub(crate) recipe: R,
    /// What was sent.
    pub(crate) bodies: Described,
    /// What was found.
    #[serde(flatten)]
    pub(crate) figures: F,
}

/// What was found, with the machine and the commit.
#[derive(Serialize)]
struct Line<'a, T> {
    #[serde(flatten)]
    found: &'a T,
    machine: Machine,
    version: &'static str,
    commit: String,
    measured_at: Timestamp,
}

impl<R: Serialize, F: Serialize> Report<R, F> {
    pub(crate) fn print(&self) -> anyhow::Result<()> {
        print(self)
    }
}

/// Prints what was found, with the machine and the code, on one line of stdout.
pub(crate) fn print<T: Serialize>(found: &T) -> anyhow::Result<()> {
    let line = Line {
        found,
        machine: Machine::this(),
        version: env!("CARGO_PKG_VERSION"),
        commit: commit(),
        measured_at: Timestamp::now(),
    };
    println!("{}", serde_json::to_string(&line).context("cannot write the report")?);
    Ok(())
}

/// A distribution of times, in milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Quantiles {
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    max_ms: f64,
}

impl Quantiles {
    /// From a histogram of microseconds.
    pub(crate) fn of(micros: &Histogram<u64>) -> Self {
        let at = |quantile| round(micros.value_at_quantile(quantile) as f64 / 1e3);
        Self { p50_ms: at(0.5), p99_ms: at(0.99), p999_ms: at(0.999), max_ms: at(1.0) }
    }
}

/// `count` in `time`, per second.
pub(crate) fn rate(count: u64, time: Duration) -> f64 {
    (count as f64 / time.as_secs_f64()).round()
}

/// Fails a case whose counts disagree. Print the figures first, because they help to see why.
pub(crate) fn conclude(problems: Vec<String>) -> anyhow::Result<()> {
    anyhow::ensure!(problems.is_empty(), "the counts do not agree:\n  {}", problems.join("\n  "));
    Ok(())
}
