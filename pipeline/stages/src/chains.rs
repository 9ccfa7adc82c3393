//! Which stages run, in which chains, and the registration of each.
//!
//! By default all stages are fused. Configuration may cut the chain; then `events.<handover>.…` carries the hand-over,
//! and each part scales by itself.

use headrace_runtime::broker::Stream;
use headrace_runtime::component::stage::{BoxedStage, fuse};
use headrace_runtime::component::subscription::Subscription;
use headrace_runtime::config::Invalid;
use headrace_runtime::message::payload::RawDelivery;
use headrace_schemas::event::Event;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::enrich::Enrich;
use crate::normalize::{Normalize, Verified, Verify};
use crate::score::Score;
use crate::{alert, enrich, score};

/// The stages between RAW and a scored event, in their order. A new stage is a line here and one in
/// [`build_one`].
pub const ORDER: [&str; 3] = ["normalize", "enrich", "score"];
/// The stage behind the chains, with a consumer of its own on the scored events that a rule matched.
pub const ALERT: &str = "alert";

/// Configuration of the stages.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How the stages are grouped. Stages of one group run fused in one loop; between groups events go
    /// through NATS, so that each group can have its own processes.
    /// Example: `[["normalize"], ["enrich", "score"]]`.
    pub chains: Vec<Vec<String>>,
    /// Readers of each chain in each process; each works on up to 256 events at a time.
    #[schemars(range(min = 1, max = 64))]
    pub lanes: usize,
    /// How long a process may hold a message without an acknowledgement, of any kind, before another gets it, in
    /// seconds.
    #[schemars(range(min = 1, max = 600))]
    pub ack_wait_s: u64,
    /// Whether normalize checks each stored signature again, with the secrets of `ingest.github`. Then a delivery goes
    /// to DEAD as `unverified` when somebody other than the gateway has put it into RAW, or when the secret that signed
    /// it is no longer there. It costs about a millisecond for each MiB of bodies.
    pub verify: bool,
    /// What is known about actors and repositories beyond the event.
    pub enrich: enrich::Config,
    /// Rules and risk.
    pub score: score::Config,
    /// Alerts.
    pub alert: alert::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            chains: vec![ORDER.map(str::to_owned).to_vec()],
            lanes: 4,
            ack_wait_s: 30,
            verify: false,
            enrich: enrich::Config::default(),
            score: score::Config::default(),
            alert: alert::Config::default(),
        }
    }
}

impl Config {
    /// What is wrong with these values, below `path`.
    #[must_use]
    pub fn validate(&self, path: &str) -> Vec<Invalid> {
        let mut problems = Vec::new();
        let flat: Vec<&str> = self.chains.iter().flatten().map(String::as_str).collect();
        if flat != ORDER || self.chains.iter().any(Vec::is_empty) {
            let expected = ORDER.join(", ");
            let message = format!(
                "expected each of {expected} once, in this order, in non-empty groups; found {:?}",
                self.chains
            );
            problems.push(Invalid::new(format!("{path}.chains"), message));
        }
        problems.extend(self.enrich.validate(&format!("{path}.enrich")));
        problems.extend(self.score.validate(&format!("{path}.score")));
        problems
    }

    fn subscription(&self, component: &str, stream: Stream, filters: Vec<String>) -> Subscription {
        Subscription {
            component: component.to_owned(),
            stream,
            filters,
            ack_wait: std::time::Duration::from_secs(self.ack_wait_s),
            unsettled_max: 16_384,
            sink: None,
        }
    }

    /// The consumer of the stage alert.
    #[must_use]
    pub fn alert_subscription(&self) -> Subscription {
        self.subscription(ALERT, Stream::Events, headrace_schemas::subject::matched())
    }
}

/// A chain ready to run.
pub struct Chain {
    /// Which messages it takes. The consumer is named after the chain's first stage, so that a chain that is cut or
    /// fused anew goes on where it was.
    pub subscription: Subscription,
    /// Its stages, fused.
    pub stages: Stages,
}

/// The stages of a chain, by what they take.
pub enum Stages {
    /// The chain that begins with normalize.
    FromRaw(BoxedStage<RawDelivery, Event>),
    /// A chain that goes on with another's events.
    FromEvents(BoxedStage<Event, Event>),
}

