//! A lease in JetStream KV: of several processes that could do a job, one does it.
//!
//! No clocks are compared. A contender takes the lease over when, by its own clock, it has seen the same revision for
//! the whole `ttl`. The holder stops counting on the lease `ttl` after it began its last renewal, by whichever of its
//! clocks says so first ([`crate::moment`]). A contender waits by the clock that stands still in a suspension: a clock
//! that jumps must not cut its wait short. So the holder's time ends before a contender's can begin. The `ttl` is a
//! setting, and two processes may have different ones: the holder writes its own into the lease, and the longer of the
//! two counts. [`lead`] is the whole of it for a job that never ends.

use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::fault::Fault;
use crate::moment::Moment;
use crate::state::{Entry, StateStore};

/// A job that one of several processes does: the one with the lease.
#[async_trait]
pub trait Job: Sync {
    /// Notes whether this process has the lease.
    fn leads(&self, leads: bool);

    /// Does the job. It ends soon after `stop`, and is dropped when the lease is lost.
    ///
    /// # Errors
    /// Why it cannot go on.
    async fn work(&self, stop: &CancellationToken) -> anyhow::Result<()>;

    /// What a process does while another one works. It is called again and again.
    ///
    /// # Errors
    /// Why it cannot go on.
    async fn stand_by(&self) -> anyhow::Result<()>;
}

/// Does `job` while the lease is ours, and stands by otherwise, until `stop`. In the end it gives the lease back.
///
/// # Errors
/// When the broker does not answer, or those of `job`.
pub async fn lead(mut lease: Lease, job: &dyn Job, stop: &CancellationToken) -> anyhow::Result<()> {
    let ended = take_turns(&mut lease, job, stop).await;
    lease.release().await;
    ended
}

async fn take_turns(lease: &mut Lease, job: &dyn Job, stop: &CancellationToken) -> anyhow::Result<()> {
    while !stop.is_cancelled() {
        let leads = lease.claim().await.map_err(|fault| fault.source).context("cannot ask for the lease")?;
        job.leads(leads);
        if leads {
            let worked = tokio::select! {
                worked = job.work(stop) => worked,
                () = lease.keep() => {
                    tracing::warn!(lease = lease.key, "lost the lease; another process may do the work");
                    Ok(())
                }
            };
            job.leads(false);
            worked?;
            continue;
        }
        job.stand_by().await?;
        tokio::select! {
            () = sleep(lease.period()) => {}
            () = stop.cancelled() => {}
        }
    }
    Ok(())
}

/// One process's claim to a lease.
pub struct Lease {
    store: StateStore,
    key: String,
    holder: String,
    ttl: Duration,
    watched: Option<Watched>,
    held_until: Option<Moment>,
}

/// The lease that another process holds.
#[derive(Clone, Copy, Debug)]
struct Watched {
    revision: u64,
    since: Instant,
    /// The lease has expired when its revision has stayed the same for this long.
    ttl: Duration,
}

impl Watched {
    /// The lease at `revision`. `earlier` is what was seen at the last look.
    fn at(revision: u64, ttl: Duration, earlier: Option<Self>) -> Self {
        let same = earlier.filter(|earlier| earlier.revision == revision);
        Self { revision, since: same.map_or_else(Instant::now, |same| same.since), ttl }
    }

    fn has_expired(self) -> bool {
        self.since.elapsed() >= self.ttl
    }
}

/// How soon a holder that was suspended finds out.
const LOOK: Duration = Duration::from_secs(1);
/// What a holder of an earlier release, which did not tell, may count on: no release had a longer default.
const TTL_UNTOLD: Duration = Duration::from_secs(60);
/// The most that a claim is believed: the longest that a configuration may say.
const TTL_MAX: Duration = Duration::from_secs(600);

/// What stands in a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim<'a> {
    holder: &'a str,
    /// For how long the holder counts on it. `None` when the holder is of an earlier release, which did not tell.
    ttl: Option<Duration>,
}

impl<'a> Claim<'a> {
    /// `None` when the lease was given back.
    fn read(value: &'a [u8]) -> Option<Self> {
        // A value that is no text is somebody's claim all the same.
        let text = std::str::from_utf8(value).unwrap_or("?");
        let (holder, ttl) = match text.rsplit_once(' ') {
            Some((holder, millis)) => (holder, millis.parse::<u64>().ok().map(Duration::from_millis)),
            None => (text, None),
        };
        (!text.is_empty()).then_some(Self { holder, ttl })
    }

    /// For how long a contender with the `ttl` `own` must have seen the claim unchanged.
    fn watched_for(&self, own: Duration) -> Duration {
        self.ttl.unwrap_or(TTL_UNTOLD).min(TTL_MAX).max(own)
    }

    fn write(holder: &str, ttl: Duration) -> Bytes {
        format!("{holder} {}", ttl.as_millis()).into()
    }
}

