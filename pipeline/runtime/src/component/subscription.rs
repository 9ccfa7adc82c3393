//! Which messages a component takes.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::broker::Stream;

/// Which messages a component takes, and on which terms.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// The durable consumer's name, which is the component's.
    pub component: String,
    /// The stream.
    pub stream: Stream,
    /// Subjects; empty means all of the stream.
    pub filters: Vec<String>,
    /// How long a message may be held without an acknowledgement, of any kind, before the broker gives it to another.
    pub ack_wait: Duration,
    /// Messages that may be unsettled at once, over all processes.
    pub unsettled_max: usize,
    /// The sink that it is a part of, if it is one.
    pub sink: Option<Owner>,
}

/// A configured sink, as the owner of a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its name in the configuration.
    pub instance: String,
    /// Its kind.
    pub kind: String,
    /// Where it begins when it is new.
    pub start: Start,
    /// What becomes of it when it is far behind.
    pub when_behind: WhenBehind,
}

/// What becomes of a sink that is so far behind that its stream fills up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenBehind {
    /// The stream waits for it.
    Wait,
    /// The stream waits for it, because it is the store from which the others catch up.
    Store {
        /// Where the store is: a hash of its address and its database.
        place: u64,
    },
    /// It is set aside, and catches up from the store later.
    SetAside,
}

/// Where a sink begins when it is new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// At the oldest message that is stored.
    #[default]
    Stored,
    /// At the next message: it gets nothing that was stored before.
    Now,
}
