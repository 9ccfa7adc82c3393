//! `headrace replay`: computes stored deliveries again with the present stages, into ClickHouse and nowhere else.
//!
//! The pipeline's stages run in this process. The replay publishes nothing and settles nothing.
//! [`headrace_sinks::clickhouse::Rewrite`] replaces rows, `work.rs` processes the batches. A lease makes sure that one
//! replay runs at a time. The progress is kept in JetStream KV, under a key made of the arguments and the
//! configuration.

mod compute;
mod known;
mod live;
mod record;
mod report;
mod retry;
mod status_line;
mod work;
mod write;

use std::collections::VecDeque;

use anyhow::Context as _;
use clap::error::ErrorKind;
use headrace_runtime::broker::Broker;
use headrace_runtime::config::Invalid;
use headrace_runtime::consume::stream_reader::{self, Window};
use headrace_runtime::secret::Secret;
use headrace_runtime::state::StateStore;
use headrace_runtime::state::lease::Lease;
use headrace_schemas::time::Timestamp;
use headrace_schemas::token;
use headrace_settings::Loaded;
use headrace_sinks::clickhouse;
use headrace_stages::chains;
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep};

use self::known::KnownDead;
use self::record::{Journal, Record, Totals};
use self::status_line::StatusLine;
use self::work::{Shared, Target, Work};
use crate::cli;
use crate::cli::global::Global;
use crate::cli::replay::Replay;
use crate::cli::time;
use crate::commands::up;
use crate::config::{self, Config, memory};
use crate::installation::last_up::LastUp;
use crate::installation::locate::{Located, Named};
use crate::installation::{running, servers};
use crate::nats::connections::connect_admin;
use crate::process::stop::stop_signal;
use crate::process::verify;

/// Key of the lease.
const LEASE: &str = "lease.replay";

pub(crate) async fn replay(arguments: Replay, global: Global) -> anyhow::Result<()> {
    let mut status_line = if global.is_quiet() { StatusLine::silent() } else { StatusLine::new() };
    let to = upper_end(&arguments, &mut status_line)?;
    let config = configured(&arguments, &mut status_line)?;
    let clickhouse = config.clickhouse().context("the configuration was validated")?;
    let broker = connect_admin(&config, "headrace-replay").await?;
    let store = StateStore::open(&broker).await.context("is `headrace run` or `headrace up` set up there?")?;
    // Each replay has a new name as a writer, so that it never takes an earlier one's rows for its own.
    let writer = hex::encode(rand::random::<[u8; 16]>());
    let mut lease = Lease::new(store.clone(), LEASE, &writer, config.replay.lease());
    take(&mut lease, &mut status_line).await?;
    let stop = stop_signal()?;
    let run = Run { arguments: &arguments, to, config: &config, clickhouse, broker: &broker, store, writer: &writer };
    let done = tokio::select! {
        done = run.run(&mut status_line) => done,
        () = lease.keep() => Err(anyhow::anyhow!("the lease is lost; the same command goes on from here")),
        () = stop => Err(anyhow::anyhow!("interrupted; the same command goes on from here")),
    };
    lease.release().await;
    drop(status_line);
    let totals = done?;
    if arguments.json {
        report::tell_json(&totals, arguments.into.as_deref())?;
    } else {
        report::tell(&totals, arguments.into.as_deref())?;
    }
    report::ensure_all_computed(&totals)
}

/// The end of the window. It cannot be in the future, because those deliveries are not there yet.
fn upper_end(arguments: &Replay, status_line: &mut StatusLine) -> anyhow::Result<Timestamp> {
    let now = Timestamp::now();
    let until = arguments.until.as_ref().map_or(now, |until| until.at);
    if until > now {
        status_line.print(&format!("--until {until} is in the future; up to now is replayed"));
    }
    let until = until.min(now);
    time::ensure_window(arguments.since.at, until)?;
    Ok(until)
}

