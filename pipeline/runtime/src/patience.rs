//! Waiting for a broker that is just being started, or whose cluster is just choosing its leaders.

use std::time::Duration;

use async_nats::{ConnectError, ConnectErrorKind};
use tokio::time::{Instant, sleep};

/// The pause between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// Tries `attempt` until it succeeds, or until `within` has passed, or it fails in a way that waiting does not
/// mend. The first failure is logged, because somebody may be waiting for the start.
///
/// # Errors
/// The last failure.
pub async fn patiently<T>(within: Duration, attempt: impl AsyncFn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let until = Instant::now() + within;
    let mut told = false;
    loop {
        match attempt().await {
            Err(error) if Instant::now() + PAUSE < until && may_pass(&error) => {
                if !told {
                    told = true;
                    tracing::warn!(
                        error = format!("{error:#}"),
                        wait_s = within.as_secs(),
                        "cannot start yet; trying again"
                    );
                }
                sleep(PAUSE).await;
            }
            done => return done,
        }
    }
}

/// Whether a failure may pass by itself: refused credentials and a wrong address do not.
fn may_pass(error: &anyhow::Error) -> bool {
    let kind = error.chain().find_map(|cause| cause.downcast_ref::<ConnectError>()).map(ConnectError::kind);
    !matches!(
        kind,
        Some(
            ConnectErrorKind::ServerParse
                | ConnectErrorKind::Authentication
                | ConnectErrorKind::AuthorizationViolation
                | ConnectErrorKind::Tls
        )
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use anyhow::Context as _;

    use super::*;

    async fn attempts(kind: ConnectErrorKind, succeeds_at: u32) -> (u32, bool) {
        let count = AtomicU32::new(0);
        let attempt = async || {
            let failed = count.fetch_add(1, Ordering::SeqCst) + 1 < succeeds_at;
            let error = failed.then(|| ConnectError::new(kind)).map_or(Ok(()), Err);
            error.context("cannot connect")
        };
        let done = patiently(Duration::from_secs(10), attempt).await;
        (count.into_inner(), done.is_ok())
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_may_pass_is_waited_for() {
        assert_eq!(attempts(ConnectErrorKind::Io, 4).await, (4, true));
        assert_eq!(attempts(ConnectErrorKind::Io, u32::MAX).await, (10, false));
        assert_eq!(attempts(ConnectErrorKind::Authentication, 4).await, (1, false));
    }
}
