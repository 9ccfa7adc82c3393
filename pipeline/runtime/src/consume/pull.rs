//! One request for messages of a pull consumer.
//!
//! The client library ends a request as soon as the server says that it is filled. Where a consumer has replicas, that
//! notice overtakes the messages: NATS sends a message when its servers agree that it is delivered, but sends the
//! notice at once (`consumer.go` of 2.15, `deliverMsg` and what follows it). The messages would reach nobody and come
//! again after `ack_wait`. The next request would end the same way, so a component with a backlog would take nothing
//! any more. Here a request ends only when as many messages have come as the notice counts.

use std::pin::Pin;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::consumer::Consumer;
use async_nats::jetstream::consumer::pull::{BatchConfig, Config};
use async_nats::{Message, StatusCode, Subject, Subscriber};
use futures::StreamExt as _;
use tokio::time::{Instant, Sleep, sleep};

use crate::broker::{Broker, Disconnects};

/// How much later than due the server's notice of a request's end may come.
const WORD_WAIT: Duration = Duration::from_secs(5);
/// How long to wait for messages that the notice has overtaken. A leader that is gone never sends them.
const STRAGGLERS_WAIT: Duration = Duration::from_secs(2);
/// The header that says how many messages the server had not sent when it ended a request.
const NOT_SENT: &str = "Nats-Pending-Messages";

/// An open request.
pub(crate) struct Pull {
    subscriber: Subscriber,
    max: usize,
    taken: usize,
    /// How many messages the server has sent, once it has said so.
    sent: Option<usize>,
    ends: Pin<Box<Sleep>>,
    disconnects: Disconnects,
}

impl Pull {
    /// Asks for up to `max` messages and `bytes_max` bytes that come within `open`.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub(crate) async fn request(
        broker: &Broker,
        consumer: &Consumer<Config>,
        (max, bytes_max): (usize, usize),
        open: Duration,
    ) -> anyhow::Result<Self> {
        let client = broker.client();
        let disconnects = broker.disconnects();
        let inbox = Subject::from(client.new_inbox());
        let subscriber = client.subscribe(inbox.clone()).await.context("cannot ask for messages")?;
        let config = BatchConfig { batch: max, max_bytes: bytes_max, expires: Some(open), ..Default::default() };
        consumer.request_batch(config, inbox).await.context("cannot ask for messages")?;
        let ends = Box::pin(sleep(open + WORD_WAIT));
        Ok(Self { subscriber, max, taken: 0, sent: None, ends, disconnects })
    }

    /// The next message; `None` at the end. Dropping the wait for it loses nothing.
    ///
    /// # Errors
    /// When the broker ends the request before it brought anything.
    pub(crate) async fn next(&mut self) -> Option<anyhow::Result<Message>> {
        while self.taken < self.sent.unwrap_or(self.max) {
            let message = tokio::select! {
                // Take what has come first, however late we ask.
                biased;
                message = self.subscriber.next() => message?,
                () = &mut self.ends => return None,
                // The server forgets a request whose connection is lost.
                () = self.disconnects.next() => return None,
            };
            if message.status.is_none_or(|status| status == StatusCode::OK) {
                self.taken += 1;
                return Some(Ok(message));
            }
            match self.word(&message) {
                Ok(()) => {}
                // Keep what the request has brought.
                Err(_) if self.taken > 0 => self.sent = Some(self.taken),
                Err(error) => {
                    self.sent = Some(0);
                    return Some(Err(error));
                }
            }
        }
        None
    }

    /// Takes in what the server says about the request.
    fn word(&mut self, message: &Message) -> anyhow::Result<()> {
        let status = message.status.unwrap_or(StatusCode::OK);
        if status == StatusCode::IDLE_HEARTBEAT {
            return Ok(());
        }
        let not_sent = message.headers.as_ref().and_then(|headers| headers.get(NOT_SENT)?.as_str().parse::<i64>().ok());
        let not_sent = not_sent.map_or(self.max, |count| usize::try_from(count).unwrap_or(0));
        if not_sent >= self.max && status != StatusCode::TIMEOUT && status != StatusCode::NOT_FOUND {
            let why = message.description.as_deref().unwrap_or("without a reason");
            anyhow::bail!("the broker ended the request: {status} {why}");
        }
        self.sent = Some(self.max.saturating_sub(not_sent).max(self.taken));
        self.ends.as_mut().reset(Instant::now() + STRAGGLERS_WAIT);
        Ok(())
    }
}
