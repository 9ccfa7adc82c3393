//! enrich: adds what is known at that time about actor, repository and network, beyond the body.
//!
//! Each kind of knowledge is a [`Knowledge`]. The asset list is the first, GitHub's API is to be the next. When one of
//! them is away, it answers with a fault and the event waits for it.

mod assets;

use async_trait::async_trait;
use headrace_runtime::component::stage::Stage;
use headrace_runtime::component::stage::Verdict;
use headrace_runtime::config::Invalid;
use headrace_runtime::fault::Fault;
use headrace_schemas::event::{Enrichment, Event};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::assets::Asset;
use self::assets::Assets;

/// Configuration of enrich.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What matters to the company and who answers for it. An entry applies to the events that all of
    /// its patterns match.
    #[schemars(example = serde_json::json!([
        { "name": "payments", "repository": "acme/payments-*", "owner": "team-payments", "criticality": "high" },
    ]))]
    pub assets: Vec<Asset>,
}

impl Config {
    /// What is wrong with these values, below `path`.
    #[must_use]
    pub fn validate(&self, path: &str) -> Vec<Invalid> {
        self.assets
            .iter()
            .enumerate()
            .flat_map(|(index, asset)| asset.validate(&format!("{path}.assets[{index}]")))
            .collect()
    }
}

/// Something that knows more about an event than its body says.
#[async_trait]
trait Knowledge: Send + Sync {
    /// Adds to `enrichment` what it knows about `event`.
    async fn add(&self, event: &Event, enrichment: &mut Enrichment) -> Result<(), Fault>;
}

/// The stage.
pub struct Enrich {
    knowledge: Vec<Box<dyn Knowledge>>,
}

impl Enrich {
    /// The stage as configured.
    ///
    /// # Errors
    /// When a pattern cannot be compiled. [`Config::validate`] finds that beforehand.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        Ok(Self { knowledge: vec![Box::new(Assets::new(&config.assets)?)] })
    }

    async fn enrich(&self, mut event: Event) -> Result<Event, Fault> {
        let mut enrichment = Enrichment::default();
        for knowledge in &self.knowledge {
            knowledge.add(&event, &mut enrichment).await?;
        }
        event.enrichment = (enrichment != Enrichment::default()).then_some(enrichment);
        Ok(event)
    }
}

#[async_trait]
impl Stage for Enrich {
    type In = Event;
    type Out = Event;

    fn handover(&self) -> &'static str {
        "enriched"
    }

    async fn process(&self, batch: Vec<Event>) -> Vec<Verdict<Event>> {
        let mut verdicts = Vec::with_capacity(batch.len());
        for event in batch {
            verdicts.push(match self.enrich(event).await {
                Ok(event) => Verdict::Forward(vec![event]),
                Err(fault) => Verdict::Fail(fault),
            });
        }
        verdicts
    }
}
