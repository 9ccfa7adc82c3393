//! The load: signed deliveries with ids of their own, at a steady rate, as GitHub would send them. Some are sent again
//! later under the same id. Some share their id with another body, as the deliveries of an App's hook and of an
//! organization's hook do.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Response, StatusCode};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::history::{Answer, History};
use crate::product::hook::signature;

/// The secret of every fault run.
pub(super) const SECRET: &str = "a secret for the faults";
/// How long GitHub waits for an answer.
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// Most requests under way at once.
const IN_FLIGHT_MAX: usize = 512;
/// One delivery in this many is sent again, after the broker's duplicate window.
const REPEAT_EVERY: u64 = 50;
/// One delivery in this many shares its id with another body, which is sent at the same time and as often.
const SHARED_EVERY: u64 = 30;
/// The broker's duplicate window in these runs, in seconds. As by default, it is longer than the chains' `ack_wait`.
pub(super) const WINDOW_S: u64 = 6;
/// The interval at which deliveries are sent.
const STEP: Duration = Duration::from_millis(20);

/// A rule matches one delivery in this many, or more of them if the rate is low ([`matching_every`]).
const MATCHING_EVERY_MAX: u32 = 100;

/// A delivery as GitHub makes it.
pub(super) struct Delivery {
    guid: String,
    event: &'static str,
    pub(super) body: Vec<u8>,
    /// Whether a rule matches it.
    pub(super) matching: bool,
    /// Whether it is sent again later.
    repeated: bool,
    /// The other body under its id.
    other: Option<Box<Self>>,
}

impl Delivery {
    /// The event's id.
    pub(super) fn id(&self) -> String {
        format!("github:{}", self.guid)
    }
}

struct Sender {
    client: reqwest::Client,
    url: String,
    history: Arc<History>,
    number: AtomicU64,
    /// A rule matches one delivery in this many.
    matching_every: u64,
    /// Answers that ask for the delivery once more.
    refused: AtomicU64,
    /// The codes in these answers, with how often each came.
    codes: Mutex<HashMap<String, u64>>,
}

/// A load under way.
pub(super) struct Load {
    sender: Arc<Sender>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    began: Instant,
}

impl Load {
    /// Sends `rate` deliveries per second to `gateway`, until [`Load::finish`] is called.
    pub(super) fn start(gateway: &str, rate: u32) -> Self {
        let client = reqwest::Client::builder().timeout(ANSWER_WAIT).build().expect("no setting of it can fail");
        let url = format!("{gateway}/webhooks/github");
        let sender = Arc::new(Sender {
            client,
            url,
            history: Arc::default(),
            number: AtomicU64::new(0),
            matching_every: matching_every(rate),
            refused: AtomicU64::new(0),
            codes: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(pace(Arc::clone(&sender), rate, stop.clone()));
        Self { sender, stop, tasks, began: Instant::now() }
    }

    /// Sends one delivery. Returns its id if it was stored.
    pub(super) async fn send_one(&self) -> Option<String> {
        let delivery = self.sender.delivery();
        (self.sender.send_all(&delivery).await == Answer::Stored).then(|| delivery.id())
    }

    /// What was sent so far, and how it was answered.
    pub(super) fn history(&self) -> Arc<History> {
        Arc::clone(&self.sender.history)
    }

    /// How many answers were 503 with Retry-After so far.
    pub(super) fn refused(&self) -> u64 {
        self.sender.refused.load(Ordering::Relaxed)
    }

    /// How many of them had one of these codes.
    pub(super) fn refused_as(&self, codes: &[&str]) -> u64 {
        let counts = self.sender.codes.lock().unwrap_or_else(PoisonError::into_inner);
        codes.iter().filter_map(|code| counts.get(*code)).sum()
    }

    /// Stops sending and waits for what is under way. Returns what was answered, and for how long it sent.
    pub(super) async fn finish(mut self) -> (Arc<History>, Duration) {
        let time = self.began.elapsed();
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        (Arc::clone(&self.sender.history), time)
    }
}

/// Two matching deliveries a second, so that an alert has a second event within a short run. More if that is less than
/// one in [`MATCHING_EVERY_MAX`].
fn matching_every(rate: u32) -> u64 {
    u64::from((rate / 2).clamp(1, MATCHING_EVERY_MAX))
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
                let delivery = sender.delivery();
                sender.send_all(&delivery).await;
                drop(place);
                if delivery.repeated {
                    let wait = tokio::time::sleep(Duration::from_secs(WINDOW_S + 2));
                    tokio::select! { () = wait => {}, () = stop.cancelled() => {} }
                    sender.send_all(&delivery).await;
                }
            });
        }
    }
    while under_way.join_next().await.is_some() {}
}

impl Sender {
    fn delivery(&self) -> Delivery {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        // The node makes the run's ids differ even within one tick of the clock.
        let node = number.to_be_bytes();
        let guid = Uuid::now_v1(&[node[2], node[3], node[4], node[5], node[6], node[7]]).to_string();
        let matching = number.is_multiple_of(self.matching_every);
        let (event, of_event) =
            if matching { ("repository", r#""action":"publicized""#) } else { ("push", r#""ref":"refs/heads/main""#) };
        let round = number / self.matching_every;
        let body = |more: &str| {
            let text = format!(
                r#"{{{of_event},"number":{number},{more}"repository":{{"id":1,"name":"app-{0}","full_name":"acme/app-{0}","private":false,"owner":{{"login":"acme"}}}},"organization":{{"login":"acme","id":5}},"sender":{{"login":"mona-{1}","id":7,"type":"User"}}}}"#,
                round % 20,
                round % 10
            );
            text.into_bytes()
        };
        let repeated = number.is_multiple_of(REPEAT_EVERY);
        let delivery = |body: Vec<u8>| Delivery { guid: guid.clone(), event, body, matching, repeated, other: None };
        let other = number.is_multiple_of(SHARED_EVERY).then(|| delivery(body(r#""installation":{"id":9},"#)));
        Delivery { other: other.map(Box::new), ..delivery(body("")) }
    }

    /// Sends a delivery, and at the same time the other body under its id. Returns the answer to the delivery.
    async fn send_all(&self, delivery: &Delivery) -> Answer {
        let Some(other) = &delivery.other else { return self.send(delivery).await };
        tokio::join!(self.send(delivery), self.send(other)).0
    }

    async fn send(&self, delivery: &Delivery) -> Answer {
        let request = self
            .client
            .post(&self.url)
            .header("Content-Type", "application/json")
            .header("X-GitHub-Event", delivery.event)
            .header("X-GitHub-Delivery", &delivery.guid)
            .header("X-Hub-Signature-256", signature(SECRET, &delivery.body))
            .body(delivery.body.clone());
        // The status is the answer. It counts even if the rest of the answer is cut off.
        let answer = match request.send().await {
            Ok(response) if response.status().is_success() => Answer::Stored,
            Ok(response) => {
                let is_refusal = response.status() == StatusCode::SERVICE_UNAVAILABLE;
                if is_refusal && response.headers().contains_key(RETRY_AFTER) {
                    self.note_refusal(response).await;
                }
                Answer::Unknown
            }
            Err(_) => Answer::Unknown,
        };
        self.history.note(delivery, answer);
        answer
    }

    async fn note_refusal(&self, response: Response) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        // The code may be cut off.
        let Ok(body) = response.json::<Value>().await else { return };
        if let Some(code) = body["error"].as_str() {
            *self.codes.lock().unwrap_or_else(PoisonError::into_inner).entry(code.to_owned()).or_default() += 1;
        }
    }
}