/// The configuration. Where it names no servers, those of the running `up`.
fn configured(arguments: &Replay, status_line: &mut StatusLine) -> anyhow::Result<Config> {
    // Do this before the configuration is loaded, because loading may change the working directory.
    let located = arguments.place.locate()?;
    let path = std::path::absolute(located.data_dir()).context("cannot find the working directory")?;
    let data_dir = Named { path, by: located.data_dir.by.clone() };
    let mut loaded = load(arguments, &located, &data_dir, status_line)?;
    servers::ensure_own(&located, &loaded)?;
    let config = &mut loaded.value;
    let names_clickhouse = config.sinks.first_or_default::<clickhouse::Config>().url.is_empty();
    let github = &mut config.ingest.github;
    let lacks_secret = config.pipeline.verify && github.secrets.is_empty() && github.scoped.is_empty();
    if config.nats.url.is_empty() || names_clickhouse {
        let lacking = if config.nats.url.is_empty() { servers::NATS } else { servers::CLICKHOUSE };
        if arguments.defaults {
            servers::of_up_because(&located, "--defaults does not read its configuration")?;
        } else {
            servers::of_up(&located, lacking)?;
        }
        let ready = running::of(&data_dir).context(
            "expected the addresses of NATS and ClickHouse: name a configuration with `nats.url` and \
             `sinks.clickhouse.url`, or the --data-dir of a running `headrace up`",
        )?;
        let nats = ready.nats.context("the ready file of the running process names no NATS server")?;
        let clickhouse = ready.clickhouse.context("the ready file of the running process names no ClickHouse")?;
        if lacks_secret {
            github.secrets.extend(ready.webhook_secret.map(Secret::new));
        }
        *config = up::with_servers(config, &nats, &clickhouse);
    }
    loaded.refuse(config::told(loaded.value.validate_replay()))?;
    Ok(loaded.value)
}

/// Loads the configuration with which the rows are computed. It never falls back to the built-in one, which would
/// remove asset owners and the matches of own rules from every row.
fn load(
    arguments: &Replay,
    located: &Located,
    data_dir: &Named,
    status_line: &mut StatusLine,
) -> anyhow::Result<Loaded<Config>> {
    if arguments.defaults {
        return Ok(config::load(None, values)?);
    }
    if let Some(named) = located.named_config() {
        return Ok(config::load(Some(named), values)?);
    }
    let Some(last_up) = LastUp::read(data_dir)? else {
        if let Some(found) = located.config() {
            status_line.note(&format!("using the configuration {}", found.display()));
            return Ok(located.load(Config::validate_replay)?);
        }
        let problem = format!(
            "expected the configuration that the rows are computed with, found none: no `headrace up` of this release has \
             run on {}. Name it with --config (or --defaults if `up` ran without one)",
            data_dir.path.display()
        );
        return Err(cli::wrong(&["replay"], ErrorKind::MissingRequiredArgument, &problem).into());
    };
    status_line.note(&last_up.told());
    last_up.load(values)
}

/// The wrong values, apart from those that the running `up` fills in.
fn values(config: &Config) -> Vec<Invalid> {
    let mut config = config.clone();
    let names_clickhouse = config.sinks.first_or_default::<clickhouse::Config>().url.is_empty();
    let is_filled_in = config.nats.url.is_empty() || names_clickhouse;
    let github = &mut config.ingest.github;
    if is_filled_in && github.secrets.is_empty() && github.scoped.is_empty() {
        github.secrets.push(Secret::new("that of the running process"));
    }
    up::with_servers(&config, "nats://127.0.0.1:1", "http://127.0.0.1:1").validate_replay()
}

/// Takes the lease. If a replay was killed, it waits until that lease has expired.
async fn take(lease: &mut Lease, status_line: &mut StatusLine) -> anyhow::Result<()> {
    let began = Instant::now();
    while !lease.claim().await.map_err(|fault| fault.source)? {
        let deadline = began + lease.expires_after() * 2;
        anyhow::ensure!(Instant::now() < deadline, "another replay is running; wait for its end, or stop it");
        status_line.update(|| "another replay runs or was killed; waiting for its lease to end".to_owned());
        sleep(lease.period()).await;
    }
    Ok(())
}

/// What a replay needs.
struct Run<'a> {
    arguments: &'a Replay,
    to: Timestamp,
    config: &'a Config,
    clickhouse: &'a clickhouse::Config,
    broker: &'a Broker,
    store: StateStore,
    writer: &'a str,
}