/// Builds the configured chains; `config` must have been validated. With `verify`, normalize takes only deliveries that
/// pass it.
///
/// # Errors
/// When a rule or a pattern cannot be used.
pub fn build(config: &Config, verify: Option<&Verify>) -> anyhow::Result<Vec<Chain>> {
    let mut chains = Vec::new();
    let mut handover = None;
    for names in &config.chains {
        let first = names.first().map(String::as_str).unwrap_or_default();
        let mut stages: Option<Stages> = None;
        for name in names {
            let next = build_one(name, config, verify)?;
            stages = Some(match (stages, next) {
                (None, next) => next,
                (Some(Stages::FromRaw(before)), Stages::FromEvents(next)) => Stages::FromRaw(fuse(before, next)),
                (Some(Stages::FromEvents(before)), Stages::FromEvents(next)) => Stages::FromEvents(fuse(before, next)),
                (Some(_), Stages::FromRaw(_)) => anyhow::bail!("the stage {name} can only be the first"),
            });
        }
        let stages = stages.ok_or_else(|| anyhow::anyhow!("a chain without stages"))?;
        let subscription = match handover {
            None => config.subscription(first, Stream::Raw, Vec::new()),
            Some(before) => config.subscription(first, Stream::Events, vec![format!("events.{before}.>")]),
        };
        handover = Some(match &stages {
            Stages::FromRaw(stage) => stage.handover(),
            Stages::FromEvents(stage) => stage.handover(),
        });
        chains.push(Chain { subscription, stages });
    }
    Ok(chains)
}

/// Builds all of [`ORDER`] as one stage, however the configuration cuts the chain.
///
/// # Errors
/// When a rule or a pattern cannot be used.
pub fn build_whole(config: &Config, verify: Option<&Verify>) -> anyhow::Result<BoxedStage<RawDelivery, Event>> {
    let fused = Config { chains: Config::default().chains, ..config.clone() };
    match build(&fused, verify)?.pop().map(|chain| chain.stages) {
        Some(Stages::FromRaw(stage)) => Ok(stage),
        Some(Stages::FromEvents(_)) | None => anyhow::bail!("expected a chain that begins with the bodies"),
    }
}

fn build_one(name: &str, config: &Config, verify: Option<&Verify>) -> anyhow::Result<Stages> {
    Ok(match name {
        "normalize" => Stages::FromRaw(match verify {
            Some(verify) => fuse(Box::new(Verified(Verify::clone(verify))), Box::new(Normalize)),
            None => Box::new(Normalize),
        }),
        "enrich" => Stages::FromEvents(Box::new(Enrich::new(&config.enrich)?)),
        "score" => Stages::FromEvents(Box::new(Score::from_config(&config.score)?)),
        other => anyhow::bail!("there is no stage `{other}`"),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_folder_of_stages_is_registered() {
        let folders: BTreeSet<String> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))
            .unwrap()
            .map(Result::unwrap)
            .filter(|entry| entry.file_type().unwrap().is_dir())
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        let registered: BTreeSet<String> = ORDER.into_iter().chain([ALERT]).map(str::to_owned).collect();
        assert_eq!(folders, registered);
    }

    #[test]
    fn a_cut_chain_hands_over_by_subject() {
        let cut = |chains: &[&[&str]]| Config {
            chains: chains.iter().map(|names| names.iter().map(|&name| name.to_owned()).collect()).collect(),
            ..Config::default()
        };
        let built = build(&cut(&[&["normalize"], &["enrich", "score"]]), None).unwrap();
        assert_eq!(built[0].subscription.component, "normalize");
        assert_eq!(built[1].subscription.filters, ["events.normalized.>"]);
        assert_eq!(build(&Config::default(), None).unwrap().len(), 1);
        let whole = build_whole(&cut(&[&["normalize"], &["enrich", "score"]]), None).unwrap();
        assert_eq!(whole.handover(), "scored");
        for wrong in [
            &[][..],
            &[&["score"][..]],
            &[&["normalize", "score", "enrich"]],
            &[&["normalize", "enrich", "score"], &[]],
        ] {
            assert_eq!(cut(wrong).validate("pipeline")[0].path, "pipeline.chains", "{wrong:?}");
        }
        assert!(Config::default().validate("pipeline").is_empty());
    }
}
