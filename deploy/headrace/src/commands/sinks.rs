//! `headrace sinks`: shows the sinks, configured or left behind, and removes what was left behind. [`behind`] pauses a
//! sink, lets it go on, and has it catch up.
//!
//! A configured sink is never removed, nor one that another process reads: its consumer would be made anew at once.

mod behind;
mod list;

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, IsTerminal as _};
use std::time::Duration;

use anyhow::Context as _;
use clap::CommandFactory as _;
use headrace_runtime::aside::Asides;
use headrace_runtime::aside::record::Record;
use headrace_runtime::broker::Broker;
use headrace_runtime::consume::leftover::{self, Component, Found};
use headrace_schemas::time::Timestamp;
use headrace_sinks::instances::usual_components;
use serde_json::json;

use crate::cli::global::Global;
use crate::cli::output;
use crate::cli::place::Place;
use crate::cli::sinks::{Sinks, SinksAction};
use crate::cli::{Cli, exit, plain};
use crate::commands::target::Target;

/// A sink that was brought something within this time is catching up.
const CATCHING_UP: Duration = Duration::from_secs(60);

pub(crate) async fn sinks(arguments: Sinks, global: Global) -> anyhow::Result<()> {
    match arguments.action {
        SinksAction::List { place, json } => list::list(&Opened::open(&place).await?, json),
        SinksAction::Pause(one) => behind::pause(&one, global).await,
        SinksAction::Resume(one) => behind::resume(&one, global).await,
        SinksAction::Rewind { one, since, until, yes, .. } => {
            ensure_answer(yes)?;
            // Without a time it is `--cancel`, as the arguments say.
            match since {
                Some(since) => behind::rewind(&one, (since, until), yes, global).await,
                None => behind::cancel(&one, yes, global).await,
            }
        }
        SinksAction::Skip { one, until, yes } => {
            ensure_answer(yes)?;
            behind::skip(&one, until, yes, global).await
        }
        SinksAction::Remove { name, place, json, yes } => {
            ensure_answer(yes)?;
            let opened = Opened::open(&place).await?;
            let meant = opened.left_behind(&name).await?;
            opened.target.note(&format!("removing what the sink {} has left behind", plain::line(&name)), global);
            if !yes && !is_removal_confirmed(&meant)? {
                return Err(exit::missing("nothing was removed"));
            }
            remove(&opened, &name, &meant, json).await
        }
    }
}

/// Makes sure that somebody can be asked, unless the answer is given.
fn ensure_answer(yes: bool) -> Result<(), clap::Error> {
    if yes || io::stdin().is_terminal() {
        return Ok(());
    }
    let problem = "expected --yes, because nobody can be asked here";
    Err(Cli::command().error(clap::error::ErrorKind::MissingRequiredArgument, problem))
}

/// What the configuration and the broker know of the sinks.
struct Opened {
    broker: Broker,
    target: Target,
    sinks: headrace_sinks::instances::Sinks,
    configured: Vec<Component>,
    found: Vec<Found>,
    asides: Asides,
    /// What each component has missed.
    records: BTreeMap<String, Record>,
    /// The paused sinks, and since when they are.
    paused: BTreeMap<String, Timestamp>,
}

/// A component of a sink: configured, or there, or both.
struct Row<'o> {
    component: &'o Component,
    found: Option<&'o Found>,
    state: &'static str,
    /// What it has missed, when it has.
    missed: Option<&'o Record>,
    paused_since: Option<Timestamp>,
}

impl Opened {
    async fn open(place: &Place) -> anyhow::Result<Self> {
        let (broker, mut config, target) = Target::connect(place, "headrace-sinks").await?;
        // That `up` also runs sinks of which its configuration says nothing.
        if let Some(data_dir) = &target.data_dir {
            config.sinks.complete_for_up(&data_dir.path);
        }
        let found = leftover::consumers(&broker, &usual_components()).await?;
        let asides =
            Asides::open(&broker).await.context("is this release of `headrace run` or `headrace up` set up there?")?;
        let configured = config.sinks.components();
        let (mut records, mut paused) = (BTreeMap::new(), BTreeMap::new());
        for Component { instance, name, .. } in configured.iter().chain(found.iter().map(|found| &found.component)) {
            if !records.contains_key(name) {
                records.insert(name.clone(), asides.record(name).await?);
            }
            if let Some(since) = asides.paused_since(instance).await? {
                paused.insert(instance.clone(), since);
            }
        }
        Ok(Self { broker, target, sinks: config.sinks, configured, found, asides, records, paused })
    }

