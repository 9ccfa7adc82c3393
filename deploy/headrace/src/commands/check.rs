//! `headrace check`: is the configuration right, and does every server that it names answer?

use std::time::Duration;

use headrace_ingest::github::recovery;
use headrace_runtime::component::sink::Sink as _;
use headrace_runtime::fault::Fault;
use headrace_runtime::secret::redact_url;
use headrace_schemas::alert::Alert;
use headrace_schemas::event::Event;
use tokio::time::timeout;

use crate::cli::ask::Check;
use crate::config::{self, Config};
use crate::installation::locate::Purpose;
use crate::nats::connections::{connect_admin, connect_first};
use crate::role::ALL_ROLES;

/// Longest time for one server.
const SERVER_TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) async fn check(arguments: Check) -> anyhow::Result<()> {
    let located = arguments.config.locate(Purpose::Check)?;
    let loaded = config::load(located.config(), |config| config.validate(&ALL_ROLES))?;
    loaded.check(loaded.value.validate(&ALL_ROLES))?;
    println!("ok      configuration");
    let config = loaded.value;
    let mut failed = 0;
    let mut report = |name: &str, result: Result<(), String>| match result {
        Ok(()) => println!("ok      {name}"),
        Err(problem) => {
            failed += 1;
            println!("failed  {name}: {problem}");
        }
    };
    report(&format!("nats {}", redact_url(&config.nats.url)), within(Box::pin(nats(&config, &arguments))).await);
    if let Some(clickhouse) = &config.sinks.clickhouse {
        let name = format!("clickhouse {}", redact_url(&clickhouse.url));
        report(&name, within(reach(clickhouse.reach())).await);
        if arguments.migrate {
            report(&format!("{name} migrated"), within(reach(clickhouse.migrate())).await);
        }
    }
    if let Some(splunk) = &config.sinks.splunk {
        let sink = splunk.build()?;
        report("splunk", within(reach(sink.check())).await);
    }
    if let Some(jira) = &config.sinks.jira {
        let sink = jira.build()?;
        report("jira", within(reach(sink.check())).await);
    }
    if let Some(file) = &config.sinks.file {
        let (events, alerts) = (file.build::<Event>(), file.build::<Alert>());
        report("file events", within(reach(events.check())).await);
        report("file alerts", within(reach(alerts.check())).await);
    }
    if let Some(recover) = &config.recover {
        for (own, name) in recover.hooks.iter().zip(recovery::hook_names(recover)) {
            report(&format!("deliveries of {name}"), within(Box::pin(recovery::check(recover, own))).await);
        }
    }
    anyhow::ensure!(failed == 0, "{failed} of the servers above cannot be used");
    Ok(())
}

async fn nats(config: &Config, arguments: &Check) -> Result<(), String> {
    let check = async {
        let broker = if arguments.migrate {
            connect_admin(config, "headrace-check").await?
        } else {
            connect_first(config, "headrace-check").await?
        };
        broker.jetstream_answers().await?;
        if arguments.migrate {
            broker.ensure_topology(&config.streams).await?;
        }
        anyhow::Ok(())
    };
    check.await.map_err(|error| format!("{error:#}"))
}

async fn reach(check: impl Future<Output = Result<(), Fault>>) -> Result<(), String> {
    check.await.map_err(|fault| fault.to_string())
}

async fn within(check: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    timeout(SERVER_TIMEOUT, check)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s", SERVER_TIMEOUT.as_secs())))
}
