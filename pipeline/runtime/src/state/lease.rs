//! A lease in JetStream KV: of several processes that could do a job, one does it.
//!
//! No clocks are compared. A contender takes the lease over when it has watched the same revision for
//! the whole `ttl` by its own clock, and the holder stops to count on it `ttl` after the beginning of its
//! last renewal; the holder's time therefore ends before a contender's can begin.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::fault::Fault;
use crate::state::{Entry, StateStore};

/// One process's claim to a lease.
pub struct Lease {
    store: StateStore,
    key: &'static str,
    holder: Bytes,
    ttl: Duration,
    /// The revision that another holds, and since when we have been watching it.
    watched: Option<(u64, Instant)>,
    held_until: Option<Instant>,
}

impl Lease {
    /// A claim to the lease `key` by `holder`, a name that no other process has.
    #[must_use]
    pub fn new(store: StateStore, key: &'static str, holder: &str, ttl: Duration) -> Self {
        Self { store, key, holder: Bytes::copy_from_slice(holder.as_bytes()), ttl, watched: None, held_until: None }
    }

    /// How often to renew the lease, or to ask for it.
    #[must_use]
    pub fn period(&self) -> Duration {
        self.ttl / 4
    }

    /// Whether it is certain that no other process holds it at this moment.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held_until.is_some_and(|until| Instant::now() < until)
    }

    /// Takes the lease or renews it; true when it is ours. To be called every [`period`](Self::period).
    ///
    /// # Errors
    /// Transient, when the broker does not answer; the lease may be ours until its time is over.
    pub async fn claim(&mut self) -> Result<bool, Fault> {
        let began = Instant::now();
        let entry = self.store.load(self.key).await?;
        let is_free = entry.as_ref().is_none_or(|entry| self.is_free(entry));
        if is_free && self.store.save(self.key, self.holder.clone(), entry.as_ref()).await? {
            self.held_until = Some(began + self.ttl);
            self.watched = None;
        } else {
            self.held_until = None;
        }
        Ok(self.is_held())
    }

    fn is_free(&mut self, entry: &Entry) -> bool {
        if entry.value.is_empty() || entry.value == self.holder {
            return true;
        }
        match self.watched {
            Some((revision, since)) if revision == entry.revision => since.elapsed() >= self.ttl,
            _ => {
                self.watched = Some((entry.revision, Instant::now()));
                false
            }
        }
    }

    /// Renews the lease until it is lost.
    pub async fn keep(&mut self) {
        while let Some(until) = self.held_until {
            sleep_until(until.min(Instant::now() + self.period())).await;
            match timeout_at(until, self.claim()).await {
                Ok(Ok(true)) => {}
                // The broker does not answer: the lease is ours until its time is over.
                Ok(Err(_)) if self.is_held() => {}
                Ok(Ok(false) | Err(_)) | Err(_) => return,
            }
        }
    }

    /// Gives the lease back, so that another need not wait.
    pub async fn release(&mut self) {
        if !self.is_held() {
            return;
        }
        self.held_until = None;
        // Best effort: without it another waits for `ttl`.
        if let Ok(Some(entry)) = self.store.load(self.key).await
            && entry.value == self.holder
        {
            let _ = self.store.save(self.key, Bytes::new(), Some(&entry)).await;
        }
    }
}
