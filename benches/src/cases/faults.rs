//! `faults`: the long fault run. Each scene gets its share of the time, with servers and processes of its own.
//! `headrace_tests::faults` decides what happens in a scene, and checks the outcome.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use headrace_tests::faults::{self, Options, RecoveryTimes, Scenario};
use serde::Serialize;
use tempfile::TempDir;

use crate::cli::Faults;
use crate::report::{conclude, print};
use crate::servers::PRODUCT;

/// How many pipeline processes, and how many sink processes, to begin with.
const WORKERS: usize = 2;

/// For so many seconds of the load EVENTS has room where a sink is to be set aside.
const EVENTS_S: u64 = 10;
/// What a delivery takes there, with the records that come beside it, in bytes.
const EVENT_BYTES: u64 = 1_500;
/// What EVENTS holds at least, in bytes.
const EVENTS_BYTES_MIN: u64 = 1 << 20;

/// What the case reports: the promise first, then each scene.
#[derive(Debug, Serialize)]
struct Figures {
    case: &'static str,
    recipe: Faults,
    minutes: f64,
    sent: usize,
    shared: usize,
    answered: usize,
    rows: usize,
    lost: usize,
    twice: usize,
    altered: usize,
    dead: u64,
    injected: usize,
    set_aside: usize,
    caught_up: u64,
    faults: BTreeMap<faults::Fault, RecoveryTimes>,
    scenes: Vec<faults::Report>,
}

pub(crate) async fn run(options: Faults) -> anyhow::Result<()> {
    let scenes = chosen(&options.scene)?;
    // The log shows which faults are made, and when.
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter("headrace_tests=info").init();
    let base = match &options.dir {
        Some(dir) => fs::create_dir_all(dir).and_then(|()| TempDir::with_prefix_in("faults-", dir)),
        None => TempDir::with_prefix("headrace-faults-"),
    };
    let base = base.context("cannot make a directory for the servers")?;
    let mut reports = Vec::new();
    for scene in &scenes {
        let ran = run_scenario(&options, *scene, scenes.len(), base.path()).await;
        match ran {
            Ok(report) => reports.push(report),
            Err(error) => return Err(error.context(format!("kept: {}", base.keep().display()))),
        }
    }
    let sum = |count: fn(&faults::Report) -> usize| reports.iter().map(count).sum();
    let figures = Figures {
        case: "faults",
        minutes: (reports.iter().map(|report| report.seconds).sum::<f64>() / 6.0).round() / 10.0,
        sent: sum(|report| report.sent),
        shared: sum(|report| report.shared),
        answered: sum(|report| report.answered),
        rows: sum(|report| report.rows),
        lost: sum(|report| report.lost),
        twice: sum(|report| report.twice),
        altered: sum(|report| report.altered),
        dead: reports.iter().map(|report| report.dead).sum(),
        injected: sum(|report| report.faults.values().map(|times| times.count).sum()),
        set_aside: sum(|report| report.set_aside),
        caught_up: reports.iter().map(|report| report.caught_up).sum(),
        faults: RecoveryTimes::all(&reports),
        scenes: reports,
        recipe: options,
    };
    print(&figures)?;
    let problems = figures.scenes.iter().filter_map(|report| report.ensure_intact().err());
    let problems: Vec<String> = problems.map(|error| format!("{error:#}")).collect();
    if !problems.is_empty() {
        eprintln!("kept: {}", base.keep().display());
    }
    conclude(problems)
}

async fn run_scenario(options: &Faults, scene: Scenario, scenes: usize, base: &Path) -> anyhow::Result<faults::Report> {
    let dir = base.join(scene.name);
    fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    eprintln!("scene {} in {}", scene.name, dir.display());
    let duration = Duration::from_secs(options.minutes * 60) / u32::try_from(scenes)?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let stream_bytes_max = if scene.disks.is_some() { 600 << 20 } else { 4 << 30 };
    let small = (u64::from(options.rate) * EVENT_BYTES * EVENTS_S).clamp(EVENTS_BYTES_MIN, stream_bytes_max);
    let is_set_aside = scene.faults.contains(&faults::Fault::SetAside);
    let options = Options {
        program: (program, vec![OsString::from(PRODUCT)]),
        dir: dir.clone(),
        seed: options.seed,
        rate: options.rate,
        duration,
        scenario: scene,
        workers: WORKERS,
        // The run is long enough for all kinds.
        kinds_min: 0,
        stream_bytes_max,
        events_bytes_max: if is_set_aside { small } else { stream_bytes_max },
    };
    let report = faults::run(&options).await?;
    eprintln!("{report:#?}");
    if report.ensure_intact().is_ok() {
        // The next scene needs the space.
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    Ok(report)
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<Scenario>> {
    if names.is_empty() {
        return Ok(Scenario::ALL.to_vec());
    }
    let scene = |name: &String| {
        let found = Scenario::ALL.into_iter().find(|scene| scene.name == name);
        found.with_context(|| {
            format!("expected a scene, one of {}, found {name:?}", Scenario::ALL.map(|it| it.name).join(", "))
        })
    };
    names.iter().map(scene).collect()
}
