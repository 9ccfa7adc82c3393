//! Publishes messages and knows which the broker has stored.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishAckFuture, PublishErrorKind};
use async_nats::jetstream::{self, ErrorCode};
use bytes::Bytes;
use headrace_schemas::header;
use tokio::time::timeout;

use crate::bodies;
use crate::broker::Broker;
use crate::fault::Fault;
use crate::payload::Outgoing;

/// What the broker said of a stored message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// The broker knew its deduplication key already and stored nothing new.
    pub duplicate: bool,
}

/// Answers of a broker that has no room for a message: its stream is at its limit, or the disk is full.
const FULL: [ErrorCode; 2] = [ErrorCode::STREAM_STORE_FAILED, ErrorCode::INSUFFICIENT_RESOURCES];

/// Whether the broker said that it has no room for the message. Then it was not stored, which is more than is known
/// of a message without an answer.
#[must_use]
pub fn is_full(fault: &Fault) -> bool {
    let answer = fault.source.chain().find_map(|cause| cause.downcast_ref::<jetstream::Error>());
    answer.is_some_and(|error| FULL.contains(&error.error_code()))
}

/// A message on its way; [`Unconfirmed::confirmed`] tells how it ended.
pub struct Unconfirmed {
    ack: PublishAckFuture,
    timeout: Duration,
}

impl Unconfirmed {
    /// Waits for the broker's word that the message is stored.
    ///
    /// # Errors
    /// Transient, whatever the broker says: the message may or may not be stored.
    pub async fn confirmed(self) -> Result<Stored, Fault> {
        match timeout(self.timeout, self.ack).await {
            Ok(Ok(ack)) => Ok(Stored { sequence: ack.sequence, duplicate: ack.duplicate }),
            Ok(Err(error)) => {
                Err(Fault::transient(anyhow::Error::new(error).context("the broker did not store the message")))
            }
            Err(_) => Err(Fault::transient(anyhow::anyhow!("the broker did not confirm the message in time"))),
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

    /// Sends `outgoing` in the trace `traceparent` and returns before it is confirmed, so that many
    /// can be on their way.
    ///
    /// # Errors
    /// Transient when it could not be handed to the connection.
    pub async fn send(&self, outgoing: Outgoing, traceparent: Option<&str>) -> Result<Unconfirmed, Fault> {
        let Outgoing { subject, message_id, payload, mut headers } = outgoing;
        headers.insert(header::MESSAGE_ID, message_id);
        if let Some(traceparent) = traceparent {
            headers.insert(header::TRACEPARENT, traceparent);
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
        let timeout = self.broker.timeout();
        // While the connection is down the client would queue what it is given; refuse instead.
        if !self.broker.is_connected() {
            return Err(Fault::transient(anyhow::anyhow!("no connection to NATS")));
        }
        match self.jetstream.publish_with_headers(subject, headers, payload).await {
            Ok(ack) => Ok(Unconfirmed { ack, timeout }),
            Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                Err(Fault::poison(crate::fault::Reason::Rejected, anyhow::Error::new(error)))
            }
            Err(error) => Err(Fault::transient(anyhow::Error::new(error).context("cannot publish"))),
        }
    }

    /// Stores `body` in the bucket `bodies` under `name` (claim check).
    ///
    /// # Errors
    /// Transient, when it may not be stored whole.
    pub async fn store_body(&self, name: &str, body: &Bytes) -> Result<(), Fault> {
        let stored = bodies::store(&self.broker, name, body).await;
        stored.map_err(|error| Fault::transient(error.context("cannot store the body")))
    }
}
