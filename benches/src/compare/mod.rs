//! `compare`: the same case, with the product of this build and with that of another commit, in turn.
//!
//! Load and counting are of this program in both, so the other commit may be older than what measures it. Runs
//! alternate (other, this, this, other, …), because a machine's speed drifts: each pair gives a ratio of its own.
//!
//! `build` makes the other commit's program, `ratios` sums up.

mod build;
mod ratios;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use serde::Serialize;
use serde_json::{Map, Value};

use self::build::{Recipe, build};
pub(crate) use self::ratios::Ratios;
use self::ratios::{Compared, compare};
use crate::cli::{Case, Cli, Compare};
use crate::machine::commit;
use crate::report::print;
use crate::servers::own_program;

/// What the command reports.
#[derive(Debug, Serialize)]
struct Report {
    case: &'static str,
    /// The case that ran, with its arguments.
    of: Vec<String>,
    /// The other commit.
    with: String,
    /// How that was built.
    with_recipe: Recipe,
    /// The commit of this program.
    this: String,
    rounds: u32,
    /// Each figure of this commit, divided by that of the other.
    figures: Map<String, Value>,
    /// What else the machine did during each run.
    disturbances: Vec<Disturbances>,
}

#[derive(Debug, Serialize)]
struct Disturbances {
    with: Value,
    this: Value,
}

/// Whose product runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    With,
    This,
}

/// What one run printed.
type Printed = Map<String, Value>;

pub(crate) fn run(options: &Compare) -> anyhow::Result<()> {
    let figures = figures(options)?;
    let other = build(&options.with, options.target_dir.as_deref())?;
    let own = own_program()?;
    let (mut with, mut this) = (Vec::new(), Vec::new());
    for (number, side) in (1..).zip(alternate(options.rounds, Side::With, Side::This)) {
        let (name, product) = match side {
            Side::With => (other.commit.as_str(), Some(other.program.as_path())),
            Side::This => ("this commit", None),
        };
        eprintln!("run {number} of {}: {name}", 2 * options.rounds);
        let printed =
            run_once(&own, &options.case, product).with_context(|| format!("run {number}, of {name}, failed"))?;
        match side {
            Side::With => with.push(printed),
            Side::This => this.push(printed),
        }
    }
    print(&report(options, &figures, &other, &with, &this)?)
}

/// The figures to compare. Fails if the case has none, or cannot have another product.
fn figures(options: &Compare) -> anyhow::Result<Vec<String>> {
    let arguments = std::iter::once("headrace-benches").chain(options.case.iter().map(String::as_str));
    let default = match Cli::read(arguments)?.case {
        Case::Ingest(case) => (case.common.tested.product, "rate"),
        Case::Chain(case) => {
            // A run in turns has no one rate.
            let rate = if case.turns == 0 { "rows_rate" } else { "rows_rate.mean_ratio" };
            (case.common.tested.product, rate)
        }
        Case::Latency(case) => (case.common.tested.product, "accepted_rate"),
        Case::Outage(case) => (case.tested.product, "accepted_rate"),
        Case::Crash(case) => (case.tested.product, "alerts_again_s"),
        Case::LargeBodies(case) => (case.tested.product, "drain_s"),
        Case::Faults(_) | Case::Durability(_) | Case::Micro(_) | Case::Compare(_) => anyhow::bail!(
            "expected a case that loads the product: ingest, chain, latency, outage, crash or large-bodies, found {}",
            options.case.join(" ")
        ),
    };
    let (None, rate) = default else {
        anyhow::bail!("expected a case without --product, which compare sets itself; leave it out");
    };
    Ok(if options.figure.is_empty() { vec![rate.to_owned()] } else { options.figure.clone() })
}

/// Whose turn it is in each of `pairs`: `first` begins the first pair, and ends the second one. So a steady drift favours
/// neither when the pairs are even in number.
pub(crate) fn alternate<T: Copy>(pairs: u32, first: T, second: T) -> impl Iterator<Item = T> {
    (0..pairs).flat_map(move |pair| if pair % 2 == 0 { [first, second] } else { [second, first] })
}