impl Lease {
    /// A claim to the lease `key` by `holder`, a name without spaces that no other process has.
    #[must_use]
    pub fn new(store: StateStore, key: impl Into<String>, holder: &str, ttl: Duration) -> Self {
        Self { store, key: key.into(), holder: holder.to_owned(), ttl, watched: None, held_until: None }
    }

    /// How often to renew the lease, or to ask for it.
    #[must_use]
    pub fn period(&self) -> Duration {
        self.ttl / 4
    }

    /// How long after the holder's last sign of life the lease is free for us, as far as we know the holder.
    #[must_use]
    pub fn expires_after(&self) -> Duration {
        self.watched.map_or(self.ttl, |watched| watched.ttl)
    }

    /// Whether it is certain that no other process holds it at this moment.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held_until.is_some_and(|until| !until.is_over())
    }

    /// Takes the lease or renews it; true when it is ours. To be called every [`period`](Self::period).
    ///
    /// # Errors
    /// Transient, when the broker does not answer; the lease may be ours until its time is over.
    pub async fn claim(&mut self) -> Result<bool, Fault> {
        let began = Moment::now();
        let entry = self.store.load(&self.key).await?;
        let is_free = entry.as_ref().is_none_or(|entry| self.is_free(entry));
        let claim = Claim::write(&self.holder, self.ttl);
        if is_free && self.store.save(&self.key, claim, entry.as_ref()).await? {
            self.held_until = Some(began + self.ttl);
            self.watched = None;
        } else {
            self.held_until = None;
        }
        Ok(self.is_held())
    }

    fn is_free(&mut self, entry: &Entry) -> bool {
        let Some(claim) = Claim::read(&entry.value).filter(|claim| claim.holder != self.holder) else { return true };
        let watched = Watched::at(entry.revision, claim.watched_for(self.ttl), self.watched);
        self.watched = Some(watched);
        watched.has_expired()
    }

    /// Renews the lease until it is lost.
    pub async fn keep(&mut self) {
        while let Some(until) = self.held_until {
            let due = until.monotonic().min(Instant::now() + self.period());
            while Instant::now() < due {
                if until.is_over() {
                    return;
                }
                sleep_until(due.min(Instant::now() + LOOK)).await;
            }
            match timeout_at(until.monotonic(), self.claim()).await {
                Ok(Ok(true)) => {}
                // The broker does not answer: the lease is ours until its time is over.
                Ok(Err(_)) if self.is_held() => {}
                Ok(Ok(false) | Err(_)) | Err(_) => return,
            }
        }
    }

    /// Gives the lease back, so that another process need not wait.
    pub async fn release(&mut self) {
        if !self.is_held() {
            return;
        }
        self.held_until = None;
        // Best effort: if this fails, another process waits for `ttl`.
        if let Ok(Some(entry)) = self.store.load(&self.key).await
            && Claim::read(&entry.value).is_some_and(|claim| claim.holder == self.holder)
        {
            let _ = self.store.save(&self.key, Bytes::new(), Some(&entry)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_claim_tells_its_holder_and_for_how_long() {
        let written = Claim::write("one", seconds(10));
        assert_eq!(Claim::read(&written), Some(Claim { holder: "one", ttl: Some(seconds(10)) }));
        assert_eq!(Claim::read(b"one"), Some(Claim { holder: "one", ttl: None }), "of an earlier release");
        assert_eq!(Claim::read(b""), None, "it was given back");
        assert!(Claim::read(b"\xff").is_some(), "it is somebody's");
    }

    #[tokio::test(start_paused = true)]
    async fn the_longer_of_the_two_times_is_waited_for() {
        for (own, value, expected) in [
            (seconds(1), Claim::write("another", seconds(10)), seconds(10)),
            (seconds(10), Claim::write("another", seconds(1)), seconds(10)),
            (seconds(3), Bytes::from_static(b"another"), TTL_UNTOLD),
            (seconds(3), Claim::write("another", Duration::from_secs(u64::MAX / 1_000)), TTL_MAX),
        ] {
            let needed = Claim::read(&value).unwrap().watched_for(own);
            let mut watched = Watched::at(7, needed, None);
            assert!(!watched.has_expired(), "{value:?}");
            advance(expected - MILLI).await;
            watched = Watched::at(7, needed, Some(watched));
            assert!(!watched.has_expired(), "{value:?}");
            advance(MILLI).await;
            watched = Watched::at(7, needed, Some(watched));
            assert!(watched.has_expired(), "{value:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_begins_the_wait_anew() {
        let mut watched = Watched::at(7, seconds(2), None);
        advance(seconds(2) - MILLI).await;
        watched = Watched::at(8, seconds(2), Some(watched));
        advance(seconds(2) - MILLI).await;
        watched = Watched::at(8, seconds(2), Some(watched));
        assert!(!watched.has_expired());
        advance(MILLI).await;
        assert!(watched.has_expired());
    }
}
