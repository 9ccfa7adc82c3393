//! `headrace check`: validates the configuration and asks every server that it names.
//!
//! With `--role`, it checks only what this role needs. With `--up`, the configuration may leave the servers to
//! `headrace up`.

use std::time::Duration;

use headrace_ingest::github::recovery;
use headrace_ingest::{collect, sources};
use headrace_runtime::fault::Fault;
use headrace_runtime::secret::redact_url;
use headrace_runtime::state::installation;
use headrace_settings::Problems;
use headrace_sinks::kind::{Identity, Kind as _};
use serde_json::json;
use tokio::time::timeout;

use crate::cli::ask::Check;
use crate::cli::away::{Away, is_away};
use crate::cli::output::{self, Listener, Unwritable};
use crate::commands::up;
use crate::config::Config;
use crate::installation::locate::Purpose;
use crate::nats::connections::{Brokers, connect_admin, connect_first};
use crate::role::{ALL_ROLES, CLICKHOUSE, Role};

/// How long one server may take.
const SERVER_TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) async fn check(arguments: Check) -> anyhow::Result<()> {
    let located = arguments.config.locate(Purpose::Check)?;
    let roles = if arguments.roles.is_empty() { ALL_ROLES.to_vec() } else { arguments.roles.clone() };
    let values = |config: &Config| if arguments.up { up::values(config) } else { config.validate(&roles) };
    let loaded = located.load(values).inspect_err(|problems| hint(problems, &arguments))?;
    let config = loaded.value;
    let mut report = Report { json: arguments.json, failed: 0, refused: 0 };
    let file = located.config().map(|path| format!(" {}", path.display())).unwrap_or_default();
    report.tell(&format!("configuration{file}"), &Found::Well)?;
    for respelt in config.tenants.respelt() {
        report.warn("tenants", &respelt.to_string())?;
    }
    // Boxed, because the future holds a client of every server.
    Box::pin(servers(&config, &arguments, &roles, &mut report)).await?;
    report.end()
}

/// A configuration without a broker is most often meant for `up`.
fn hint(problems: &Problems, arguments: &Check) {
    if !arguments.up && problems.iter().any(|problem| problem.path == "nats.url") {
        output::note(
            "A configuration for `headrace up`, which starts the servers that it does not name, is checked with --up.",
        );
    }
}

/// The result for one server.
enum Found {
    Well,
    /// It does not exist yet and need not.
    Later(&'static str),
    Wrong(Problem),
}

/// Why a server cannot be used.
struct Problem {
    text: String,
    is_away: bool,
}

impl From<anyhow::Error> for Problem {
    fn from(error: anyhow::Error) -> Self {
        Self { text: format!("{error:#}"), is_away: is_away(&error) }
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        fault.source.into()
    }
}

impl From<String> for Problem {
    fn from(text: String) -> Self {
        Self { text, is_away: false }
    }
}

impl From<Result<(), Problem>> for Found {
    fn from(result: Result<(), Problem>) -> Self {
        result.map_or_else(Self::Wrong, |()| Self::Well)
    }
}

/// Prints each result at once, and counts the failures.
struct Report {
    json: bool,
    /// Servers that cannot be used.
    failed: u32,
    /// Those of the failed ones that answered, or whose settings are wrong.
    refused: u32,
}

impl Report {
    /// Reports something that works but may not be intended.
    fn warn(&self, name: &str, text: &str) -> Result<Listener, Unwritable> {
        if self.json {
            output::line(json!({ "check": name, "state": "warning", "detail": text }))
        } else {
            output::line(format_args!("warning {text}"))
        }
    }

    fn tell(&mut self, name: &str, found: &Found) -> Result<Listener, Unwritable> {
        let (state, text) = match found {
            Found::Well => ("ok", None),
            Found::Later(why) => ("later", Some(*why)),
            Found::Wrong(problem) => {
                self.failed += 1;
                self.refused += u32::from(!problem.is_away);
                (if problem.is_away && self.json { "away" } else { "failed" }, Some(problem.text.as_str()))
            }
        };
        match text {
            text if self.json => output::line(json!({ "check": name, "state": state, "detail": text })),
            Some(text) => output::line(format_args!("{state:<6}  {name}: {text}")),
            None => output::line(format_args!("{state:<6}  {name}")),
        }
    }

    /// Checks one server.
    async fn of<P: Into<Problem>>(
        &mut self,
        name: &str,
        check: impl Future<Output = Result<(), P>>,
    ) -> Result<Listener, Unwritable> {
        let found = match timeout(SERVER_TIMEOUT, check).await {
            Ok(result) => result.map_err(Into::into),
            Err(_) => Err(Problem { text: format!("no answer within {} s", SERVER_TIMEOUT.as_secs()), is_away: true }),
        };
        self.tell(name, &Found::from(found))
    }

