//! The list of the sinks, for people and for programs.

use std::io::Write as _;

use headrace_runtime::aside::record::{Range, Record};
use headrace_runtime::consume::leftover::{Component, Found};
use serde_json::{Value, json};

use super::{Opened, Row};
use crate::cli::{output, plain};

pub(super) fn list(opened: &Opened, json: bool) -> anyhow::Result<()> {
    let mut out = Vec::new();
    if !json {
        writeln!(
            out,
            "{:16}  {:12}  {:20}  {:6}  {:14}  {:>9}  {:>9}  {:27}  MISSED",
            "SINK", "KIND", "COMPONENT", "STREAM", "STATE", "WAITING", "UNSETTLED", "LAST ACTIVE"
        )?;
    }
    for row in opened.rows() {
        if json {
            writeln!(out, "{}", summary(&row))?;
            continue;
        }
        let Component { instance, kind, name, stream } = row.component;
        let count =
            |count: fn(&Found) -> u64| row.found.map_or_else(|| "-".to_owned(), |found| count(found).to_string());
        let active = row.found.and_then(|found| found.active_at).map_or_else(|| "-".to_owned(), |at| at.to_string());
        writeln!(
            out,
            "{:16}  {:12}  {:20}  {:6}  {:14}  {:>9}  {:>9}  {active:27}  {}",
            plain::line(instance),
            plain::line(kind),
            plain::line(name),
            stream.name(),
            row.state,
            count(|found| found.pending),
            count(|found| found.unsettled),
            row.missed.map_or_else(|| "-".to_owned(), missed),
        )?;
    }
    output::write(&out)?;
    Ok(())
}

/// What is missed, in one line.
fn missed(record: &Record) -> String {
    let from = record.all().map(|range| range.from).min();
    let (Some(from), Some(until)) = (from, record.all().map(|range| range.until).max()) else { return "-".to_owned() };
    let times = |count: usize| if count == 1 { String::new() } else { format!(" in {count} ranges") };
    format!("{from} to {until}{}, {:.0} % brought", times(record.all().count()), record.progress() * 100.0)
}

fn summary(row: &Row<'_>) -> Value {
    let Component { instance, kind, name, stream } = row.component;
    json!({
        "sink": instance,
        "kind": kind,
        "component": name,
        "stream": stream.name(),
        "state": row.state.replace(' ', "_"),
        "waiting": row.found.map(|found| found.pending),
        "unsettled": row.found.map(|found| found.unsettled),
        "active_at": row.found.and_then(|found| found.active_at).map(|at| at.to_string()),
        "paused_since": row.paused_since.map(|at| at.to_string()),
        "missed": row.missed.map(missed_json),
    })
}

fn missed_json(record: &Record) -> Value {
    let range = |range: &Range| {
        json!({
            "since": range.since,
            "until": range.until,
            "brought_until": range.from,
            "sequences": range.sequences,
            "cause": range.cause,
            "noted_at": range.made_at,
        })
    };
    json!({
        "ranges": record.all().map(range).collect::<Vec<_>>(),
        "seconds": record.missed_seconds(),
        "brought": record.brought,
        "progress": record.progress(),
    })
}
