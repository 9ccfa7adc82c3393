//! `headrace sinks pause`, `resume`, `rewind`, `rewind --cancel`, `skip`.

use headrace_runtime::aside::record::{Cause, Range, Record};
use headrace_runtime::consume::leftover::Component;
use headrace_schemas::time::Timestamp;
use headrace_sinks::instances::is_name;
use serde_json::json;

use super::{Opened, is_confirmed};
use crate::cli::global::Global;
use crate::cli::sinks::One;
use crate::cli::time::ensure_window;
use crate::cli::{exit, output, plain};
use crate::role::CLICKHOUSE;

pub(super) async fn pause(one: &One, global: Global) -> anyhow::Result<()> {
    let opened = Opened::open(&one.place).await?;
    let name = opened.known(&one.name)?;
    opened.target.note(&format!("pausing the sink {name}"), global);
    let is_changed = opened.asides.pause(name).await?;
    let told = if is_changed { "takes no more messages within seconds" } else { "was paused already" };
    tell(&opened, one, name, ("paused", is_changed), told)
}

pub(super) async fn resume(one: &One, global: Global) -> anyhow::Result<()> {
    let opened = Opened::open(&one.place).await?;
    let name = match opened.known(&one.name) {
        Err(_) if opened.is_paused(&one.name).await? => one.name.as_str(),
        known => known?,
    };
    opened.target.note(&format!("letting the sink {name} go on"), global);
    let is_changed = opened.asides.resume(name).await?;
    let told = match opened.known(name) {
        _ if !is_changed => "was not paused",
        Ok(_) => "goes on within seconds",
        Err(_) => "is not paused any more; it has not begun, or is gone",
    };
    tell(&opened, one, name, ("resumed", is_changed), told)
}

pub(super) async fn rewind(
    one: &One,
    (since, until): (Timestamp, Option<Timestamp>),
    yes: bool,
    global: Global,
) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let until = until.unwrap_or(now).min(now);
    ensure_window(since, until)?;
    let opened = Opened::open(&one.place).await?;
    let component = opened.catches_up(&one.name)?;
    let name = component.name.as_str();
    opened.target.note(&format!("bringing {name} the events from {since} to {until} once more"), global);
    if !yes && !is_confirmed("Its receiver gets them in addition to those that it has. Bring them?")? {
        return Err(exit::missing("nothing was changed"));
    }
    let range = Range { since, until, from: since, sequences: None, made_at: now, cause: Cause::Rewound };
    opened.asides.change(name, |record| record.add(range.clone())).await?;
    if one.json {
        let installation = opened.target.json();
        let report = json!({
            "sink": component.instance, "component": name, "since": since, "until": until, "installation": installation,
        });
        output::line(report)?;
    } else {
        output::line(format_args!(
            "{name} is brought the events from {since} to {until}; `headrace sinks list` shows how far"
        ))?;
    }
    Ok(())
}

/// Takes back what was asked for by `rewind` and was not brought yet.
pub(super) async fn cancel(one: &One, yes: bool, global: Global) -> anyhow::Result<()> {
    let forgetting = Forgetting {
        none: "is not to be brought anything that `rewind` asked for",
        begun: "taking back what {} was to be brought once more",
        question: "What it has missed and what is on its way still comes, and this does not. Take it back?",
        word: "cancelled",
        done: "is brought no more of what `rewind` asked for",
    };
    forgetting.run(one, yes, global, Record::cancel).await
}

/// Gives up what was missed before `until` and was not brought yet.
pub(super) async fn skip(one: &One, until: Timestamp, yes: bool, global: Global) -> anyhow::Result<()> {
    let forgetting = Forgetting {
        none: "has missed nothing before that time that is still to be brought",
        begun: "giving up what {} has missed",
        question: "It is not brought these events, except by `rewind`. Give them up?",
        word: "skipped",
        done: "is not brought what it had missed before that time",
    };
    forgetting.run(one, yes, global, |record| record.skip(until)).await
}

/// The words for a command that forgets ranges.
struct Forgetting {
    /// When there is nothing to forget.
    none: &'static str,
    /// Before it is done, with the sink's name in the place of `{}`.
    begun: &'static str,
    question: &'static str,
    /// The key in the JSON.
    word: &'static str,
    done: &'static str,
}

impl Forgetting {
    /// Changes the record with `forget`, which returns what is forgotten.
    async fn run(
        &self,
        one: &One,
        yes: bool,
        global: Global,
        forget: impl Fn(&mut Record) -> Vec<Range>,
    ) -> anyhow::Result<()> {
        let opened = Opened::open(&one.place).await?;
        let component = opened.catches_up(&one.name)?;
        let name = component.name.as_str();
        let meant = forget(&mut opened.records.get(name).cloned().unwrap_or_default());
        if meant.is_empty() {
            return Err(exit::missing(format!("{name} {}", self.none)));
        }
        opened.target.note(&self.begun.replace("{}", name), global);
        for Range { from, until, .. } in &meant {
            output::note(format_args!("{from} to {until}"));
        }
        if !yes && !is_confirmed(self.question)? {
            return Err(exit::missing("nothing was changed"));
        }
        let forgotten = opened.asides.change(name, forget).await?;
        if !one.json {
            output::line(format_args!("{name} {}", self.done))?;
            return Ok(());
        }
        let ranges: Vec<_> =
            forgotten.iter().map(|range| json!({ "since": range.from, "until": range.until })).collect();
        output::line(json!({
            "sink": component.instance, "component": name, self.word: ranges, "installation": opened.target.json(),
        }))?;
        Ok(())
    }
}

fn tell(opened: &Opened, one: &One, name: &str, (word, is_changed): (&str, bool), told: &str) -> anyhow::Result<()> {
    if one.json {
        output::line(json!({ "sink": name, word: is_changed, "installation": opened.target.json() }))?;
    } else {
        output::line(format_args!("{name} {told}"))?;
    }
    Ok(())
}

impl Opened {
    /// Whether the sink `name` is paused, also one that is neither configured nor has a consumer: a sink may be paused before
    /// it begins.
    pub(super) async fn is_paused(&self, name: &str) -> anyhow::Result<bool> {
        // Another text may be no key of a bucket.
        Ok(is_name(name) && self.asides.paused_since(name).await?.is_some())
    }

    /// The sink `name`, if there is one.
    fn known(&self, name: &str) -> anyhow::Result<&str> {
        let all = self.configured.iter().chain(self.found.iter().map(|found| &found.component));
        let found = all.map(|component| component.instance.as_str()).find(|instance| *instance == name);
        found.ok_or_else(|| no_sink(name))
    }

    /// The component of the sink `name` that can catch up.
    fn catches_up(&self, name: &str) -> anyhow::Result<Component> {
        self.known(name)?;
        if let Some(component) = self.sinks.catching_up().into_iter().find(|component| component.instance == name) {
            return Ok(component);
        }
        anyhow::ensure!(
            name != CLICKHOUSE,
            "expected another sink than `{CLICKHOUSE}`, because the others catch up from it; `headrace replay` writes its rows \
             once more"
        );
        anyhow::ensure!(
            self.sinks.has_store(),
            "expected `[sinks.{CLICKHOUSE}]` in the configuration, found none: nothing keeps the events that a sink could be \
             brought once more"
        );
        anyhow::bail!(
            "expected a configured sink of events, found that `{}` takes none; alerts are kept in no table from which they \
             could be brought once more",
            plain::line(name)
        )
    }
}

fn no_sink(name: &str) -> anyhow::Error {
    exit::missing(format!("there is no sink `{}`; `headrace sinks list` shows all", plain::line(name)))
}