impl Run<'_> {
    async fn run(&self, status_line: &mut StatusLine) -> anyhow::Result<Totals> {
        let stage = chains::build_whole(&self.config.pipeline, verify(self.config).as_ref())?;
        self.clickhouse.restore().await.map_err(|fault| fault.source)?;
        if self.arguments.into.is_none() {
            self.clickhouse.ensure_moved().await.map_err(|fault| fault.source)?;
        }
        let mut journal = Journal::new(self.store.clone(), self.key()?);
        let record = match journal.read().await? {
            Some(record) if !self.arguments.restart => self.resume(record, status_line).await,
            _ => self.begin(&mut journal, status_line).await?,
        };
        let window = Window { from: record.from, to: record.to, tenant: self.tenant() };
        let target = match &self.arguments.into {
            Some(name) => {
                let made = self.clickhouse.create_side_table(name, &comment(&window, &record)).await;
                made.map_err(|fault| fault.source)?;
                Target { events: self.clickhouse.side_table(name, self.writer), shared: None }
            }
            None => Target {
                events: self.clickhouse.events_rewritten(&window, record.since, self.writer),
                shared: Some(Shared {
                    bodies: self.clickhouse.bodies_completed(record.since, self.writer),
                    proven_after: self.clickhouse.event_options().call_timeout + self.clickhouse.clock_skew(),
                }),
            },
        };
        let policy = self.config.retry.policy();
        let (broker, added) = (self.broker, VecDeque::new());
        let batch_max = memory::replay(self.config, self.clickhouse.batch_events_max.min(clickhouse::ITEMS_MAX))?;
        let known = KnownDead::read(broker).await?;
        let work =
            Work { broker, window, stage, target, batch_max, policy, known, journal, record, status_line, added };
        // Boxed, because the future holds everything of the replay.
        Box::pin(work.run()).await
    }

    fn tenant(&self) -> Option<String> {
        self.arguments.tenant.as_deref().map(token::escaped)
    }

    /// The key of the progress. Only the same command with the same configuration finds it again.
    fn key(&self) -> anyhow::Result<String> {
        let Replay { since, until, into, .. } = self.arguments;
        let until = until.as_ref().map(|until| &until.text);
        let asked = (&since.text, until, self.tenant(), into, &self.config.pipeline, env!("CARGO_PKG_VERSION"));
        let asked = serde_json::to_vec(&asked).context("cannot write the arguments as JSON")?;
        Ok(format!("replay.{}", hex::encode(&Sha256::digest(asked)[..16])))
    }

    /// Goes on with a replay that was interrupted.
    async fn resume(&self, record: Record, status_line: &mut StatusLine) -> Record {
        let done = record.totals.deliveries();
        status_line.note(&format!(
            "going on with the replay of {} to {} that was interrupted after {done} deliveries",
            record.from, record.to
        ));
        // ClickHouse may still store what the interrupted process sent. Wait until look-ups see it.
        sleep(self.clickhouse.insert_limit() + self.clickhouse.clock_skew()).await;
        record
    }

    async fn begin(&self, journal: &mut Journal, status_line: &mut StatusLine) -> anyhow::Result<Record> {
        let (from, to, clock_skew) = (self.arguments.since.at, self.to, self.clickhouse.clock_skew());
        let held = stream_reader::held(self.broker).await?;
        let Some(oldest) = held.since else {
            anyhow::bail!("RAW holds no delivery; `streams.raw` sets how long it keeps them")
        };
        anyhow::ensure!(
            to > oldest,
            "expected a window that RAW still holds, found one that ends at {to}; its oldest delivery was stored at \
             {oldest}. `streams.raw` sets how long it keeps them"
        );
        if from < oldest.minus(clock_skew) {
            status_line
                .print(&format!("RAW holds deliveries since {oldest} only; what was received before is not replayed"));
        }
        if self.arguments.into.is_none() {
            live::wait_until_settled(self.broker, &self.config.pipeline, held.last, status_line).await?;
        }
        // Every row that the sinks have stored by now is older than this time, whichever server's clock stamped it.
        let since = self.clickhouse.now().await.map_err(|fault| fault.source)?;
        let since = Timestamp::from_micros(since.as_micros() + clock_skew.as_micros() as i64);
        sleep(clock_skew * 2).await;
        let record = Record { from, to, since, last: held.last, through: None, totals: Totals::default() };
        journal.write(Some(&record)).await.map_err(|fault| fault.source)?;
        Ok(record)
    }
}

/// The comment that marks a table as this replay's.
fn comment(window: &Window, record: &Record) -> String {
    let tenant = window.tenant.as_ref().map(|tenant| format!(" of the tenant {tenant}")).unwrap_or_default();
    format!("replay of {} to {}{tenant}, begun at {}", window.from, window.to, record.since)
}