/// Runs `program` with `arguments`, and reads the object that it prints.
fn run_once(program: &Path, arguments: &[String], product: Option<&Path>) -> anyhow::Result<Printed> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::inherit());
    if let Some(product) = product {
        command.arg("--product").arg(product);
    }
    let output = command.output().with_context(|| format!("cannot start {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    anyhow::ensure!(output.status.success(), "{}: {}; it printed: {text}", program.display(), output.status);
    serde_json::from_str(text.trim()).with_context(|| format!("expected one JSON object, found: {text}"))
}

fn report(
    options: &Compare,
    names: &[String],
    other: &Built,
    with_runs: &[Printed],
    this_runs: &[Printed],
) -> anyhow::Result<Report> {
    let mut figures = Map::new();
    for name in names {
        let values = |runs: &[Printed]| runs.iter().map(|run| figure(run, name)).collect::<anyhow::Result<Vec<f64>>>();
        let compared: Compared = compare(values(with_runs)?, values(this_runs)?);
        figures.insert(name.clone(), serde_json::to_value(compared).context("cannot write a figure")?);
    }
    let disturbance = |run: &Printed| run.get("disturbance").cloned().unwrap_or_default();
    let pairs = with_runs.iter().zip(this_runs);
    let disturbances =
        pairs.map(|(with, this)| Disturbances { with: disturbance(with), this: disturbance(this) }).collect();
    let (case, of, rounds) = ("compare", options.case.clone(), options.rounds);
    let (with, with_recipe) = (other.commit.clone(), other.recipe.clone());
    Ok(Report { case, of, with, with_recipe, this: commit(), rounds, figures, disturbances })
}

/// The number under `name`, whose dots lead into inner objects.
fn figure(run: &Printed, name: &str) -> anyhow::Result<f64> {
    let mut parts = name.split('.');
    let first = parts.next().and_then(|part| run.get(part));
    let found = parts.fold(first, |value, part| value?.get(part));
    found.and_then(Value::as_f64).with_context(|| {
        let known: Vec<&str> =
            run.iter().filter(|(_, value)| value.is_number()).map(|(name, _)| name.as_str()).collect();
        format!("expected a figure that the case prints, such as {}, found `{name}`", known.join(", "))
    })
}

/// A built program and its commit.
struct Built {
    commit: String,
    program: PathBuf,
    recipe: Recipe,
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use tempfile::TempDir;

    use super::*;

    fn options(arguments: &[&str]) -> Compare {
        let all = ["headrace-benches", "compare", "--with", "main"].iter().chain(arguments);
        match Cli::read(all).expect("valid arguments").case {
            Case::Compare(options) => options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_case_is_compared_by_its_rate_unless_told_otherwise() {
        let figures = |arguments: &[&str]| figures(&options(arguments)).map_err(|error| format!("{error:#}"));
        assert_eq!(figures(&["--", "chain", "--rate", "0"]), Ok(vec!["rows_rate".to_owned()]));
        let turns = ["--", "chain", "--turns", "2", "--suspects", "0.1"];
        assert_eq!(figures(&turns), Ok(vec!["rows_rate.mean_ratio".to_owned()]));
        assert_eq!(figures(&["--figure", "a,b.c", "--", "ingest"]), Ok(vec!["a".to_owned(), "b.c".to_owned()]));
        for wrong in [&["--", "micro"][..], &["--", "chain", "--product", "/x"], &["--", "chain", "--rate", "x"]] {
            assert!(figures(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn runs_alternate() {
        use Side::{This, With};
        assert_eq!(alternate(3, With, This).collect::<Vec<_>>(), [With, This, This, With, With, This]);
    }

    /// A program that prints a figure: 30 when it gets another product, else 60.
    fn trivial(dir: &TempDir) -> PathBuf {
        let program = dir.path().join("case");
        let text = "#!/bin/sh\nfigure=60\nfor last; do :; done\n[ \"$last\" = /other ] && figure=30\n\
                    [ \"$1\" = fails ] && exit 1\n\
                    echo \"{\\\"rate\\\":$figure,\\\"inner\\\":{\\\"us\\\":1.5},\\\"disturbance\\\":{\\\"other_cores\\\":0.1}}\"\n";
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        program
    }

    #[test]
    fn each_run_gives_its_figures_to_its_own_side() {
        let dir = TempDir::new().unwrap();
        let program = trivial(&dir);
        let arguments = ["ingest".to_owned()];
        let with = run_once(&program, &arguments, Some(Path::new("/other"))).unwrap();
        let this = run_once(&program, &arguments, None).unwrap();
        let names = ["rate".to_owned(), "inner.us".to_owned()];
        let other =
            Built { commit: "abc".to_owned(), program: program.clone(), recipe: Recipe::of("dev", false, "", "") };
        let report = report(&options(&["--", "ingest"]), &names, &other, &[with], &[this]).unwrap();
        assert_eq!(report.figures["rate"]["ratios"], serde_json::json!([2.0]));
        assert_eq!(report.figures["inner.us"]["median_ratio"], 1.0);
        assert_eq!(report.disturbances[0].with["other_cores"], 0.1);
        let error = run_once(&program, &["fails".to_owned()], None).unwrap_err().to_string();
        assert!(error.contains("exit status: 1"), "{error}");
    }

    #[test]
    fn an_unknown_figure_is_told_with_those_that_there_are() {
        let run = serde_json::from_str(r#"{"rate":1,"inner":{"us":2},"name":"x"}"#).unwrap();
        assert_eq!(figure(&run, "inner.us").unwrap(), 2.0);
        for unknown in ["rates", "inner", "inner.ms", "name", ""] {
            let error = figure(&run, unknown).unwrap_err().to_string();
            assert!(error.contains("such as rate, found"), "{error}");
        }
    }
}
