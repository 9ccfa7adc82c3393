//! Three ways to give messages to JetStream with confirmation: one by one, in atomic batches, or in one long fast
//! batch. The last two follow ADR-50 of nats-io/nats-architecture-and-design.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::{self, Context};
use async_nats::{Client, HeaderMap, Subscriber};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::bodies::Bodies;
use crate::raw;

/// How long to wait for any answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// How messages are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Way {
    /// Each message gets a PubAck of its own.
    Single,
    /// `batch` messages are stored together or not at all, with one PubAck.
    Atomic,
    /// One batch stays open all the time. Every `batch` messages are acknowledged together.
    Fast,
}

/// What a message holds: a whole body, or only its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Size {
    /// The first KiB of a body.
    Kibibyte,
    /// The whole body.
    Whole,
}

/// What is published, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Recipe {
    pub(crate) bodies: Size,
    /// How many messages are on their way at once.
    pub(crate) in_flight: u64,
    pub(crate) way: Way,
    /// How many messages are acknowledged together.
    pub(crate) batch: u64,
}

/// Makes messages. Their numbers go on from one turn to the next.
#[derive(Clone)]
pub(crate) struct Source {
    bodies: Arc<Bodies>,
    next: Arc<AtomicU64>,
}

/// Only messages that are confirmed within this time count for the rate.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    pub(crate) opens: Instant,
    pub(crate) closes: Instant,
}

/// The messages that were confirmed.
pub(crate) struct Confirmed {
    /// In the window.
    pub(crate) in_window: u64,
    /// From the first to the last.
    pub(crate) total: u64,
    /// From giving a message to JetStream to its confirmation, in microseconds, within the window.
    pub(crate) latency: Histogram<u64>,
}

impl Source {
    /// Deliveries of `bodies`, numbered from 0.
    pub(crate) fn new(bodies: Arc<Bodies>) -> Self {
        Self { bodies, next: Arc::default() }
    }

    fn next(&self, size: Size) -> anyhow::Result<(String, HeaderMap, Bytes)> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        let (subject, headers, json) = raw::message(&self.bodies, index)?;
        let payload = match size {
            Size::Kibibyte => json.slice(..json.len().min(1_024)),
            Size::Whole => json,
        };
        Ok((subject, headers, payload))
    }
}

impl Confirmed {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { in_window: 0, total: 0, latency: histogram()? })
    }

    fn count(&mut self, sent: Instant, window: Window) {
        let now = Instant::now();
        self.total += 1;
        if (window.opens..window.closes).contains(&now) {
            self.in_window += 1;
            self.latency.saturating_record(u64::try_from((now - sent).as_micros()).unwrap_or(u64::MAX));
        }
    }

    fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.in_window += other.in_window;
        self.total += other.total;
        self.latency.add(&other.latency).context("all histograms are alike")
    }
}

/// A histogram of microseconds, up to twice the longest wait.
pub(crate) fn histogram() -> anyhow::Result<Histogram<u64>> {
    let max = 2 * u64::try_from(ANSWER_WITHIN.as_micros()).unwrap_or(u64::MAX);
    Histogram::new_with_bounds(1, max, 3).context("the bounds are in order")
}

/// Publishes until the window closes, and waits until everything is confirmed.
pub(crate) async fn publish(
    client: &Client,
    source: &Source,
    recipe: Recipe,
    window: Window,
) -> anyhow::Result<Confirmed> {
    let publishers = match recipe.way {
        Way::Single | Way::Atomic => recipe.in_flight / recipe.batch,
        // With a second fast batch, the server would at first acknowledge after each message.
        Way::Fast => 1,
    };
    let mut tasks = JoinSet::new();
    for _ in 0..publishers {
        let (client, source) = (client.clone(), source.clone());
        tasks.spawn(async move {
            match recipe.way {
                Way::Single | Way::Atomic => in_turn(client, source, recipe, window).await,
                Way::Fast => Fast::open(client, recipe).await?.publish(source, window).await,
            }
        });
    }
    let mut confirmed = Confirmed::new()?;
    while let Some(ended) = tasks.join_next().await {
        confirmed.add(&ended.context("a publisher panicked")??)?;
    }
    Ok(confirmed)
}

/// Sends a message or an atomic batch, and after its confirmation the next one.
async fn in_turn(client: Client, source: Source, recipe: Recipe, window: Window) -> anyhow::Result<Confirmed> {
    let jetstream = jetstream::context::ContextBuilder::new().timeout(ANSWER_WITHIN).build(client.clone());
    let mut confirmed = Confirmed::new()?;
    while Instant::now() < window.closes {
        let sent = Instant::now();
        match recipe.way {
            Way::Single => single(&jetstream, &source, recipe.bodies).await?,
            Way::Atomic | Way::Fast => atomic(&client, &jetstream, &source, recipe).await?,
        }
        (0..recipe.batch).for_each(|_| confirmed.count(sent, window));
    }
    Ok(confirmed)
}