    fn end(self) -> anyhow::Result<()> {
        let problem = format!("{} of the servers above cannot be used", self.failed);
        match self {
            Self { failed: 0, .. } => Ok(()),
            Self { refused: 0, .. } => Err(Away::error(problem)),
            _ => Err(anyhow::anyhow!(problem)),
        }
    }
}

/// Checks every server that `roles` need.
async fn servers(config: &Config, arguments: &Check, roles: &[Role], report: &mut Report) -> anyhow::Result<()> {
    let mut installation = None;
    if arguments.up && config.nats.url.is_empty() {
        report.tell("nats", &Found::Later("`headrace up` starts it"))?;
    } else {
        let name = format!("nats {}", redact_url(&config.nats.url));
        let asked = async {
            installation = nats(config, arguments).await?;
            anyhow::Ok(())
        };
        report.of(&name, Box::pin(asked)).await?;
    }
    let installation = installation.as_deref();
    let has_sinks = roles.contains(&Role::Sinks);
    let recover = config.recover.as_ref().filter(|_| roles.contains(&Role::Recover));
    // Recovery asks ClickHouse what arrived.
    if has_sinks || recover.is_some() {
        Box::pin(clickhouse(config, arguments, installation, report)).await?;
    }
    if has_sinks {
        Box::pin(other_sinks(config, arguments, installation, report)).await?;
    }
    if roles.contains(&Role::Collect) {
        for pull in sources::pulls(&config.ingest, config.for_sources())? {
            report.of(&format!("source {}", collect::name_of(&*pull)), pull.check()).await?;
        }
    }
    if let Some(recover) = recover {
        for (own, name) in recover.hooks.iter().zip(recovery::hook_names(recover)) {
            report.of(&format!("deliveries of {name}"), Box::pin(recovery::check(recover, own))).await?;
        }
    }
    Ok(())
}

/// Returns the id of the installation, if streams and buckets are to be made.
async fn nats(config: &Config, arguments: &Check) -> anyhow::Result<Option<String>> {
    let broker = if arguments.migrate {
        connect_admin(config, "headrace-check").await?
    } else if arguments.roles.is_empty() {
        connect_first(config, "headrace-check").await?
    } else {
        // If each role has a user of its own, each user must be let in.
        Brokers::connect(config, &arguments.roles, "headrace-check").await?.first().clone()
    };
    broker.jetstream_answers().await?;
    if arguments.migrate {
        broker.ensure_topology(&config.streams).await?;
        return installation::id(&broker).await.map(Some);
    }
    Ok(None)
}

async fn clickhouse(
    config: &Config,
    arguments: &Check,
    installation: Option<&str>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let named = config.clickhouse().filter(|clickhouse| !clickhouse.url.is_empty());
    let Some(clickhouse) = named else {
        if arguments.up {
            report.tell("clickhouse", &Found::Later("`headrace up` starts it"))?;
        }
        return Ok(());
    };
    let name = format!("clickhouse {}", redact_url(&clickhouse.url));
    report.of(&name, Box::pin(clickhouse.reach())).await?;
    if arguments.migrate {
        let own = installation.map(|id| Identity { instance: CLICKHOUSE.to_owned(), installation: id.to_owned() });
        let prepared = async { clickhouse.prepare(own.as_ref()).await.unwrap_or(Ok(())) };
        report.of(&format!("{name} migrated"), Box::pin(prepared)).await?;
    }
    Ok(())
}

async fn other_sinks(
    config: &Config,
    arguments: &Check,
    installation: Option<&str>,
    report: &mut Report,
) -> anyhow::Result<()> {
    for sink in config.sinks.iter().filter(|sink| sink.name() != CLICKHOUSE) {
        report.of(sink.name(), Box::pin(sink.check())).await?;
        if arguments.migrate
            && let Some(prepared) = sink.prepare(installation).await
        {
            report.of(&format!("{} migrated", sink.name()), async { prepared }).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_when_no_server_answers_is_it_a_matter_of_waiting() {
        let away = || Problem { text: "connection refused".to_owned(), is_away: true };
        let refused = || Problem { text: "401".to_owned(), is_away: false };
        for (problems, expected) in [
            (vec![], None),
            (vec![away(), away()], Some(true)),
            (vec![away(), refused()], Some(false)),
            (vec![refused()], Some(false)),
        ] {
            let mut report = Report { json: true, failed: 0, refused: 0 };
            for problem in problems {
                report.tell("server", &Found::Wrong(problem)).unwrap();
            }
            report.tell("clickhouse", &Found::Later("`headrace up` starts it")).unwrap();
            assert_eq!(report.end().err().map(|error| error.is::<Away>()), expected);
        }
    }
}
