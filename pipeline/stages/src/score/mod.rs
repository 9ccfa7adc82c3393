//! score: says which rules each event matches, how bad that is, and why.
//!
//! Rules are Sigma rules over [`fields`]. [`rules`] loads them, and [`risk`] weighs the matches. The stage keeps
//! nothing between events, so any number of processes may score. It never drops an event: one that no rule matches goes
//! on with risk 0. Patterns over several events are the work of alert.

mod builtin;
#[cfg(test)]
mod content_tests;
mod evidence;
mod field_names;
mod fields;
mod files;
mod risk;
mod rules;

use std::collections::HashMap;

use async_trait::async_trait;
use headrace_runtime::component::stage::Stage;
use headrace_runtime::component::stage::Verdict;
use headrace_runtime::observe::metrics::RULE_MATCHES;
use headrace_schemas::event::{Assessment, Event};
use metrics::{Counter, counter};

pub use files::Config;
pub use rules::{Problem, Refused, Rules, Skipped};

/// The stage.
#[derive(Debug)]
pub struct Score {
    rules: Rules,
    /// Matches of each rule, by its id.
    matched: HashMap<String, Counter>,
}

impl Score {
    /// Scores by `rules`.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        let counter = |id: &str| (id.to_owned(), counter!(RULE_MATCHES, "rule" => id.to_owned()));
        let matched = rules.ids().map(counter).collect();
        Self { rules, matched }
    }

    /// The stage as configured.
    ///
    /// # Errors
    /// When a rule cannot be used. [`Config::validate`] finds that beforehand.
    pub fn from_config(config: &Config) -> Result<Self, Refused> {
        let rules = Rules::load(config)?;
        if let Some(first) = rules.skipped().first() {
            tracing::warn!(
                count = rules.skipped().len(),
                file = first.file,
                reason = first.reason,
                "detection rules that cannot apply to any source's events are left out; the first is named"
            );
        }
        tracing::info!(count = rules.len(), "detection rules loaded");
        Ok(Self::new(rules))
    }

    /// What the rules say about `event`.
    #[must_use]
    pub fn assess(&self, event: &Event) -> Assessment {
        let matches = self.rules.matches(event);
        matches.iter().filter_map(|found| self.matched.get(&found.rule)).for_each(|matched| matched.increment(1));
        let criticality = event.enrichment.as_ref().and_then(|enrichment| enrichment.criticality);
        risk::assess(matches, criticality)
    }
}

#[async_trait]
impl Stage for Score {
    type In = Event;
    type Out = Event;

    fn handover(&self) -> &'static str {
        "scored"
    }

    async fn process(&self, batch: Vec<Event>) -> Vec<Verdict<Event>> {
        let score = |mut event: Event| {
            event.assessment = Some(self.assess(&event));
            Verdict::Forward(vec![event])
        };
        batch.into_iter().map(score).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[tokio::test]
    async fn every_event_goes_on_with_what_the_rules_say() {
        let score = Score::from_config(&Config::default()).unwrap();
        let batch = vec![fixture::event("repository", Some("deleted")), fixture::event("star", Some("created"))];
        let risk = |event: &Event| event.assessment.as_ref().unwrap().risk;
        let verdicts = score.process(batch).await;
        let risks = verdicts.iter().map(|verdict| match verdict {
            Verdict::Forward(events) => events.iter().map(risk).collect(),
            other => panic!("{other:?}"),
        });
        assert_eq!(risks.collect::<Vec<Vec<i32>>>(), [vec![65], vec![0]]);
    }
}
