//! alert: rule matches → alerts, one per fingerprint (tenant, rule, actor, repository) and window.
//!
//! What an alert has counted is kept in JetStream KV under its id and changed by compare-and-set. So any process can go
//! on with it, and an event that comes again is not counted again.

mod accumulator;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use headrace_runtime::component::stage::Stage;
use headrace_runtime::component::stage::Verdict;
use headrace_runtime::fault::Fault;
use headrace_runtime::state::StateStore;
use headrace_schemas::alert::Alert;
use headrace_schemas::event::{Event, RuleMatch};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::accumulator::{Accumulator, alert_id};

/// How often we read an alert again when another process changes it at the same time.
const CONFLICTS_MAX: usize = 16;

/// Configuration of alert.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Matches of the same rule by the same actor in the same repository within this many minutes are
    /// one alert. Windows begin at whole multiples of it, UTC. What counts is when the event was first sent. What was
    /// counted is kept for seven days.
    #[schemars(range(min = 1, max = 8_640))]
    pub window_minutes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { window_minutes: 60 }
    }
}

/// The stage.
pub struct Alerts {
    state: StateStore,
    window: Duration,
}

impl Alerts {
    /// The stage on `state`.
    #[must_use]
    pub const fn new(config: Config, state: StateStore) -> Self {
        Self { state, window: Duration::from_secs(config.window_minutes * 60) }
    }

    /// Adds `found` to the alert `id`, and returns the alert as it is then. When nothing is new, such as when the
    /// events come again after a crash, it returns the alert as it was, so its message is the same.
    async fn count(&self, id: &str, found: &[(&Event, &RuleMatch)]) -> Result<Alert, Fault> {
        let key = format!("alert.{id}");
        for _ in 0..CONFLICTS_MAX {
            let entry = self.state.load(&key).await?;
            let known = entry.as_ref().and_then(|entry| serde_json::from_slice::<Accumulator>(&entry.value).ok());
            let mut accumulator = known.unwrap_or_default();
            if !accumulator.add(id, found, self.window) {
                return accumulator
                    .into_alert()
                    .ok_or_else(|| Fault::transient(anyhow::anyhow!("alert {id} has no events")));
            }
            let value = serde_json::to_vec(&accumulator).map_err(Fault::transient)?;
            if self.state.save(&key, Bytes::from(value), entry.as_ref()).await? {
                return accumulator
                    .into_alert()
                    .ok_or_else(|| Fault::transient(anyhow::anyhow!("alert {id} has no events")));
            }
        }
        Err(Fault::transient(anyhow::anyhow!("alert {id} was changed by others {CONFLICTS_MAX} times in a row")))
    }
}

#[async_trait]
impl Stage for Alerts {
    type In = Event;
    type Out = Alert;

    fn handover(&self) -> &'static str {
        "alerted"
    }

    /// Events of one alert are counted together. The last of them carries the alert's message; the others are done once
    /// they are counted.
    async fn process(&self, batch: Vec<Event>) -> Vec<Verdict<Alert>> {
        let mut groups: BTreeMap<String, Vec<(usize, &RuleMatch)>> = BTreeMap::new();
        for (index, event) in batch.iter().enumerate() {
            for found in event.assessment.iter().flat_map(|assessment| &assessment.matches) {
                groups.entry(alert_id(event, found, self.window)).or_default().push((index, found));
            }
        }
        let events = batch.as_slice();
        let counted = groups.iter().map(|(id, members)| async move {
            let found: Vec<_> = members.iter().map(|&(index, found)| (&events[index], found)).collect();
            self.count(id, &found).await
        });
        let counted = join_all(counted).await;
        let mut verdicts: Vec<Verdict<Alert>> = batch.iter().map(|_| Verdict::Forward(Vec::new())).collect();
        for (members, result) in groups.values().zip(counted) {
            match result {
                Ok(alert) => {
                    let last = members.last().map_or(0, |&(index, _)| index);
                    if let Verdict::Forward(alerts) = &mut verdicts[last] {
                        alerts.push(alert);
                    }
                }
                Err(fault) => {
                    for &(index, _) in members {
                        verdicts[index] = Verdict::Fail(Fault::transient(anyhow::anyhow!(fault.to_string())));
                    }
                }
            }
        }
        verdicts
    }
}
