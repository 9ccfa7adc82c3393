//! `headrace run`: chosen roles against servers that exist already.

use std::collections::BTreeMap;
use std::pin::pin;

use headrace_runtime::patience::patiently;
use tokio::signal::unix::{SignalKind, signal};

use crate::brokers::Brokers;
use crate::cli::{Role, Run};
use crate::config;
use crate::ready::Ready;
use crate::roles::Process;
use crate::telemetry;

/// All roles.
pub(crate) const ALL_ROLES: [Role; 4] = [Role::Ingest, Role::Pipeline, Role::Sinks, Role::Recover];

pub(crate) async fn run(arguments: Run) -> anyhow::Result<()> {
    let roles = if arguments.roles.is_empty() { ALL_ROLES.to_vec() } else { arguments.roles };
    let loaded = config::load(arguments.config.config.as_deref(), |config| config.validate(&roles))?;
    loaded.check(loaded.value.validate(&roles))?;
    let config = loaded.value;
    telemetry::install(&config.log)?;
    let mut stop = pin!(stop_signal()?);
    arguments.ready_file.as_deref().map_or(Ok(()), Ready::remove)?;

    let brokers = patiently(config.nats.start_wait(), async || {
        let brokers = Brokers::connect(&config, &roles, "headrace").await?;
        brokers.first().ensure_topology(&config.streams).await?;
        Ok(brokers)
    });
    let brokers = tokio::select! {
        brokers = brokers => brokers?,
        () = &mut stop => return Ok(()),
    };
    let process = Process::start(&config, &roles, &brokers).await?;
    if let Some(path) = &arguments.ready_file {
        let ready = Ready {
            gateway: process.gateway.map(|address| format!("http://{address}")),
            nats: Some(config.nats.url.clone()),
            clickhouse: config.sinks.clickhouse.as_ref().map(|clickhouse| clickhouse.url.clone()),
            metrics: format!("http://{}", process.admin),
            webhook_secret: None,
            pids: BTreeMap::from([("headrace".to_owned(), std::process::id())]),
        };
        ready.write(path)?;
    }
    tracing::info!(?roles, gateway = ?process.gateway, metrics = %process.admin, "running");
    stop.await;
    process.stop(config.shutdown.grace()).await;
    Ok(())
}

/// Resolves at the first SIGINT or SIGTERM.
pub(crate) fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
