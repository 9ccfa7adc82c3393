//! Which components work, for `/readyz`, the metric `headrace_healthy` and the people who read them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use metrics::gauge;
use serde::Serialize;

use crate::observe::metrics::HEALTHY;

/// The state of one component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", content = "why", rename_all = "snake_case")]
pub enum State {
    /// It has not yet reached what it needs.
    Starting,
    /// It works.
    Healthy,
    /// It recovers by itself: the other side is away or slow.
    Degraded(String),
    /// A person must act; the text says on what.
    Broken(String),
    /// A person lets it rest.
    Paused(String),
}

/// The states of all components of a process. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct Health(Arc<Mutex<BTreeMap<String, State>>>);

impl Health {
    /// A process without components yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Names a component. It is [`State::Starting`] until it reports something else.
    #[must_use]
    pub fn register(&self, component: &str) -> ComponentHealth {
        let own = ComponentHealth { component: component.to_owned(), all: self.clone() };
        own.set(State::Starting);
        own
    }

    /// Every component's state, by name.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<String, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether every component works.
    #[must_use]
    pub fn all_healthy(&self) -> bool {
        self.snapshot().values().all(|state| *state == State::Healthy)
    }
}

/// With this a component reports its state.
#[derive(Clone)]
pub struct ComponentHealth {
    component: String,
    all: Health,
}

impl ComponentHealth {
    /// It works.
    pub fn healthy(&self) {
        self.set(State::Healthy);
    }

    /// It will recover by itself.
    pub fn degraded(&self, why: impl Into<String>) {
        self.set(State::Degraded(why.into()));
    }

    /// A person must act.
    pub fn broken(&self, why: impl Into<String>) {
        self.set(State::Broken(why.into()));
    }

    /// A person lets it rest.
    pub fn paused(&self, why: impl Into<String>) {
        self.set(State::Paused(why.into()));
    }

    fn set(&self, state: State) {
        let mut states = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        // This is called after every batch, and an unchanged state is not worth a metric update or a log line.
        let before = states.get(&self.component);
        if before == Some(&state) {
            return;
        }
        let component = self.component.as_str();
        gauge!(HEALTHY, "component" => self.component.clone()).set(if state == State::Healthy { 1.0 } else { 0.0 });
        match &state {
            State::Starting => {}
            State::Paused(why) => tracing::info!(component, why, "component is paused"),
            State::Healthy => tracing::info!(component, "component is healthy"),
            State::Degraded(why) => tracing::warn!(component, why, "component is degraded and retries by itself"),
            State::Broken(why) => {
                tracing::error!(component, why, "component is broken until a person acts; nothing is lost");
            }
        }
        states.insert(self.component.clone(), state);
    }
}
