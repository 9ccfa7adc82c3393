//! Events without a pause, from many senders. A sender sends an event again until it is answered with 2xx.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use headrace_local::poll;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::hook::{Hook, answer, guid};
use crate::examples::Example;
use crate::harness::CEILING;

/// The senders at work.
pub struct Load {
    senders: JoinSet<()>,
    stop: CancellationToken,
    stored: Arc<Mutex<BTreeSet<String>>>,
    count: watch::Receiver<usize>,
}

impl Load {
    /// Starts `senders` senders, each with one request at a time.
    pub fn start(senders: usize, hook: &Hook, examples: &Arc<Vec<Example>>) -> Self {
        let (counter, count) = watch::channel(0);
        let (stop, stored) = (CancellationToken::new(), Arc::new(Mutex::new(BTreeSet::new())));
        let counter = Arc::new(counter);
        let mut set = JoinSet::new();
        for sender in 0..senders {
            let (hook, examples, stop) = (hook.clone(), Arc::clone(examples), stop.clone());
            let (stored, counter) = (Arc::clone(&stored), Arc::clone(&counter));
            set.spawn(async move {
                for number in 0.. {
                    let example = &examples[(sender + number * 7) % examples.len()];
                    let guid = guid();
                    if !deliver(&hook, example, &guid, &stop).await {
                        return;
                    }
                    let mut stored = stored.lock().unwrap_or_else(PoisonError::into_inner);
                    stored.insert(format!("github:{guid}"));
                    counter.send_replace(stored.len());
                }
            });
        }
        Self { senders: set, stop, stored, count }
    }

    /// Waits until `more` further events were answered with 2xx.
    ///
    /// # Panics
    /// When they are not.
    pub async fn advance(&self, more: usize) {
        let mut count = self.count.clone();
        let wanted = *count.borrow() + more;
        let reached = tokio::time::timeout(CEILING, count.wait_for(|count| *count >= wanted)).await;
        reached.expect("events are answered").expect("the senders go on until they are stopped");
    }

    /// Stops the senders. Returns the ids of all events that were answered with 2xx.
    ///
    /// # Panics
    /// When a sender panicked: it sent an event for a minute, and the gateway never stored it.
    pub async fn finish(mut self) -> BTreeSet<String> {
        self.stop.cancel();
        while let Some(ended) = self.senders.join_next().await {
            ended.expect("every event is stored in the end");
        }
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut stored)
    }
}

/// Sends an event until it is stored. Returns false if it was stopped before.
async fn deliver(hook: &Hook, example: &Example, guid: &str, stop: &CancellationToken) -> bool {
    let attempt = async || {
        if stop.is_cancelled() {
            return Some(false);
        }
        let answer = answer(hook.request(&example.kind, guid, example.body.clone())).await.ok()?;
        let refused = matches!(answer.status, 400..=499);
        assert!(!refused, "{} {guid} was refused: {}", example.kind, answer.body);
        answer.is_stored().then_some(true)
    };
    poll::until("the event is stored", CEILING, attempt).await.unwrap_or_else(|error| panic!("{error}"))
}
