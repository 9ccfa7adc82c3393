//! `headrace sinks`: shows the sinks, configured or left behind, and removes what was left behind.
//!
//! A configured sink is never removed, nor one that another process reads: its consumer would be made anew at once.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use anyhow::Context as _;
use clap::CommandFactory as _;
use headrace_runtime::broker::Broker;
use headrace_runtime::consume::leftover::{self, Component, Found};
use headrace_sinks::instances::usual_components;
use serde_json::{Value, json};

use crate::cli::global::Global;
use crate::cli::output;
use crate::cli::place::Place;
use crate::cli::sinks::{Sinks, SinksAction};
use crate::cli::{Cli, exit, plain};
use crate::commands::target::Target;

pub(crate) async fn sinks(arguments: Sinks, global: Global) -> anyhow::Result<()> {
    match arguments.action {
        SinksAction::List { place, json } => list(&Opened::open(&place).await?, json),
        SinksAction::Remove { name, place, json, yes } => {
            if !yes && !io::stdin().is_terminal() {
                let problem = "expected --yes, because nobody can be asked here";
                return Err(Cli::command().error(clap::error::ErrorKind::MissingRequiredArgument, problem).into());
            }
            let opened = Opened::open(&place).await?;
            let meant = opened.left_behind(&name)?;
            opened.target.note(&format!("removing the consumers of the sink {}", plain::line(&name)), global);
            if !yes && !confirmed(&meant)? {
                return Err(exit::missing("nothing was removed"));
            }
            remove(&opened, &name, &meant, json).await
        }
    }
}

/// What the configuration and the broker know of the sinks.
struct Opened {
    broker: Broker,
    target: Target,
    configured: Vec<Component>,
    found: Vec<Found>,
}

/// A component of a sink: configured, or there, or both.
struct Row<'o> {
    component: &'o Component,
    found: Option<&'o Found>,
    state: &'static str,
}

impl Opened {
    async fn open(place: &Place) -> anyhow::Result<Self> {
        let (broker, mut config, target) = Target::connect(place, "headrace-sinks").await?;
        // That `up` also runs sinks of which its configuration says nothing.
        if let Some(data_dir) = &target.data_dir {
            config.sinks.complete_for_up(&data_dir.path);
        }
        let found = leftover::consumers(&broker, &usual_components()).await?;
        Ok(Self { broker, target, configured: config.sinks.components(), found })
    }

    /// The configured components, then the others.
    fn rows(&self) -> Vec<Row<'_>> {
        let found = |own: &Component| {
            self.found.iter().find(|found| (&found.component.name, found.component.stream) == (&own.name, own.stream))
        };
        let configured = self.configured.iter().map(|component| {
            let found = found(component);
            Row { component, found, state: if found.is_some() { "configured" } else { "not started" } }
        });
        let others = self.found.iter().filter(|found| !self.is_configured(found)).map(|found| Row {
            component: &found.component,
            found: Some(found),
            state: if found.is_read() { "read elsewhere" } else { "left behind" },
        });
        configured.chain(others).collect()
    }

    fn is_configured(&self, found: &Found) -> bool {
        let Component { name, stream, .. } = &found.component;
        self.configured.iter().any(|own| (&own.name, own.stream) == (name, *stream))
    }

    /// The consumers of the sink `name`, if it may be removed.
    fn left_behind(&self, name: &str) -> anyhow::Result<Vec<&Found>> {
        let is_meant = |found: &&Found| found.component.instance == name && !self.is_configured(found);
        let own: Vec<&Found> = self.found.iter().filter(is_meant).collect();
        let shown = plain::line(name);
        anyhow::ensure!(
            !own.is_empty() || !self.configured.iter().any(|component| component.instance == name),
            "expected a sink that is not configured any more, found `{shown}` in the configuration; take it out and stop \
             the processes that run it first"
        );
        if own.is_empty() {
            return Err(exit::missing(format!(
                "no sink `{shown}` has left a consumer behind; `headrace sinks list` shows all"
            )));
        }
        if let Some(read) = own.iter().find(|found| found.is_read()) {
            anyhow::bail!(
                "expected a consumer that nobody reads, found that a process was reading {} within the last minute; stop \
                 that process first",
                read.component.name
            );
        }
        Ok(own)
    }
}

fn list(opened: &Opened, json: bool) -> anyhow::Result<()> {
    let mut out = Vec::new();
    if !json {
        writeln!(
            out,
            "{:16}  {:12}  {:20}  {:6}  {:14}  {:>9}  {:>9}  LAST ACTIVE",
            "SINK", "KIND", "COMPONENT", "STREAM", "STATE", "WAITING", "UNSETTLED"
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
            "{:16}  {:12}  {:20}  {:6}  {:14}  {:>9}  {:>9}  {active}",
            plain::line(instance),
            plain::line(kind),
            plain::line(name),
            stream.name(),
            row.state,
            count(|found| found.pending),
            count(|found| found.unsettled),
        )?;
    }
    output::write(&out)?;
    Ok(())
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
    })
}

/// Asks the person at the terminal.
fn confirmed(meant: &[&Found]) -> anyhow::Result<bool> {
    for Found { component, pending, unsettled, .. } in meant {
        let (name, stream) = (plain::line(&component.name), component.stream.name());
        output::note(format_args!("{name} on {stream}: {pending} messages wait, {unsettled} are not settled"));
    }
    output::note("Remove? Type yes:");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
    Ok(answer.trim() == "yes")
}

async fn remove(opened: &Opened, name: &str, meant: &[&Found], json: bool) -> anyhow::Result<()> {
    let mut removed = Vec::new();
    for found in meant {
        if leftover::remove(&opened.broker, &found.component).await? {
            removed.push(found.component.name.as_str());
        }
    }
    if json {
        output::line(json!({ "sink": name, "removed": removed, "installation": opened.target.json() }))?;
    } else {
        output::line(format_args!("removed {}", plain::line(&removed.join(", "))))?;
    }
    Ok(())
}
