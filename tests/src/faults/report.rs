//! What a run did and what it found.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::{Death, Fault, Options};

/// A run's report, as recorded under `benches/results/`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub scene: &'static str,
    /// The seed.
    pub seed: u64,
    /// How long the run sent load and made faults, in seconds.
    pub seconds: f64,
    /// New deliveries per second that the run should send.
    pub rate: u32,
    /// New deliveries per second that it sent. These are fewer while nothing was answered.
    pub sent_rate: f64,
    /// NATS servers.
    pub nats_servers: usize,
    /// How many pipeline processes, and how many sink processes, to begin with.
    pub workers: usize,
    /// Faults by kind.
    pub faults: BTreeMap<Fault, RecoveryTimes>,
    /// Seconds from the end of the load until everything was settled.
    pub settle_seconds: f64,
    /// How many ids deliveries were sent under.
    pub sent: usize,
    /// How many of them are lines that were written to files or objects. Each counts as answered.
    pub lines: u64,
    /// How many ids are of records that were sent in requests, several in each.
    pub posted: usize,
    /// How many of these requests were answered 2xx.
    pub requests: u64,
    /// How many ids two bodies were sent under.
    pub shared: usize,
    /// How many ids had a body that was answered 2xx.
    pub answered: usize,
    /// Answers that ask for the delivery once more: 503 with Retry-After.
    pub refused: u64,
    /// Of the answered, how many a rule matches. Splunk must have them, if it is a receiver.
    pub matching: usize,
    /// Alerts with tickets in Jira, if it is a receiver.
    pub alerts: usize,
    /// How often a fault had a sink set aside.
    pub set_aside: usize,
    /// How many events were brought to these sinks when they caught up, those included that a death had brought once
    /// more.
    pub caught_up: u64,
    /// Who died while one of these sinks was catching up, and how often. A death that came too late is not among them.
    pub deaths: BTreeMap<Death, usize>,
    /// Events that a Splunk has more than once. That is allowed: it gets them at least once.
    pub repeated: usize,
    /// Rows in `events`.
    pub rows: usize,
    /// Answered 2xx, but missing in `events`, in `raw` or in Splunk. Must be 0.
    pub lost: usize,
    /// Ids with more than one row in `events`, bodies with more than one row in `raw`, and tickets beyond one per
    /// alert. Must be 0.
    pub twice: usize,
    /// Bodies in `raw` that differ from what was sent, and such bodies that rows of `events` name. Must be 0.
    pub altered: usize,
    /// Dead letters. Must be 0.
    pub dead: u64,
    /// Some of the ids that are lost, twice or altered.
    pub examples: Vec<String>,
}

/// How the run recovered from faults of one kind.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RecoveryTimes {
    /// How many faults.
    pub count: usize,
    /// From the fault to the row of a delivery that was sent after it: the median, in seconds.
    pub recovery_p50_s: f64,
    /// The longest such time, in seconds.
    pub recovery_max_s: f64,
    #[serde(skip)]
    all: Vec<f64>,
}

impl RecoveryTimes {
    /// The recovery times of several runs together.
    pub fn all(reports: &[Report]) -> BTreeMap<Fault, Self> {
        let mut sums: BTreeMap<Fault, Self> = BTreeMap::new();
        for (fault, times) in reports.iter().flat_map(|report| &report.faults) {
            sums.entry(*fault).or_default().add(&times.all);
        }
        sums
    }

    fn add(&mut self, seconds: &[f64]) {
        // Round to a millisecond, which is finer than the probe is.
        self.all.extend(seconds.iter().map(|seconds| (seconds * 1e3).round() / 1e3));
        self.all.sort_by(f64::total_cmp);
        self.count = self.all.len();
        self.recovery_p50_s = self.all[self.count / 2];
        self.recovery_max_s = self.all[self.count - 1];
    }
}

impl Report {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            scene: options.scenario.name,
            seed: options.seed,
            seconds: 0.0,
            rate: options.rate,
            sent_rate: 0.0,
            nats_servers: options.scenario.nats_servers,
            workers: options.workers,
            faults: BTreeMap::new(),
            settle_seconds: 0.0,
            sent: 0,
            lines: 0,
            posted: 0,
            requests: 0,
            shared: 0,
            answered: 0,
            refused: 0,
            matching: 0,
            alerts: 0,
            set_aside: 0,
            caught_up: 0,
            deaths: BTreeMap::new(),
            repeated: 0,
            rows: 0,
            lost: 0,
            twice: 0,
            altered: 0,
            dead: 0,
            examples: Vec::new(),
        }
    }

    pub(super) fn recovered(&mut self, fault: Fault, after: Duration) {
        self.faults.entry(fault).or_default().add(&[after.as_secs_f64()]);
    }

    pub(super) fn sent_for(&mut self, time: Duration) {
        self.seconds = time.as_secs_f64().round();
    }

    pub(super) fn settled(&mut self, after: Duration) {
        self.settle_seconds = (after.as_secs_f64() * 1e3).round() / 1e3;
    }

    pub(super) fn example(&mut self, what: &str, id: &str) {
        if self.examples.len() < 20 {
            self.examples.push(format!("{what}: {id}"));
        }
    }

    /// # Errors
    /// When something was lost, stored twice or altered, or is a dead letter.
    pub fn ensure_intact(&self) -> anyhow::Result<()> {
        let intact = self.lost == 0 && self.twice == 0 && self.altered == 0 && self.dead == 0;
        anyhow::ensure!(intact, "the promise is broken: {self:#?}");
        Ok(())
    }
}
