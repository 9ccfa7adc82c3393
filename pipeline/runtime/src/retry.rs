//! How often to try again and how long to wait, and how to wait for a broker that is just starting.
//!
//! `backon` does not serve here. Its backoff counts the attempts itself, while the broker or the failures of an event
//! count ours, and its jitter goes up to twice the longest pause. It bounds a wait by the pauses alone, not by the time
//! that the attempts take too.

use std::time::Duration;

use async_nats::{ConnectError, ConnectErrorKind};
use tokio::time::{Instant, sleep};

use crate::certificate::Untrusted;

/// How often JetStream has delivered a message, or how often it failed, this time included: 1 or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attempt(pub u32);

impl Attempt {
    /// Whether the message was delivered before, so that its effects may exist already.
    #[must_use]
    pub const fn is_repeat(self) -> bool {
        self.0 > 1
    }
}

/// How often to try, and how long to wait between attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts that an event's own transient faults may cost before it is dead-lettered.
    pub attempts_max: u32,
    /// Pause after the first failed attempt; it doubles with each further one.
    pub backoff_min: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// The longest pause that a receiver may wish for.
    pub retry_after_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts_max: 12,
            backoff_min: Duration::from_millis(500),
            backoff_max: Duration::from_secs(60),
            retry_after_max: Self::RETRY_AFTER_MAX,
        }
    }
}

impl RetryPolicy {
    /// The usual longest pause that a receiver may wish for.
    pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

    /// The pause after failed attempt number `attempt`.
    #[must_use]
    pub fn backoff(&self, attempt: Attempt) -> Duration {
        let doublings = attempt.0.saturating_sub(1).min(20);
        self.backoff_min.saturating_mul(1 << doublings).min(self.backoff_max)
    }

    /// [`Self::backoff`], at random down to half of it. So processes that failed together do not try again together.
    #[must_use]
    pub fn jittered(&self, attempt: Attempt) -> Duration {
        self.backoff(attempt).mul_f64(rand::random_range(0.5..=1.0))
    }
}

/// The pause between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// Tries `attempt` until it succeeds, until `within` has passed, or until it fails in a way that waiting does not mend.
/// The first failure is logged, because somebody may be waiting for the start.
///
/// # Errors
/// The last failure.
pub async fn retry_within<T>(within: Duration, attempt: impl AsyncFn() -> anyhow::Result<T>) -> anyhow::Result<T> {
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

/// Whether a failure may pass by itself: refused credentials, a wrong address and most refused certificates do not.
fn may_pass(error: &anyhow::Error) -> bool {
    match Untrusted::of(error) {
        // The clock may not be set yet when a machine starts. Of several servers, another may have a valid certificate.
        Some(Untrusted::Time) => return true,
        Some(Untrusted::Issuer | Untrusted::Host | Untrusted::Other | Untrusted::Plain) => return false,
        None => {}
    }
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
    use std::io;
    use std::sync::atomic::{AtomicU32, Ordering};

    use anyhow::Context as _;
    use async_nats::rustls::{CertificateError, Error as TlsError};

    use super::*;

    async fn attempts(failure: impl Fn() -> ConnectError, succeeds_at: u32) -> (u32, bool) {
        let count = AtomicU32::new(0);
        let attempt = async || {
            let failed = count.fetch_add(1, Ordering::SeqCst) + 1 < succeeds_at;
            let error = failed.then(&failure).map_or(Ok(()), Err);
            error.context("cannot connect")
        };
        let done = retry_within(Duration::from_secs(10), attempt).await;
        (count.into_inner(), done.is_ok())
    }

    #[test]
    fn jitter_shortens_a_pause_by_half_at_most() {
        let policy = RetryPolicy::default();
        for attempt in (1..200).map(Attempt) {
            let (pause, longest) = (policy.jittered(attempt), policy.backoff(attempt));
            assert!(longest / 2 <= pause && pause <= longest, "{attempt:?}: {pause:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_may_pass_is_waited_for() {
        let of_kind = |kind: ConnectErrorKind| move || ConnectError::new(kind);
        assert_eq!(attempts(of_kind(ConnectErrorKind::Io), 4).await, (4, true));
        assert_eq!(attempts(of_kind(ConnectErrorKind::Io), u32::MAX).await, (10, false));
        assert_eq!(attempts(of_kind(ConnectErrorKind::Authentication), 4).await, (1, false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_is_tried_again_only_for_its_time() {
        for (problem, done) in [
            (CertificateError::NotValidYet, (4, true)),
            (CertificateError::Expired, (4, true)),
            (CertificateError::UnknownIssuer, (1, false)),
            (CertificateError::NotValidForName, (1, false)),
            (CertificateError::Revoked, (1, false)),
        ] {
            let refused = || ConnectError::from(io::Error::other(TlsError::InvalidCertificate(problem.clone())));
            assert_eq!(attempts(refused, 4).await, done, "{problem:?}");
        }
    }
}