async fn single(jetstream: &Context, source: &Source, size: Size) -> anyhow::Result<()> {
    let (subject, headers, payload) = source.next(size)?;
    let sent = jetstream.publish_with_headers(subject, headers, payload).await.context("cannot publish")?;
    let stored = sent.await.context("NATS did not store a message")?;
    anyhow::ensure!(!stored.duplicate, "NATS took a new message for a known one");
    Ok(())
}

/// Sends an atomic batch. Only the last message asks for an answer, which is an error if any message before did not
/// arrive.
async fn atomic(client: &Client, jetstream: &Context, source: &Source, recipe: Recipe) -> anyhow::Result<()> {
    let id = client.new_inbox();
    for sequence in 1..=recipe.batch {
        let (subject, mut headers, payload) = source.next(recipe.bodies)?;
        headers.insert("Nats-Batch-Id", id.as_str());
        headers.insert("Nats-Batch-Sequence", sequence.to_string());
        if sequence < recipe.batch {
            client.publish_with_headers(subject, headers, payload).await.context("cannot publish")?;
            continue;
        }
        headers.insert("Nats-Batch-Commit", "1");
        let sent = jetstream.publish_with_headers(subject, headers, payload).await.context("cannot publish")?;
        sent.await.context("NATS did not store a batch")?;
    }
    Ok(())
}

/// An open fast batch. A gap ends it, so an acknowledgement covers all messages before it.
struct Fast {
    client: Client,
    recipe: Recipe,
    /// `_INBOX.<batch id>`. All answers come under it.
    inbox: String,
    answers: Subscriber,
    /// The times when the unacknowledged messages were sent.
    waiting: VecDeque<Instant>,
    sent: u64,
    acknowledged: u64,
}

/// The operation in a reply subject.
#[derive(Clone, Copy)]
enum Operation {
    Start = 0,
    Append = 1,
    Commit = 2,
}

/// An answer of the server. The PubAck that ends a batch has no `kind`.
#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    count: u64,
    error: Option<serde_json::Value>,
}

impl Fast {
    async fn open(client: Client, recipe: Recipe) -> anyhow::Result<Self> {
        let inbox = client.new_inbox();
        let answers = client.subscribe(format!("{inbox}.>")).await.context("cannot subscribe")?;
        Ok(Self { client, recipe, inbox, answers, waiting: VecDeque::new(), sent: 0, acknowledged: 0 })
    }

    async fn publish(mut self, source: Source, window: Window) -> anyhow::Result<Confirmed> {
        let mut confirmed = Confirmed::new()?;
        self.send(&source, Operation::Start).await?;
        // Wait for the server to accept the batch before anything follows.
        self.answer(&mut confirmed, window).await?;
        while Instant::now() < window.closes {
            while self.waiting.len() as u64 >= self.recipe.in_flight {
                self.answer(&mut confirmed, window).await?;
            }
            while let Some(answer) = self.answers.next().now_or_never() {
                self.settle(answer, &mut confirmed, window)?;
            }
            self.send(&source, Operation::Append).await?;
        }
        self.send(&source, Operation::Commit).await?;
        while !self.waiting.is_empty() {
            self.answer(&mut confirmed, window).await?;
        }
        Ok(confirmed)
    }

    async fn send(&mut self, source: &Source, operation: Operation) -> anyhow::Result<()> {
        let (subject, headers, payload) = source.next(self.recipe.bodies)?;
        self.sent += 1;
        let Self { inbox, sent, recipe: Recipe { batch, .. }, .. } = self;
        let reply = format!("{inbox}.{batch}.fail.{sent}.{}.$FI", operation as u8);
        self.waiting.push_back(Instant::now());
        let sent = self.client.publish_with_reply_and_headers(subject, reply, headers, payload);
        sent.await.context("cannot publish")
    }

    async fn answer(&mut self, confirmed: &mut Confirmed, window: Window) -> anyhow::Result<()> {
        let answer = timeout(ANSWER_WITHIN, self.answers.next()).await.context("NATS did not answer")?;
        self.settle(answer, confirmed, window)
    }

    fn settle(
        &mut self,
        answer: Option<async_nats::Message>,
        confirmed: &mut Confirmed,
        window: Window,
    ) -> anyhow::Result<()> {
        let message = answer.context("the subscription ended")?;
        let answer: Answer = serde_json::from_slice(&message.payload).context("expected an answer to a batch")?;
        let up_to = match answer.kind.as_deref() {
            Some("ack") => answer.seq,
            None if answer.error.is_none() => answer.count,
            _ => anyhow::bail!("NATS ended a batch: {answer:?}"),
        };
        anyhow::ensure!(up_to <= self.sent, "NATS acknowledged what was never sent: {answer:?}");
        while self.acknowledged < up_to {
            let sent = self.waiting.pop_front().context("every message waits until it is acknowledged")?;
            confirmed.count(sent, window);
            self.acknowledged += 1;
        }
        Ok(())
    }
}
