//! Which components work, for `/readyz`, the metric `headrace_healthy` and the people who read them.

use std::collections::{BTreeMap, VecDeque};
use std::mem::discriminant;
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
pub struct Health(Arc<Mutex<BTreeMap<String, Standing>>>);

/// The most reasons that are remembered of a component while it does not change otherwise.
const TOLD_MAX: usize = 8;

/// A component's state, and what was told of it.
#[derive(Default)]
struct Standing {
    state: Option<State>,
    /// The reasons that were told since it was last in a state of another kind. Several may hold at once, and then the
    /// newest alternates.
    told: VecDeque<State>,
}

impl Standing {
    /// Takes note of `state`. True if it is worth a line of the log.
    fn is_news(&mut self, state: &State) -> bool {
        if self.state.as_ref().map(discriminant) != Some(discriminant(state)) {
            self.told.clear();
        }
        self.state = Some(state.clone());
        if self.told.contains(state) {
            return false;
        }
        self.told.truncate(TOLD_MAX - 1);
        self.told.push_front(state.clone());
        true
    }
}

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
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(|(name, standing)| Some((name.clone(), standing.state.clone()?))).collect()
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
        let standing = states.entry(self.component.clone()).or_default();
        if standing.state.as_ref() == Some(&state) {
            return;
        }
        let component = self.component.as_str();
        gauge!(HEALTHY, "component" => self.component.clone()).set(if state == State::Healthy { 1.0 } else { 0.0 });
        if !standing.is_news(&state) {
            return;
        }
        match &state {
            State::Starting => {}
            State::Paused(why) => tracing::info!(component, why, "component is paused"),
            State::Healthy => tracing::info!(component, "component is healthy"),
            State::Degraded(why) => tracing::warn!(component, why, "component is degraded and retries by itself"),
            State::Broken(why) => {
                tracing::error!(component, why, "component is broken until a person acts; nothing is lost");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_that_alternate_are_told_once_each() {
        let degraded = |why: &str| State::Degraded(why.to_owned());
        let mut standing = Standing::default();
        let mut told = |state: State| standing.is_news(&state);
        let full = ["EVENTS is full", "EVENTS is full (temporary)"].map(degraded);
        assert!(full.iter().all(|state| told(state.clone())));
        assert!((0..1_000).all(|turn| !told(full[turn % 2].clone())));
        assert!(told(degraded("no connection")), "another reason");
        assert!(!told(full[0].clone()) && told(State::Healthy) && told(full[0].clone()), "it worked meanwhile");
        assert!(told(State::Broken("EVENTS is full".to_owned())), "another kind of state");
        for reason in 0..TOLD_MAX + 1 {
            assert!(told(State::Broken(reason.to_string())), "{reason}");
        }
        assert!(told(State::Broken("0".to_owned())), "no more are remembered");
        assert_eq!(standing.told.len(), TOLD_MAX);
    }

    #[test]
    fn the_newest_reason_is_shown() {
        let health = Health::new();
        let component = health.register("normalize");
        for why in ["one", "other", "one"] {
            component.degraded(why);
            assert_eq!(health.snapshot()["normalize"], State::Degraded(why.to_owned()));
        }
    }
}
