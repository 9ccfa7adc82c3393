//! Puts a body into the bucket `bodies`, in the form of NATS' object store, so that every client can read it. The form
//! is that of NATS' architecture decision record 20.
//!
//! The client library's own `put` looks for an earlier object and purges its chunks. A gateway must have no right to do
//! either: whoever may purge the bucket can lose bodies that were confirmed. When an object is stored again, the chunks
//! of the first one stay until they are too old.

use std::collections::HashMap;

use anyhow::Context as _;
use async_nats::datetime::now;
use async_nats::jetstream::object_store::{ObjectInfo, ObjectOptions};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use bytes::Bytes;
use futures::future::try_join_all;
use sha2::{Digest as _, Sha256};

use crate::broker::{BODIES, Broker};

/// Size of a chunk, the same as the client library's.
const CHUNK_BYTES: usize = 128 << 10;

/// Stores `body` under `name`. Returns when the broker has confirmed all of it. Until then nobody finds it.
///
/// # Errors
/// When the broker does not answer or does not store it whole.
pub(crate) async fn store(broker: &Broker, name: &str, body: &Bytes) -> anyhow::Result<()> {
    let jetstream = broker.jetstream();
    let hashed = body.clone();
    // To hash megabytes would block a thread of the reactor.
    let digest = tokio::task::spawn_blocking(move || Sha256::digest(&hashed)).await.context("hashing was cut off")?;
    let nuid = format!("{:032x}", rand::random::<u128>());
    let chunks = format!("$O.{BODIES}.C.{nuid}");
    let mut unconfirmed = Vec::new();
    for begin in (0..body.len()).step_by(CHUNK_BYTES) {
        let chunk = body.slice(begin..body.len().min(begin + CHUNK_BYTES));
        unconfirmed.push(jetstream.publish(chunks.clone(), chunk).await.context("cannot publish a chunk")?);
    }
    let count = unconfirmed.len();
    try_join_all(unconfirmed.into_iter().map(IntoFuture::into_future)).await.context("a chunk was not stored")?;
    let info = ObjectInfo {
        name: name.to_owned(),
        description: None,
        metadata: HashMap::new(),
        headers: None,
        options: Some(ObjectOptions { link: None, max_chunk_size: Some(CHUNK_BYTES) }),
        bucket: BODIES.to_owned(),
        nuid,
        size: body.len(),
        chunks: count,
        modified: Some(now()),
        digest: Some(format!("SHA-256={}", URL_SAFE.encode(digest))),
        deleted: false,
    };
    let info = serde_json::to_vec(&info).context("cannot describe the object")?;
    let subject = format!("$O.{BODIES}.M.{}", URL_SAFE.encode(name));
    let sent = jetstream.publish(subject, info.into()).await.context("cannot publish the object's description")?;
    sent.await.context("the object's description was not stored")?;
    Ok(())
}