    /// The configured components, then the others.
    fn rows(&self) -> Vec<Row<'_>> {
        let found = |own: &Component| {
            self.found.iter().find(|found| (&found.component.name, found.component.stream) == (&own.name, own.stream))
        };
        let configured = self.configured.iter().map(|component| {
            let found = found(component);
            let state = if found.is_some() { "configured" } else { "not started" };
            self.row(component, found, self.standing(component).unwrap_or(state))
        });
        let others = self.found.iter().filter(|found| !self.is_configured(found)).map(|found| {
            let state = if found.is_read() { "read elsewhere" } else { "left behind" };
            self.row(&found.component, Some(found), state)
        });
        configured.chain(others).collect()
    }

    fn row<'o>(&'o self, component: &'o Component, found: Option<&'o Found>, state: &'static str) -> Row<'o> {
        let missed = self.records.get(&component.name).filter(|record| record.is_behind());
        Row { component, found, state, missed, paused_since: self.paused.get(&component.instance).copied() }
    }

    /// How a sink is that is paused or behind.
    fn standing(&self, component: &Component) -> Option<&'static str> {
        if self.paused.contains_key(&component.instance) {
            return Some("paused");
        }
        let record = self.records.get(&component.name).filter(|record| record.is_behind())?;
        let is_recent = |at: Timestamp| Timestamp::now().since(at) < CATCHING_UP;
        Some(match record.brought_at {
            Some(at) if is_recent(at) => "catching up",
            _ if record.ranges.is_empty() => "rewound",
            _ => "set aside",
        })
    }

    fn is_configured(&self, found: &Found) -> bool {
        self.configured.iter().any(|own| own.covers(&found.component))
    }

    /// The consumers of the sink `name`, if it may be removed. None when nothing but its pause is left.
    async fn left_behind(&self, name: &str) -> anyhow::Result<Vec<&Found>> {
        let is_meant = |found: &&Found| found.component.instance == name && !self.is_configured(found);
        let own: Vec<&Found> = self.found.iter().filter(is_meant).collect();
        let shown = plain::line(name);
        anyhow::ensure!(
            !own.is_empty() || !self.configured.iter().any(|component| component.instance == name),
            "expected a sink that is not configured any more, found `{shown}` in the configuration; take it out and stop \
             the processes that run it first"
        );
        if own.is_empty() && !self.is_paused(name).await? {
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

fn is_removal_confirmed(meant: &[&Found]) -> anyhow::Result<bool> {
    if meant.is_empty() {
        output::note(format_args!("it has no consumer, but it is paused"));
    }
    for Found { component, pending, unsettled, .. } in meant {
        let (name, stream) = (plain::line(&component.name), component.stream.name());
        output::note(format_args!("{name} on {stream}: {pending} messages wait, {unsettled} are not settled"));
    }
    is_confirmed("Remove?")
}

/// Asks the person at the terminal.
fn is_confirmed(question: &str) -> anyhow::Result<bool> {
    output::note(format_args!("{question} Type yes:"));
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
    Ok(answer.trim() == "yes")
}

async fn remove(opened: &Opened, name: &str, meant: &[&Found], json: bool) -> anyhow::Result<()> {
    // A sink that is given this name later is a new one, and so not paused. One that has the name already is another, with
    // other components, and whoever paused it lets it go on.
    if !opened.configured.iter().any(|component| component.instance == name) {
        opened.asides.resume(name).await?;
    }
    let mut removed = Vec::new();
    for found in meant {
        if leftover::remove(&opened.broker, &found.component).await? {
            removed.push(found.component.name.as_str());
        }
    }
    if json {
        output::line(json!({ "sink": name, "removed": removed, "installation": opened.target.json() }))?;
    } else if meant.is_empty() {
        output::line(format_args!("{} is not paused any more; nothing else was left of it", plain::line(name)))?;
    } else {
        output::line(format_args!("removed {}", plain::line(&removed.join(", "))))?;
    }
    Ok(())
}
