//! How calls to the receiver of an instance are repeated and limited. The runtime does both, for every kind alike.

use std::time::Duration;

use headrace_runtime::config::{BACKOFF_MAX_MS, Invalid, Retry};
use headrace_runtime::limit::{self, BreakerPolicy, Limits};
use headrace_runtime::retry::RetryPolicy;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::described::Common;

/// The pauses after failures, in place of those of `[retry]`. What is left out is as there.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct OwnRetry {
    /// Attempts that an event's own temporary failures may cost before it is dead-lettered.
    #[schemars(range(min = 1, max = u32::MAX), example = 5)]
    attempts_max: Option<u32>,
    /// Pause after the first failure, in milliseconds; it doubles with each further one.
    #[schemars(range(min = 1, max = BACKOFF_MAX_MS), example = 200)]
    backoff_min_ms: Option<u64>,
    /// The longest pause, in milliseconds.
    #[schemars(range(min = 1, max = BACKOFF_MAX_MS), example = 10_000)]
    backoff_max_ms: Option<u64>,
    /// The longest pause that the receiver may wish for (`Retry-After`), in seconds.
    #[schemars(range(max = 86_400), example = 3_600)]
    retry_after_max_s: Option<u64>,
}

/// How much the receiver gets at most, from each consumer of the sink and from each process.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Rate {
    /// Most calls in a minute; 0 is no limit. A call may be several requests: see the kind. Example: 300.
    #[schemars(range(max = 60_000_000))]
    calls_per_minute: u64,
    /// Most events or alerts in a second; 0 is no limit. A batch is delivered whole, and what comes after a large one waits
    /// for it. Example: 1000.
    #[schemars(range(max = 1_000_000))]
    events_per_s: u64,
    /// How much of it may be used up at once after a time without calls: what is allowed in so many milliseconds.
    /// Example: 10000.
    #[schemars(range(max = 3_600_000))]
    burst_ms: u64,
}

impl Default for Rate {
    fn default() -> Self {
        Self { calls_per_minute: 0, events_per_s: 0, burst_ms: 1_000 }
    }
}

/// When calls to the receiver stop because they fail: a circuit breaker, which all calls of a process share.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Breaker {
    /// After so many calls in a row that failed as a whole, none is made for a while. Then one is, and if it succeeds, all
    /// go on. Example: 3.
    #[schemars(range(min = 1, max = 1_000))]
    failures_max: u32,
    /// For how long, in milliseconds. Left out, it is the longest pause after a failure (`backoff_max_ms`).
    #[schemars(range(min = 1, max = BACKOFF_MAX_MS), example = 30_000)]
    open_ms: Option<u64>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { failures_max: BreakerPolicy::default().failures_max, open_ms: None }
    }
}

/// How calls of an instance are repeated and limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The pauses after failures.
    pub retry: RetryPolicy,
    /// The rate, and when calls stop.
    pub limits: Limits,
}

impl Common {
    /// How calls are repeated and limited, where `[retry]` is `global`.
    pub(crate) fn terms(&self, global: &Retry) -> Terms {
        let retry = self.retry(global).policy();
        let Rate { calls_per_minute, events_per_s, burst_ms } = self.rate;
        let apart = |time: Duration, count: u64| match u32::try_from(count) {
            Ok(0) | Err(_) => Duration::ZERO,
            Ok(count) => time / count,
        };
        let rate = limit::Rate {
            per_call: apart(Duration::from_secs(60), calls_per_minute),
            per_event: apart(Duration::from_secs(1), events_per_s),
            burst: Duration::from_millis(burst_ms),
        };
        let open = self.breaker.open_ms.map_or(retry.backoff_max, Duration::from_millis);
        let breaker = BreakerPolicy { failures_max: self.breaker.failures_max, open };
        Terms { retry, limits: Limits { rate, breaker } }
    }

    /// `[retry]` with what the instance has in its place.
    fn retry(&self, global: &Retry) -> Retry {
        let OwnRetry { attempts_max, backoff_min_ms, backoff_max_ms, retry_after_max_s } = self.retry;
        Retry {
            attempts_max: attempts_max.unwrap_or(global.attempts_max),
            backoff_min_ms: backoff_min_ms.unwrap_or(global.backoff_min_ms),
            backoff_max_ms: backoff_max_ms.unwrap_or(global.backoff_max_ms),
            retry_after_max_s: retry_after_max_s.unwrap_or(global.retry_after_max_s),
        }
    }

    /// What is wrong with the pauses, where `[retry]` is `global`. What is wrong with that is told elsewhere.
    pub(crate) fn validate_retry(&self, path: &str, global: &Retry) -> Vec<Invalid> {
        let OwnRetry { backoff_min_ms, backoff_max_ms, .. } = self.retry;
        let Retry { backoff_min_ms: min, backoff_max_ms: max, .. } = self.retry(global);
        if max >= min || (backoff_min_ms.is_none() && backoff_max_ms.is_none()) {
            return Vec::new();
        }
        let place = |own: Option<u64>| if own.is_some() { format!("{path}.") } else { String::new() };
        let (field, message) = match backoff_max_ms {
            Some(_) => {
                let least = format!("`{}retry.backoff_min_ms` ({min})", place(backoff_min_ms));
                ("backoff_max_ms", format!("expected no less than {least}, found {max}"))
            }
            None => ("backoff_min_ms", format!("expected no more than `retry.backoff_max_ms` ({max}), found {min}")),
        };
        vec![Invalid::new(format!("{path}.retry.{field}"), message)]
    }

    /// What is wrong with the calls at once. `one_at_a_time` says why the kind makes only one, if it does.
    pub(crate) fn validate_concurrency(&self, path: &str, one_at_a_time: Option<&str>) -> Vec<Invalid> {
        let Some(reason) = one_at_a_time.filter(|_| self.concurrency != 1) else { return Vec::new() };
        let message = format!("expected 1, because {reason}; found {}", self.concurrency);
        vec![Invalid::new(format!("{path}.concurrency"), message)]
    }
}
