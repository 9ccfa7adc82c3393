//! Decides when a process is ready: when gateway, broker and database answer. It reports a sink whose receiver is away
//! but does not wait for it, because that sink delays nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use headrace_ingest::collect;
use headrace_ingest::github::recovery;
use headrace_runtime::observe::health::State;
use tokio::time::{Instant, sleep};

use crate::process::Process;

/// How long a receiver may take for its first answer before it counts as away.
const SINK_ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// How often to check.
const PERIOD: Duration = Duration::from_millis(20);

/// What is waited for.
pub(crate) struct Awaited<'a> {
    /// Sinks of a server that this process itself has started. These must work.
    pub(crate) own: &'a [&'a str],
    /// How long to wait for the parts that must work. `None` waits for ever.
    pub(crate) within: Option<Duration>,
}

/// Waits until everything works that must. Returns the sinks that do not work, with the reasons.
///
/// # Errors
/// If the pipeline does not work in time. A sink alone is no error.
pub(crate) async fn until_ready(process: &Process, awaited: Awaited<'_>) -> anyhow::Result<BTreeMap<String, String>> {
    let began = Instant::now();
    loop {
        let states = process.health.snapshot();
        let waiting = waiting(&states, &process.sinks, awaited.own, began.elapsed());
        let is_late = awaited.within.is_some_and(|within| began.elapsed() >= within);
        if waiting.is_empty() || (is_late && waiting.keys().all(|name| process.sinks.contains(*name))) {
            return Ok(away(&states, &process.sinks));
        }
        anyhow::ensure!(!is_late, "not everything answers after {} s: {waiting:?}", began.elapsed().as_secs());
        sleep(PERIOD).await;
    }
}

/// The components that we still wait for. A broken one is not among them: a person must act, and the others work
/// without it.
fn waiting<'a>(
    states: &'a BTreeMap<String, State>,
    sinks: &BTreeSet<String>,
    own: &[&str],
    elapsed: Duration,
) -> BTreeMap<&'a str, &'a State> {
    let waits = |name: &str, state: &State| {
        let may_be_away = sinks.contains(name) && !own.contains(&name);
        match state {
            State::Healthy | State::Broken(_) | State::Paused(_) => false,
            State::Degraded(_) => !may_be_away,
            State::Starting => !may_be_away || elapsed < SINK_ANSWERS_WITHIN,
        }
    };
    let awaited = states.iter().filter(|(name, state)| {
        // No incoming delivery needs recovery or what is asked elsewhere, so do not wait for these.
        ![recovery::COMPONENT, collect::COMPONENT].iter().any(|own| name.starts_with(own)) && waits(name, state)
    });
    awaited.map(|(name, state)| (name.as_str(), state)).collect()
}

fn away(states: &BTreeMap<String, State>, sinks: &BTreeSet<String>) -> BTreeMap<String, String> {
    let why = |state: &State| match state {
        State::Healthy => None,
        State::Starting => Some("it has not answered yet".to_owned()),
        State::Paused(why) => Some(format!("paused {why}")),
        State::Degraded(why) | State::Broken(why) => Some(why.clone()),
    };
    let of_sinks = states.iter().filter(|(name, _)| sinks.contains(*name));
    of_sinks.filter_map(|(name, state)| Some((name.clone(), why(state)?))).collect()
}

pub(crate) fn tell(away: &BTreeMap<String, String>) {
    for (component, why) in away {
        tracing::warn!(
            component,
            why,
            "running without this sink; its messages wait in the stream and are delivered later"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sink_of_others_may_be_away() {
        let sinks = BTreeSet::from(["jira".to_owned(), "clickhouse".to_owned()]);
        let late = SINK_ANSWERS_WITHIN;
        let away = || State::Degraded("away".to_owned());
        let broken = || State::Broken("no such table".to_owned());
        for (name, state, elapsed, expected) in [
            ("normalize", State::Starting, late, true),
            ("normalize", away(), late, true),
            ("normalize", broken(), Duration::ZERO, false),
            ("normalize", State::Healthy, Duration::ZERO, false),
            ("jira", State::Starting, Duration::ZERO, true),
            ("jira", State::Starting, late, false),
            ("jira", away(), Duration::ZERO, false),
            ("clickhouse", State::Starting, late, true),
            ("clickhouse", away(), late, true),
            ("clickhouse", broken(), Duration::ZERO, false),
            (recovery::COMPONENT, away(), Duration::ZERO, false),
            ("collect:ndjson.folder", away(), Duration::ZERO, false),
        ] {
            let states = BTreeMap::from([(name.to_owned(), state.clone())]);
            let waits = !waiting(&states, &sinks, &["clickhouse"], elapsed).is_empty();
            assert_eq!(waits, expected, "{name} {state:?} after {elapsed:?}");
        }
    }
}
