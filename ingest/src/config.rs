//! Configuration of the gateway. Checks need no network: [`Config::validate`] finds what is wrong.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use headrace_runtime::config::Invalid;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{github, ndjson};

/// GitHub waits 10 s for an answer (GitHub's webhook best practices). It would not hear a later one.
const ANSWER_MAX_MS: u64 = 8_000;
/// Longer than any load balancer keeps an idle connection.
const HEAD_MAX_MS: u64 = 600_000;
/// GitHub caps payloads at 25 MB.
const BODY_MAX_BYTES: usize = 25 << 20;
/// The largest body that may be set, in bytes: a gibibyte. It must be held in memory, more than once.
const BODY_LARGEST_BYTES: usize = 1 << 30;
/// The most connections and deliveries that may be set: Linux lets a process open 1,048,576 files at most by default.
const CONNECTIONS_LARGEST: usize = 1_000_000;

/// The gateway.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where to listen; port 0 takes any free one. TLS is the load balancer's work.
    pub listen: SocketAddr,
    /// Largest body in bytes; GitHub sends at most 25 MiB.
    #[schemars(range(min = 1, max = BODY_LARGEST_BYTES))]
    pub body_max_bytes: usize,
    /// Every request is answered within this many milliseconds: GitHub waits for 10 s.
    #[schemars(range(min = 100, max = ANSWER_MAX_MS))]
    pub answer_max_ms: u64,
    /// A connection is closed when it does not complete the head of a request within this many milliseconds, even if
    /// bytes trickle in. The same holds for a connection without any request.
    #[schemars(range(min = 100, max = HEAD_MAX_MS))]
    pub head_max_ms: u64,
    /// Most connections held at once. The process raises its limit of open files to the hard limit; if that still
    /// allows fewer connections, fewer are held. When all places are taken, new connections replace those that have
    /// waited for their peer for half a second or longer. These are taken from the address that has most of them: first
    /// those without a complete head, then those whose body comes slowest, last those whose latest request was
    /// verified. Nobody is dropped while there is room, so a load balancer, whose connections all have one address,
    /// needs no exception.
    #[schemars(range(min = 1, max = CONNECTIONS_LARGEST))]
    pub connections_max: usize,
    /// Most verified deliveries being stored at once. A further one waits for a second and is then answered 503. A
    /// request takes no such place before its body has arrived and its signature is verified.
    #[schemars(range(min = 1, max = CONNECTIONS_LARGEST))]
    pub in_flight_max: usize,
    /// Most bytes of bodies and their records held at once, at least `body_max_bytes`. Less where `memory.budget_mb` allows
    /// no more. A body takes room for what has arrived, never for what is announced. When there is no room for the next bytes, the body that comes slowest is dropped after half a
    /// second. A request that finds no room within a second is answered 503.
    #[schemars(range(max = u32::MAX))]
    pub in_flight_max_bytes: usize,
    /// Most verified requests per second, over all senders. Further ones are answered 429. Unset means no limit.
    #[schemars(range(max = u32::MAX))]
    pub requests_per_second_max: Option<NonZeroU32>,
    /// GitHub webhooks.
    pub github: github::config::Config,
    /// Newline-delimited JSON. Off without a token.
    pub ndjson: Option<ndjson::config::Config>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            body_max_bytes: BODY_MAX_BYTES,
            answer_max_ms: ANSWER_MAX_MS,
            head_max_ms: 30_000,
            connections_max: 4_096,
            in_flight_max: 1_024,
            in_flight_max_bytes: 128 << 20,
            requests_per_second_max: None,
            github: github::config::Config::default(),
            ndjson: None,
        }
    }
}

impl Config {
    /// `answer_max_ms` as a duration.
    #[must_use]
    pub const fn answer_max(&self) -> Duration {
        Duration::from_millis(self.answer_max_ms)
    }

    /// `head_max_ms` as a duration.
    #[must_use]
    pub const fn head_max(&self) -> Duration {
        Duration::from_millis(self.head_max_ms)
    }

    /// What is wrong with these values, below `path`, apart from those of the sources: [`crate::sources::validate`].
    #[must_use]
    pub fn validate(&self, path: &str) -> Vec<Invalid> {
        let mut problems = Vec::new();
        let mut refuse = |field: &str, message: String| problems.push(Invalid::new(format!("{path}.{field}"), message));
        let (bytes, body) = (self.in_flight_max_bytes, self.body_max_bytes);
        if bytes < body {
            refuse("in_flight_max_bytes", format!("expected no less than `body_max_bytes` ({body}), found {bytes}"));
        }
        problems
    }
}
