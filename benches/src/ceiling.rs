//! Measures what NATS accepts from a client without a gateway. The client publishes the same bodies with the same
//! headers into the same stream, and each is confirmed. As many are on their way at once as the gateway could have.
//!
//! A gateway cannot be faster. Its own work is the difference: HTTP, HMAC, finding the tenant.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::{self, Context};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::bodies::Bodies;
use crate::raw;
use crate::servers::Nats;
use crate::usage::{Disturbance, Meter};

/// How long to publish before the window.
const WARMUP: Duration = Duration::from_secs(1);

/// Publishes from `publishers` tasks, each with one message on its way. Returns the messages confirmed per second, and
/// what else the machine did: other work lowers the ceiling, and the gateway would look too good.
pub(crate) async fn measure(
    bodies: &Arc<Bodies>,
    publishers: u16,
    window: Duration,
) -> anyhow::Result<(f64, Disturbance)> {
    let nats = Nats::start(u64::MAX).await?;
    nats.broker().await?.ensure_topology(&nats.streams).await?;
    let meter = Meter::new(nats.process());
    let before = meter.sample()?;
    let jetstream = jetstream::new(nats.client.clone());
    let opens = Instant::now() + WARMUP;
    let closes = opens + window;
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..publishers {
        let (jetstream, bodies, next) = (jetstream.clone(), Arc::clone(bodies), Arc::clone(&next));
        tasks.spawn(async move {
            let mut confirmed_in_window = 0_u64;
            while Instant::now() < closes {
                let index = next.fetch_add(1, Ordering::Relaxed);
                publish(&jetstream, &bodies, index).await?;
                confirmed_in_window += u64::from((opens..closes).contains(&Instant::now()));
            }
            anyhow::Ok(confirmed_in_window)
        });
    }
    let mut confirmed = 0;
    while let Some(ended) = tasks.join_next().await {
        confirmed += ended.context("a publisher panicked")??;
    }
    let disturbance = meter.sample()?.disturbance(&before);
    nats.stop().await;
    Ok(((confirmed as f64 / window.as_secs_f64()).round(), disturbance))
}

async fn publish(jetstream: &Context, bodies: &Bodies, index: u64) -> anyhow::Result<()> {
    let (subject, headers, json) = raw::message(bodies, index)?;
    let sent = jetstream.publish_with_headers(subject, headers, json).await.context("cannot publish")?;
    let stored = sent.await.context("NATS did not store a message")?;
    anyhow::ensure!(!stored.duplicate, "NATS took a new message for a known one");
    Ok(())
}
