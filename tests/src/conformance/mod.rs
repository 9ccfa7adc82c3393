//! The suites that prove what the README promises about every stage and sink, on a real nats-server.
//!
//! A suite must run the real loop ([`headrace_runtime::consume::sink::SinkLoop`],
//! [`headrace_runtime::consume::chain::ChainLoop`]). It checks how each message was settled (acknowledged,
//! dead-lettered with a reason, delivered again), and that nothing is lost.

mod calls;
pub mod receiver;
pub mod sink;
pub mod stage;

use std::time::Duration;

use headrace_runtime::retry::RetryPolicy;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::harness::CEILING;

/// Quick retries, and few attempts. If an outage cost attempts, these would soon be used up, and the suite would
/// notice.
pub const POLICY: RetryPolicy = RetryPolicy {
    attempts_max: 5,
    backoff_min: Duration::from_millis(10),
    backoff_max: Duration::from_millis(100),
    retry_after_max: RetryPolicy::RETRY_AFTER_MAX,
};

/// How long the broker waits for a stage to settle a message. Then it redelivers what a killed worker had.
pub const ACK_WAIT: Duration = Duration::from_secs(2);

/// The consumer's name in every suite.
pub const COMPONENT: &str = "conformance";

/// The workers at work.
pub struct Workers {
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Workers {
    /// Runs `count` workers, and restarts those that end with an error, as the supervisor does.
    pub fn run<F, Fut>(count: usize, worker: F) -> Self
    where
        F: Fn(CancellationToken) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for _ in 0..count {
            let (worker, stop) = (worker.clone(), stop.clone());
            tasks.spawn(async move {
                while worker(stop.clone()).await.is_err() && !stop.is_cancelled() {
                    sleep(POLICY.backoff_max).await;
                }
            });
        }
        Self { stop, tasks }
    }

    /// Asks them to stop.
    pub fn ask_to_stop(&self) {
        self.stop.cancel();
    }

    /// Asks them to stop and waits until they have.
    pub async fn stop(mut self) {
        self.ask_to_stop();
        let stopped = async { while self.tasks.join_next().await.is_some() {} };
        tokio::time::timeout(CEILING, stopped).await.expect("workers stop when asked");
    }

    /// Aborts them at once, as `kill -9` would.
    pub async fn kill(mut self) {
        self.tasks.shutdown().await;
    }
}
