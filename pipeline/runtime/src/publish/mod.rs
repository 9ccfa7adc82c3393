//! Publishes messages, and knows which of them the broker has stored.

mod bodies;
pub mod store_health;

use std::pin::Pin;

use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{HeaderMap, HeaderName};
use bytes::Bytes;
use headrace_schemas::header;
use tokio::time::{Instant, timeout_at};

use crate::broker::{Broker, Disconnects};
use crate::fault::{Effect, Fault};
use crate::message::payload::Outgoing;

/// What the broker said about a stored message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// The broker knew its deduplication key already and stored nothing new.
    pub duplicate: bool,
}

/// Answers of a broker that has no room for a message: its stream is at its limit, or the disk is full.
const FULL: [ErrorCode; 2] = [ErrorCode::STREAM_STORE_FAILED, ErrorCode::INSUFFICIENT_RESOURCES];

/// Whether the broker said that it has no room for the message. Then the message was certainly not stored. Of a message
/// without an answer nobody knows.
#[must_use]
pub fn is_full(fault: &Fault) -> bool {
    answer_of(fault).is_some_and(|error| FULL.contains(&error.error_code()))
}

/// The broker's own answer, when it gave one.
fn answer_of(fault: &Fault) -> Option<&jetstream::Error> {
    fault.source.chain().find_map(|cause| cause.downcast_ref::<jetstream::Error>())
}

type Ack = Pin<Box<dyn Future<Output = Result<PublishAck, PublishError>> + Send>>;

/// A message on its way; [`Unconfirmed::confirmed`] tells how it ended.
pub struct Unconfirmed {
    ack: Ack,
    /// Counted from sending, so that all confirmations that are lost at once cost one timeout.
    until: Instant,
    disconnects: Disconnects,
}

impl Unconfirmed {
    /// Waits until the broker confirms that the message is stored.
    ///
    /// # Errors
    /// Transient, whatever the broker says: the message may or may not be stored.
    pub async fn confirmed(self) -> Result<Stored, Fault> {
        confirmed_by(self.ack, self.until).await
    }

    /// As [`Self::confirmed`], but gives up when the connection is lost, even though the confirmation might come over
    /// the next one. For callers that make the message again when it fails.
    ///
    /// # Errors
    /// Transient, whatever the broker says: the message may or may not be stored.
    pub async fn confirmed_or_cut_off(mut self) -> Result<Stored, Fault> {
        tokio::select! {
            biased;
            stored = confirmed_by(self.ack, self.until) => stored,
            () = self.disconnects.next() => {
                let lost = anyhow::anyhow!("the connection to NATS was lost before it confirmed the message");
                Err(Fault::transient(lost).with_effect(Effect::Possible))
            }
        }
    }
}

async fn confirmed_by(ack: Ack, until: Instant) -> Result<Stored, Fault> {
    match timeout_at(until, ack).await {
        Ok(Ok(ack)) => Ok(Stored { sequence: ack.sequence, duplicate: ack.duplicate }),
        Ok(Err(error)) => {
            let fault = Fault::transient(anyhow::Error::new(error).context("the broker did not store the message"));
            let effect = if answer_of(&fault).is_some() { Effect::None } else { Effect::Possible };
            Err(fault.with_effect(effect))
        }
        Err(_) => {
            let late = anyhow::anyhow!("the broker did not confirm the message in time");
            Err(Fault::transient(late).with_effect(Effect::Possible))
        }
    }
}

/// Publishes to the streams. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    jetstream: jetstream::Context,
    broker: Broker,
}

impl Publisher {
    /// A publisher on `broker`.
    #[must_use]
    pub fn new(broker: &Broker) -> Self {
        Self { jetstream: broker.jetstream().clone(), broker: broker.clone() }
    }

    /// Sends `outgoing` in the trace `traceparent`. Returns before it is confirmed, so that many can be on their way.
    ///
    /// # Errors
    /// Transient when it could not be handed to the connection.
    pub async fn send(&self, outgoing: Outgoing, traceparent: Option<&str>) -> Result<Unconfirmed, Fault> {
        let Outgoing { subject, message_id, payload, mut headers } = outgoing;
        headers.insert(HeaderName::from_static(header::MESSAGE_ID), message_id);
        if let Some(traceparent) = traceparent {
            headers.insert(HeaderName::from_static(header::TRACEPARENT), traceparent);
        }
        self.send_headers(subject, headers, payload).await
    }

    /// Sends a message whose headers are complete.
    ///
    /// # Errors
    /// Transient when it could not be handed to the connection.
    pub async fn send_headers(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<Unconfirmed, Fault> {
        // While the connection is down, the client would queue the message. Refuse it instead.
        if !self.broker.is_connected() {
            return Err(Fault::transient(anyhow::anyhow!("no connection to NATS")));
        }
        let disconnects = self.broker.disconnects();
        let until = Instant::now() + self.broker.timeout();
        match self.jetstream.publish_with_headers(subject, headers, payload).await {
            Ok(ack) => Ok(Unconfirmed { ack: ack.into_future(), until, disconnects }),
            Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                Err(Fault::poison(crate::fault::DeadReason::Rejected, anyhow::Error::new(error)))
            }
            Err(error) => Err(Fault::transient(anyhow::Error::new(error).context("cannot publish"))),
        }
    }

    /// Stores `body` in the bucket `bodies` under `name` (claim check).
    ///
    /// Transient when the body may not be stored whole.
    pub async fn store_body(&self, name: &str, body: &Bytes) -> Result<(), Fault> {
        let stored = bodies::store(&self.broker, name, body).await;
        stored.map_err(|error| Fault::transient(error.context("cannot store the body")))
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use futures::future::join_all;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn lost(disconnects: &Disconnects) -> Unconfirmed {
        Unconfirmed { ack: Box::pin(pending()), until: Instant::now() + TIMEOUT, disconnects: disconnects.clone() }
    }

    #[tokio::test(start_paused = true)]
    async fn lost_confirmations_cost_one_timeout_however_they_are_awaited() {
        let (_connection, disconnects) = Disconnects::of_connection();
        let began = Instant::now();
        let sent: Vec<Unconfirmed> = (0..256).map(|_| lost(&disconnects)).collect();
        for unconfirmed in sent {
            assert!(unconfirmed.confirmed().await.is_err());
        }
        assert_eq!(began.elapsed(), TIMEOUT, "in a row");
        let together = join_all((0..256).map(|_| lost(&disconnects).confirmed_or_cut_off())).await;
        assert!(together.iter().all(Result::is_err));
        assert_eq!(began.elapsed(), TIMEOUT * 2, "together");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_connection_ends_the_wait_for_its_confirmations() {
        let (connection, disconnects) = Disconnects::of_connection();
        let (before, began) = (lost(&disconnects), Instant::now());
        connection.lost();
        let fault = before.confirmed_or_cut_off().await.unwrap_err();
        assert!(fault.to_string().contains("connection to NATS was lost"), "{fault}");
        assert_eq!(began.elapsed(), Duration::ZERO);
        let mut disconnects = disconnects;
        disconnects.forget();
        assert!(lost(&disconnects).confirmed_or_cut_off().await.is_err());
        assert_eq!(began.elapsed(), TIMEOUT, "what is sent by the next connection is waited for");
    }
}
