//! `headrace run`: chosen roles against servers that exist already.

use std::collections::BTreeMap;

use headrace_runtime::retry::retry_within;

use crate::cli::global::Global;
use crate::cli::serve::Run;
use crate::config::Config;
use crate::config::memory::Beside;
use crate::installation::locate::Purpose;
use crate::installation::ready::{Ready, ReadyFiles};
use crate::nats::connections::Brokers;
use crate::process::Process;
use crate::process::listeners::{Listeners, Settings};
use crate::process::started::{self, Awaited, until_ready};
use crate::process::stop::Stop;
use crate::process::telemetry;
use crate::role::{ALL_ROLES, Role};

pub(crate) async fn run(arguments: Run, global: Global) -> anyhow::Result<()> {
    let roles = if arguments.roles.is_empty() { ALL_ROLES.to_vec() } else { arguments.roles };
    let located = arguments.config.locate(Purpose::Run)?;
    let config = located.load(|config| config.validate(&roles))?.value;
    telemetry::install(&config.log, global.filter())?;
    located.log();
    let mut stop = Stop::listen()?;
    let ready_files = ReadyFiles::claim(arguments.ready_file)?;
    let listeners = Listeners::bind(&config, &roles, &Settings::CONFIGURED)?;

    let brokers = retry_within(config.nats.start_wait(), async || {
        let brokers = Brokers::connect(&config, &roles, "headrace").await?;
        brokers.first().ensure_topology(&config.streams).await?;
        Ok(brokers)
    });
    let brokers = tokio::select! {
        brokers = brokers => brokers?,
        () = stop.signalled() => return Ok(()),
    };
    let process = tokio::select! {
        process = Process::start(&config, &roles, &brokers, listeners, Beside::Nothing) => process?,
        () = stop.signalled() => return Ok(()),
    };
    let told = tokio::select! {
        told = tell(&process, &config, &roles, &ready_files) => told,
        () = stop.signalled() => Ok(()),
    };
    // Remove the ready files first, because soon nobody answers at their addresses.
    drop(ready_files);
    // The first error counts: why the process ended matters more than how.
    let ended = stop.end(process.stop(config.shutdown.grace())).await;
    told.and(ended)
}

/// Writes the ready files once everything that must answers, and then waits for ever.
async fn tell(process: &Process, config: &Config, roles: &[Role], ready_files: &ReadyFiles) -> anyhow::Result<()> {
    // Wait without a limit: this process works as soon as the broker is back.
    let away = until_ready(process, Awaited { own: &[], within: None }).await?;
    ready_files.write(&Ready {
        gateway: process.gateway.map(|address| format!("http://{address}")),
        nats: Some(config.nats.url.clone()),
        clickhouse: config.clickhouse().map(|clickhouse| clickhouse.url.clone()),
        metrics: format!("http://{}", process.admin),
        webhook_secret: None,
        tokens: BTreeMap::new(),
        pids: BTreeMap::from([("headrace".to_owned(), std::process::id())]),
    })?;
    started::tell(&away);
    tracing::info!(?roles, gateway = ?process.gateway, metrics = %process.admin, "running");
    std::future::pending().await
}
