//! Requests with several records each, as log shippers send them: repeated as a whole until they are answered 2xx, some
//! packed, some sent twice at once, some sent again much later.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use headrace_schemas::time::Timestamp;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::history::{Answer, History};
use super::load::{ANSWER_WAIT, WINDOW_S};

/// The token of every fault run.
pub(super) const TOKEN: &str = "a-token-for-the-faults";
/// Records in a request.
const RECORDS: u64 = 6;
/// Requests in a second, for each delivery in a second.
const SHARE: f64 = 0.05;
/// The most requests in a second.
const RATE_MAX: f64 = 20.0;
/// Most requests under way at once.
const IN_FLIGHT_MAX: usize = 64;
/// How often a request without a 2xx is repeated before its sender gives up.
const TRIES: u32 = 20;
/// The pause between these.
const PAUSE: Duration = Duration::from_millis(500);
/// One request in this many is sent again after the broker's duplicate window.
const REPEAT_EVERY: u64 = 10;
/// One request in this many is sent twice at once, by a sender that lost its patience.
const TWICE_EVERY: u64 = 7;
/// One request in this many is packed.
const PACKED_EVERY: u64 = 2;

/// Senders under way.
pub(super) struct Posts {
    stop: CancellationToken,
    sender: Arc<Sender>,
    pacer: JoinSet<()>,
}

struct Sender {
    client: reqwest::Client,
    url: String,
    history: Arc<History>,
    answered: AtomicU64,
}

/// A request: its records, each with its id, and its body.
struct Request {
    number: u64,
    records: Vec<(String, String)>,
    body: Bytes,
    is_packed: bool,
}

impl Posts {
    /// Sends requests to `gateway` until [`Posts::finish`] is called, and notes each of their records in `history`.
    pub(super) fn start(gateway: &str, rate: u32, history: Arc<History>) -> Self {
        let client = reqwest::Client::builder().timeout(ANSWER_WAIT).build().expect("no setting of it can fail");
        let url = format!("{gateway}/collect/ndjson");
        let sender = Arc::new(Sender { client, url, history, answered: AtomicU64::new(0) });
        let (stop, mut pacer) = (CancellationToken::new(), JoinSet::new());
        let pause = Duration::from_secs_f64(1.0 / (f64::from(rate) * SHARE).clamp(1.0, RATE_MAX));
        pacer.spawn(pace(Arc::clone(&sender), pause, stop.clone()));
        Self { stop, sender, pacer }
    }

    /// Stops sending and waits for what is under way. Returns how many requests were answered 2xx.
    pub(super) async fn finish(mut self) -> anyhow::Result<u64> {
        self.stop.cancel();
        self.pacer.join_next().await.context("the senders were cut off")?.context("the senders were cut off")?;
        Ok(self.sender.answered.load(Ordering::Relaxed))
    }
}

async fn pace(sender: Arc<Sender>, pause: Duration, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut under_way = JoinSet::new();
    let mut number = 0;
    while tokio::time::timeout(pause, stop.cancelled()).await.is_err() {
        while under_way.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else { continue };
        let (sender, stop, request) = (Arc::clone(&sender), stop.clone(), Request::new(number));
        number += 1;
        under_way.spawn(async move {
            let _place = place;
            sender.send_until_stored(&request, &stop).await;
            if request.number.is_multiple_of(REPEAT_EVERY) {
                let later = tokio::time::sleep(Duration::from_secs(WINDOW_S + 2));
                tokio::select! { () = later => {}, () = stop.cancelled() => {} }
                sender.send(&request).await;
            }
        });
    }
    while under_way.join_next().await.is_some() {}
}

impl Request {
    fn new(number: u64) -> Self {
        let now = Timestamp::now();
        let record = |index: u64| {
            let id = format!("{number}-{index}");
            let line = format!(
                r#"{{"id":"post-{id}","time":"{now}","kind":"upload","tenant":"acme","actor":"mona-{index}"}}"#
            );
            (id, line)
        };
        let records: Vec<(String, String)> = (0..RECORDS).map(record).collect();
        let text = records.iter().map(|(_, line)| format!("{line}\n")).collect::<String>();
        let is_packed = number.is_multiple_of(PACKED_EVERY);
        let body = if is_packed { packed(&text) } else { text.into_bytes() };
        Self { number, records, body: body.into(), is_packed }
    }
}

fn packed(text: &str) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(text.as_bytes()).and_then(|()| packer.finish()).expect("memory can be written to")
}

impl Sender {
    async fn send_until_stored(&self, request: &Request, stop: &CancellationToken) {
        for _ in 0..TRIES {
            let answer = if request.number.is_multiple_of(TWICE_EVERY) {
                let (one, other) = tokio::join!(self.send(request), self.send(request));
                if one == Answer::Stored { one } else { other }
            } else {
                self.send(request).await
            };
            if answer == Answer::Stored {
                self.answered.fetch_add(1, Ordering::Relaxed);
                return;
            }
            if tokio::time::timeout(PAUSE, stop.cancelled()).await.is_ok() {
                return;
            }
        }
    }

    async fn send(&self, request: &Request) -> Answer {
        let mut post = self.client.post(&self.url).bearer_auth(TOKEN).header(CONTENT_TYPE, "application/x-ndjson");
        if request.is_packed {
            post = post.header(CONTENT_ENCODING, "gzip");
        }
        let answer = match post.body(request.body.clone()).send().await {
            Ok(response) if response.status().is_success() => Answer::Stored,
            _ => Answer::Unknown,
        };
        for (id, line) in &request.records {
            self.history.note_posted(id, line.as_bytes(), answer);
        }
        answer
    }
}
