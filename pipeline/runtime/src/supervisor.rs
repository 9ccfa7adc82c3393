//! Every task of a process, by name, and the order in which they stop.
//!
//! Nothing else spawns. A task that fails is started again after a pause, and a panic counts as a failure. On shutdown
//! the groups stop in the order of [`Group`]: first no request is accepted, then nothing new is pulled, then the work
//! that is under way finishes within the grace time.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::retry::{Attempt, RetryPolicy};

/// When a task is stopped, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Takes events in.
    Ingest,
    /// Works on events between streams.
    Pipeline,
    /// Carries events out.
    Sinks,
    /// Serves the others: health, metrics, lag.
    Service,
}

const ORDER: [Group; 4] = [Group::Ingest, Group::Pipeline, Group::Sinks, Group::Service];

type TaskFuture = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// Restart pauses of failed tasks: from 0.2 s, doubling, up to 10 s.
const RESTARTS: RetryPolicy = RetryPolicy {
    attempts_max: u32::MAX,
    backoff_min: Duration::from_millis(200),
    backoff_max: Duration::from_secs(10),
    retry_after_max: RetryPolicy::RETRY_AFTER_MAX,
};
/// A task that ran for this long had recovered, so its next failure counts as the first.
const RECOVERED_AFTER: Duration = Duration::from_secs(60);

/// Holds the tasks of a process.
pub struct Supervisor {
    groups: [(CancellationToken, JoinSet<()>); 4],
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

impl Supervisor {
    /// A supervisor without tasks.
    #[must_use]
    pub fn new() -> Self {
        Self { groups: ORDER.map(|_| (CancellationToken::new(), JoinSet::new())) }
    }

    /// The token that is cancelled when `group` must stop.
    #[must_use]
    pub fn stop_token(&self, group: Group) -> CancellationToken {
        self.groups[index(group)].0.clone()
    }

    /// Runs `start` as the task `name` until its group stops. When it fails, it is started again after a pause. When it
    /// returns `Ok`, it is done.
    pub fn spawn<F, Fut>(&mut self, group: Group, name: impl Into<String>, start: F)
    where
        F: Fn(CancellationToken) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (stop, tasks) = &mut self.groups[index(group)];
        let (name, stop) = (name.into(), stop.clone());
        tasks.spawn(async move { keep_running(&name, &stop, |stop| Box::pin(start(stop))).await });
    }

    /// Stops everything in order. Returns whether all finished within `grace`; the rest is cut off, and its messages
    /// come back by redelivery.
    pub async fn shutdown(mut self, grace: Duration) -> bool {
        let deadline = Instant::now() + grace;
        let mut clean = true;
        for (group, (stop, tasks)) in ORDER.iter().zip(&mut self.groups) {
            stop.cancel();
            let finished = timeout_at(deadline, async { while tasks.join_next().await.is_some() {} }).await;
            if finished.is_err() {
                tracing::warn!(?group, left = tasks.len(), "tasks did not stop within the grace time and are cut off");
                tasks.shutdown().await;
                clean = false;
            }
        }
        clean
    }
}

fn index(group: Group) -> usize {
    ORDER.iter().position(|&other| other == group).expect("ORDER lists every group")
}

async fn keep_running(name: &str, stop: &CancellationToken, start: impl Fn(CancellationToken) -> TaskFuture) {
    let mut failures = 0;
    while !stop.is_cancelled() {
        let began = Instant::now();
        // Run it as a task of its own, so that a panic becomes an error here and takes nothing else down.
        let mut task = JoinSet::new();
        task.spawn(start(stop.clone()));
        let failure = match task.join_next().await {
            Some(Ok(Ok(()))) | None => return,
            Some(Ok(Err(error))) => format!("{error:#}"),
            Some(Err(join_error)) => format!("{join_error}"),
        };
        failures = if began.elapsed() > RECOVERED_AFTER { 1 } else { failures + 1 };
        let pause = RESTARTS.backoff(Attempt(failures));
        tracing::warn!(
            task = name,
            failure,
            failures,
            pause_ms = pause.as_millis(),
            "task failed and is started again"
        );
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.cancelled() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_fails_or_panics_is_started_again() {
        let starts = Arc::new(AtomicU32::new(0));
        let mut supervisor = Supervisor::new();
        let seen = Arc::clone(&starts);
        supervisor.spawn(Group::Pipeline, "shaky", move |stop| {
            let start = seen.fetch_add(1, Ordering::SeqCst);
            async move {
                match start {
                    0 => anyhow::bail!("first"),
                    1 => panic!("second"),
                    _ => stop.cancelled().await,
                }
                Ok(())
            }
        });
        while starts.load(Ordering::SeqCst) < 3 {
            sleep(Duration::from_millis(50)).await;
        }
        assert!(supervisor.shutdown(Duration::from_secs(1)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn groups_stop_one_after_the_other() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut supervisor = Supervisor::new();
        for group in [Group::Sinks, Group::Ingest, Group::Pipeline] {
            let order = Arc::clone(&order);
            supervisor.spawn(group, format!("{group:?}"), move |stop| {
                let order = Arc::clone(&order);
                async move {
                    stop.cancelled().await;
                    sleep(Duration::from_millis(100)).await;
                    order.lock().unwrap().push(group);
                    Ok(())
                }
            });
        }
        // A task that has not begun when its group stops need not begin.
        sleep(Duration::from_millis(1)).await;
        assert!(supervisor.shutdown(Duration::from_secs(1)).await);
        assert_eq!(*order.lock().unwrap(), [Group::Ingest, Group::Pipeline, Group::Sinks]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_stop_is_cut_off() {
        let mut supervisor = Supervisor::new();
        supervisor.spawn(Group::Sinks, "deaf", |_| std::future::pending());
        sleep(Duration::from_millis(1)).await;
        assert!(!supervisor.shutdown(Duration::from_secs(1)).await);
    }
}
