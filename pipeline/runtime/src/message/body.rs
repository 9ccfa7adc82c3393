//! Bodies too large for a message, which only refers to them: read from the bucket `bodies`.

use async_nats::jetstream::object_store::{GetErrorKind, Object};
use bytes::Bytes;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use crate::broker::Broker;
use crate::fault::{DeadReason, Fault};

/// The most bytes to reserve for a body before it is there: more than GitHub's largest.
const ROOM_BYTES_MAX: usize = 32 << 20;

/// The client library's words for an object description that it cannot decode. It has no error kind for that.
const UNDECODABLE: &str = "failed to decode info payload";

/// The broker did not give a body.
#[derive(Debug, thiserror::Error)]
#[error("the broker did not give the body `{0}`")]
struct Unanswered(String);

/// Whether reading failed because the broker gave no answer.
pub(crate) fn is_unanswered(fault: &Fault) -> bool {
    fault.source.downcast_ref::<Unanswered>().is_some()
}

/// Reads the body `object`.
pub(crate) async fn fetch(broker: &Broker, object: &str) -> Result<Bytes, Fault> {
    let within = broker.timeout();
    let late = |_| Fault::transient(Unanswered(object.to_owned()));
    let mut reader = timeout(within, open(broker, object)).await.map_err(late)??;
    // Reserve a little more than the size: reaching the end of a full buffer would double it. The size that the bucket
    // tells is not trusted beyond the limit.
    let mut body = Vec::with_capacity(reader.info().size.min(ROOM_BYTES_MAX) + 64);
    // The timeout bounds each read, not the whole. So a lost server costs one timeout, and a slow one is not cut off.
    while timeout(within, reader.read_buf(&mut body)).await.map_err(late)?.map_err(Fault::transient)? > 0 {}
    Ok(body.into())
}

async fn open(broker: &Broker, object: &str) -> Result<Object, Fault> {
    let unanswered = |error: anyhow::Error| Fault::transient(error.context(Unanswered(object.to_owned())));
    let bodies = broker.bodies().await.map_err(unanswered)?;
    bodies.get(object).await.map_err(|error| match error.kind() {
        GetErrorKind::NotFound => {
            Fault::poison(DeadReason::BodyLost, anyhow::anyhow!("the body `{object}` is not in the bucket `bodies`"))
        }
        GetErrorKind::InvalidName => Fault::transient(error),
        GetErrorKind::Other if error.to_string().contains(UNDECODABLE) => {
            let problem = anyhow::Error::new(error);
            Fault::poison(DeadReason::BodyLost, problem.context(format!("what the bucket `bodies` says of `{object}`")))
        }
        _ => unanswered(error.into()),
    })
}
