//! The id of the installation: at random, made once, the same for all processes that share a NATS. A receiver that several
//! installations reach tells them apart by it, because their sinks have the same names.
//!
//! It is in the bucket `asides`, which keeps its keys for ever and is the sinks' own. Processes at work put it back when
//! the bucket is made anew beside them. Where all of NATS is lost, the next process makes another id.

use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::every::every;
use crate::state::StateStore;

/// The key.
const KEY: &str = "installation";
/// How often to look whether it is still there. A process that begins while it is not there makes another.
const PERIOD: Duration = Duration::from_secs(5);

/// The id, 32 hexadecimal digits. Who asks first makes it.
///
/// # Errors
/// When the broker does not answer, the bucket `asides` is missing, or what is kept is no id.
pub async fn id(broker: &Broker) -> anyhow::Result<String> {
    let store = StateStore::open_asides(broker).await?;
    match kept(&store).await? {
        Some(id) => Ok(id),
        None => {
            put(&store, &hex::encode(rand::random::<[u8; 16]>())).await?;
            kept(&store).await?.context("expected the id of the installation, which was just kept, found none")
        }
    }
}

/// Puts `id` back when it is gone, until `stop`. It never replaces another, and tells of it.
///
/// # Errors
/// Never: what fails is tried again.
pub async fn keep(broker: Broker, id: String, stop: CancellationToken) -> anyhow::Result<()> {
    let (mut turns, mut told) = (every(PERIOD, &stop), false);
    while turns.next().await {
        match put_back(&broker, &id).await {
            Ok(Some(other)) if !told => {
                told = true;
                tracing::error!(
                    id,
                    other,
                    "the id of the installation was made anew in NATS while this process worked. It keeps the former one; a \
                     process that begins now has the other, and a ClickHouse sink there is broken until it is handed over \
                     with `DROP TABLE headrace.owner`"
                );
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(error = format!("{error:#}"), "cannot look at the id of the installation"),
        }
    }
    Ok(())
}

/// Returns the other id that is kept, if there is one.
async fn put_back(broker: &Broker, id: &str) -> anyhow::Result<Option<String>> {
    let store = StateStore::open_asides(broker).await?;
    match kept(&store).await? {
        None => put(&store, id).await.map(|()| None),
        Some(found) => Ok((found != id).then_some(found)),
    }
}

async fn put(store: &StateStore, id: &str) -> anyhow::Result<()> {
    // Whether it was ours that was kept is looked up by the caller.
    store.save(KEY, id.to_owned().into(), None).await.map(|_| ()).map_err(|fault| fault.source)
}

async fn kept(store: &StateStore) -> anyhow::Result<Option<String>> {
    let Some(entry) = store.load(KEY).await.map_err(|fault| fault.source)? else { return Ok(None) };
    let id = String::from_utf8(entry.value.to_vec()).ok();
    let id = id.filter(|id| !id.is_empty() && id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    id.map(Some).context(
        "expected an id of at most 64 letters and digits at the key `installation` of the bucket `asides`, found something else. \
         Remove it with `nats kv del asides installation`, and the next process makes another",
    )
}
