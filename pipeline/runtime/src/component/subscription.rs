//! Which messages a component takes.

use std::time::Duration;

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
}
