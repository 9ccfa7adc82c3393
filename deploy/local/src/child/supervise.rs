//! Keeps one child running. A child that dies is started again on the same port and data, with a growing pause and a
//! bounded number of attempts. The first start is not retried: its error goes to the caller. A watch channel reports
//! each change of state, so that a ready file can follow.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Child;

/// A program that can be started again and again.
pub trait Service: Send + Sync + 'static {
    /// Why it did not start.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Its name in logs.
    fn name(&self) -> &'static str;

    /// Starts the process.
    fn spawn(&self) -> impl Future<Output = Result<Child, Self::Error>> + Send;

    /// Waits until the process does its work. Each service has a deadline of its own for this.
    fn ready(&self, child: &Child) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// The reason why a running process has stopped its work for good, in the process's own words. No answer is no
    /// reason. A process that reports a reason several times in a row is ended and started again.
    fn disabled(&self) -> impl Future<Output = Option<String>> + Send {
        std::future::ready(None)
    }
}

/// How often we ask a child whether it has stopped its work.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How many times in a row it must say yes.
const LOOKS: u32 = 3;

/// How to start a child again that died.
#[derive(Debug, Clone, Copy)]
pub struct RestartPolicy {
    /// The pause before the first attempt. Each further pause is twice as long.
    pub pause_min: Duration,
    /// The longest pause.
    pub pause_max: Duration,
    /// Failed attempts in a row before we give the child up.
    pub attempts_max: u32,
    /// A child that ran for this long counts as healthy, and the count of attempts begins again.
    pub settled_after: Duration,
    /// How long a child may take to end when it is asked to.
    pub grace: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            pause_min: Duration::from_millis(100),
            pause_max: Duration::from_secs(5),
            // With the longest pause, this takes an hour, because a disk may be full for a while.
            attempts_max: 720,
            settled_after: Duration::from_secs(30),
            grace: Duration::from_secs(15),
        }
    }
}

/// The state of a supervised child. The watch channel holds only the latest state, so a slow reader misses some states
/// but never the present one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The process runs but is not ready yet.
    Started {
        /// Its process id.
        pid: u32,
    },
    /// The process does its work.
    Ready {
        /// Its process id.
        pid: u32,
    },
    /// The process ended unasked, or did not become ready. It is about to be started again.
    Died {
        /// The exit status, or why the process did not become ready.
        status: String,
    },
    /// The process died too often. Nothing is started any more.
    GaveUp {
        /// The last failure.
        reason: String,
    },
    /// The process was stopped.
    Stopped,
}

/// A child under supervision. Dropping this kills the child; [`Supervised::stop`] asks it to end first.
#[derive(Debug)]
pub struct Supervised {
    events: watch::Receiver<Event>,
    stopping: CancellationToken,
    task: JoinHandle<()>,
}

impl Supervised {
    /// A channel with the child's state.
    pub fn events(&self) -> watch::Receiver<Event> {
        self.events.clone()
    }

    /// The process id, while there is a process.
    pub fn pid(&self) -> Option<u32> {
        match *self.events.borrow() {
            Event::Started { pid } | Event::Ready { pid } => Some(pid),
            Event::Died { .. } | Event::GaveUp { .. } | Event::Stopped => None,
        }
    }

    /// Asks the child to end, and kills it after the policy's grace.
    pub async fn stop(mut self) {
        self.stopping.cancel();
        // If the task panicked, that is a defect, but the child is dead all the same.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts `service`, waits until it is ready, and keeps it running.
///
/// # Errors
/// The failure of the first start. No process is left running then.
pub async fn supervise<S: Service>(service: S, policy: RestartPolicy) -> Result<Supervised, S::Error> {
    let child = service.spawn().await?;
    service.ready(&child).await?;
    tracing::info!(service = service.name(), pid = child.pid(), "the process was started");
    let (sender, events) = watch::channel(Event::Ready { pid: child.pid() });
    let stopping = CancellationToken::new();
    // Task "supervise": ends when stopped or when it gives up. An abort drops the child, and the drop kills it.
    #[expect(clippy::disallowed_methods, reason = "this crate has no supervisor but this one")]
    let task = tokio::spawn(keep(service, policy, child, sender, stopping.clone()));
    Ok(Supervised { events, stopping, task })
}

async fn keep<S: Service>(
    service: S,
    policy: RestartPolicy,
    mut child: Child,
    events: watch::Sender<Event>,
    stopping: CancellationToken,
) {
    let mut attempts = 0;
    loop {
        let since = Instant::now();
        let mut status = tokio::select! {
            status = child.wait() => status.to_string(),
            reason = stopped_working(&service) => {
                tracing::warn!(service = service.name(), reason, "the process has stopped its work; ending it");
                child.stop(policy.grace).await;
                reason
            }
            () = stopping.cancelled() => {
                child.stop(policy.grace).await;
                events.send_replace(Event::Stopped);
                return;
            }
        };
        if since.elapsed() >= policy.settled_after {
            attempts = 0;
        }
        child = loop {
            attempts += 1;
            if attempts > policy.attempts_max {
                tracing::error!(
                    service = service.name(),
                    attempts = policy.attempts_max,
                    status,
                    "the process died too often; giving up"
                );
                events.send_replace(Event::GaveUp { reason: status });
                return;
            }
            tracing::warn!(service = service.name(), status, attempts, "the process died; starting it again");
            events.send_replace(Event::Died { status });
            let again = async {
                tokio::time::sleep(pause(&policy, attempts)).await;
                restart(&service, &events).await
            };
            let restarted = tokio::select! {
                restarted = again => restarted,
                () = stopping.cancelled() => {
                    events.send_replace(Event::Stopped);
                    return;
                }
            };
            match restarted {
                Ok(child) => break child,
                Err(error) => status = error,
            }
        };
    }
}

/// Waits until the service has reported several times in a row that it has stopped its work.
async fn stopped_working<S: Service>(service: &S) -> String {
    let mut looks = 0;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        match service.disabled().await {
            Some(reason) if looks + 1 == LOOKS => return reason,
            Some(_) => looks += 1,
            None => looks = 0,
        }
    }
}

async fn restart<S: Service>(service: &S, events: &watch::Sender<Event>) -> Result<Child, String> {
    let child = service.spawn().await.map_err(|error| chain(&error))?;
    events.send_replace(Event::Started { pid: child.pid() });
    service.ready(&child).await.map_err(|error| chain(&error))?;
    tracing::info!(service = service.name(), pid = child.pid(), "the process was started again");
    events.send_replace(Event::Ready { pid: child.pid() });
    Ok(child)
}

fn pause(policy: &RestartPolicy, attempts: u32) -> Duration {
    policy.pause_min.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(policy.pause_max)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{RestartPolicy, pause};

    #[test]
    fn pauses_double_up_to_their_bound() {
        let policy = RestartPolicy::default();
        let pauses: Vec<_> = [1, 2, 3, 6, 7, 1000].map(|attempts| pause(&policy, attempts)).to_vec();
        assert_eq!(pauses, [100, 200, 400, 3200, 5000, 5000].map(Duration::from_millis));
    }
}
