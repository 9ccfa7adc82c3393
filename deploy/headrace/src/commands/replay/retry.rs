//! Retries of a replay when a server is away. They end at some time, because a person waits for the replay.

use anyhow::Context as _;
use headrace_runtime::fault::{Fault, FaultClass};
use headrace_runtime::retry::{Attempt, RetryPolicy};
use tokio::time::sleep;

use super::status_line::StatusLine;

/// The policy, and the line that tells a person about it.
pub(super) struct Retry<'a> {
    pub(super) policy: RetryPolicy,
    pub(super) status_line: &'a mut StatusLine,
}

impl Retry<'_> {
    /// Tries until the call succeeds or can never succeed. In the second case, it returns the poison.
    ///
    /// # Errors
    /// When it failed too often, or a person must act.
    pub(super) async fn attempt<T>(
        &mut self,
        what: &str,
        attempt: impl AsyncFn() -> Result<T, Fault>,
    ) -> anyhow::Result<Result<T, Fault>> {
        let mut failures = 0;
        loop {
            match attempt().await {
                Ok(done) => return Ok(Ok(done)),
                Err(poison @ Fault { class: FaultClass::Poison(_), .. }) => return Ok(Err(poison)),
                Err(fault) => {
                    failures += 1;
                    self.rest(what, fault, failures).await?;
                }
            }
        }
    }

    /// Waits after failure number `failures`.
    ///
    /// # Errors
    /// The fault itself, if another attempt makes no sense.
    pub(super) async fn rest(&mut self, what: &str, fault: Fault, failures: u32) -> anyhow::Result<()> {
        let FaultClass::Transient { retry_after } = fault.class else {
            return Err(fault.source).with_context(|| format!("cannot {what}"));
        };
        if failures >= self.policy.attempts_max {
            return Err(fault.source).with_context(|| format!("cannot {what}, tried {failures} times"));
        }
        let pause = self.policy.backoff(Attempt(failures)).max(retry_after.unwrap_or_default());
        self.status_line.print(&format!("cannot {what}; again in {:.1} s: {:#}", pause.as_secs_f64(), fault.source));
        sleep(pause).await;
        Ok(())
    }
}
