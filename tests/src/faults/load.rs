//! The load: signed deliveries with ids of their own, at a steady rate, as GitHub would send them. Some
//! are presented again later, under the same id.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::ledger::{Answer, Ledger};
use crate::product::hook::signature;

/// The secret of every fault run.
pub(super) const SECRET: &str = "a secret for the faults";
/// GitHub waits this long for an answer.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// Requests under way at once.
const IN_FLIGHT_MAX: usize = 512;
/// Each so many-th delivery is presented again, after the broker's duplicate window.
const REPEAT_EVERY: u64 = 50;
/// The broker's duplicate window in these runs, in seconds.
pub(super) const WINDOW_S: u64 = 10;
/// Deliveries are sent in steps of this length.
const STEP: Duration = Duration::from_millis(20);

struct Sender {
    client: reqwest::Client,
    url: String,
    ledger: Arc<Ledger>,
    number: AtomicU64,
}

/// A load under way.
pub(super) struct Load {
    sender: Arc<Sender>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    began: Instant,
}

impl Load {
    /// Sends `rate` deliveries per second to `gateway` until it is finished.
    pub(super) fn start(gateway: &str, rate: u32) -> Self {
        let client = reqwest::Client::builder().timeout(ANSWER_WAIT).build().expect("no setting of it can fail");
        let url = format!("{gateway}/webhooks/github");
        let sender = Arc::new(Sender { client, url, ledger: Arc::default(), number: AtomicU64::new(0) });
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(pace(Arc::clone(&sender), rate, stop.clone()));
        Self { sender, stop, tasks, began: Instant::now() }
    }

    /// Sends one delivery; its id when it was stored.
    pub(super) async fn send_one(&self) -> Option<String> {
        let (guid, body) = self.sender.delivery();
        (self.sender.send(&guid, &body).await == Answer::Stored).then(|| format!("github:{guid}"))
    }

    /// Stops, waits for what is under way, and hands over what was answered and how long it was sent.
    pub(super) async fn finish(mut self) -> (Arc<Ledger>, Duration) {
        let time = self.began.elapsed();
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        (Arc::clone(&self.sender.ledger), time)
    }
}

async fn pace(sender: Arc<Sender>, rate: u32, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut under_way = JoinSet::new();
    let mut ticks = tokio::time::interval(STEP);
    let (mut owed, per_step) = (0.0, f64::from(rate) * STEP.as_secs_f64());
    loop {
        tokio::select! {
            _ = ticks.tick() => owed += per_step,
            () = stop.cancelled() => break,
        }
        while under_way.try_join_next().is_some() {}
        while owed >= 1.0 {
            owed -= 1.0;
            let Ok(place) = Arc::clone(&room).try_acquire_owned() else { continue };
            let sender = Arc::clone(&sender);
            let stop = stop.clone();
            under_way.spawn(async move {
                let (guid, body) = sender.delivery();
                sender.send(&guid, &body).await;
                drop(place);
                if sender.number.load(Ordering::Relaxed).is_multiple_of(REPEAT_EVERY) {
                    let wait = tokio::time::sleep(Duration::from_secs(WINDOW_S + 2));
                    tokio::select! { () = wait => {}, () = stop.cancelled() => {} }
                    sender.send(&guid, &body).await;
                }
            });
        }
    }
    while under_way.join_next().await.is_some() {}
}

impl Sender {
    fn delivery(&self) -> (String, Vec<u8>) {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        // The node tells the run's ids from each other even within one tick of the clock.
        let node = number.to_be_bytes();
        let guid = Uuid::now_v1(&[node[2], node[3], node[4], node[5], node[6], node[7]]).to_string();
        let body = format!(
            r#"{{"ref":"refs/heads/main","number":{number},"repository":{{"id":1,"full_name":"acme/app-{}","owner":{{"login":"acme"}}}},"organization":{{"login":"acme","id":5}},"sender":{{"login":"mona-{}","id":7,"type":"User"}}}}"#,
            number % 100,
            number % 10
        );
        (guid, body.into_bytes())
    }

    async fn send(&self, guid: &str, body: &[u8]) -> Answer {
        let request = self
            .client
            .post(&self.url)
            .header("Content-Type", "application/json")
            .header("X-GitHub-Event", "push")
            .header("X-GitHub-Delivery", guid)
            .header("X-Hub-Signature-256", signature(SECRET, body))
            .body(body.to_vec());
        // The status is the answer; should the rest of it be cut off, it was given all the same.
        let answer = match request.send().await {
            Ok(response) if response.status().is_success() => Answer::Stored,
            _ => Answer::Unknown,
        };
        self.ledger.note(&format!("github:{guid}"), body, answer);
        answer
    }
}
