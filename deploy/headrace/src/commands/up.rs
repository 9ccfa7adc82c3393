//! `headrace up`: sets up and runs the whole product on this machine.

mod greeting;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use headrace_ingest::github::GitHub;
use headrace_ingest::source::Source as _;
use headrace_ingest::sources::SOURCES;
use headrace_local::child::Event;
use headrace_local::install::{Installer, Terminal};
use headrace_local::{clickhouse, nats};
use headrace_runtime::config::Invalid;
use headrace_runtime::secret::Secret;
use headrace_settings::Loaded;
use headrace_sinks::clickhouse as store;
use tokio::sync::watch;

use crate::cli::global::Global;
use crate::cli::serve::Up;
use crate::config::memory::Beside;
use crate::config::{self, Config};
use crate::installation::ancestors;
use crate::installation::data_dir::DataDir;
use crate::installation::data_dir::{CLICKHOUSE_PASSWORD, CLICKHOUSE_READER_PASSWORD, CLICKHOUSE_USER};
use crate::installation::killed;
use crate::installation::last_up::LastUp;
use crate::installation::locate::Purpose;
use crate::installation::ready::{READY_FILE, Ready, ReadyFiles};
use crate::installation::secret_origin::SecretOrigin;
use crate::installation::stream_sizes;
use crate::nats::connections::{self, Brokers};
use crate::process::Process;
use crate::process::listeners::{Listeners, Settings, reachable};
use crate::process::started::{self, Awaited, until_ready};
use crate::process::stop::Stop;
use crate::process::telemetry;
use crate::role::ALL_ROLES;
use crate::role::{CLICKHOUSE, CLICKHOUSE_RAW};

/// How long a server may take to stop before it is killed. A kill loses nothing that was confirmed.
const SERVER_GRACE: Duration = Duration::from_secs(2);
/// How long everything may take to answer at the start.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// What runs once everything is started.
struct Started<'a> {
    process: &'a Process,
    servers: &'a Servers,
    data: &'a DataDir,
    secret: SecretOrigin,
}

/// The servers that `up` itself started.
struct Servers {
    nats: Option<nats::Running>,
    clickhouse: Option<clickhouse::Running>,
}

pub(crate) async fn up(arguments: Up, global: Global) -> anyhow::Result<()> {
    let located = arguments.config.locate_with(arguments.data_dir.as_deref(), Purpose::Up)?;
    let (last_up, mut loaded) = LastUp::of_this(located.config(), located.default_text(), values)?;
    telemetry::install(&loaded.value.log, global.filter())?;
    located.log();
    let mut stop = Stop::listen()?;
    let data = DataDir::open(located.data_dir()).await?;
    let ready_files = ReadyFiles::claim([data.join(READY_FILE)].into_iter().chain(arguments.ready_file.clone()))?;
    let secret = complete(&mut loaded, &arguments, &data)?;
    let mut config = loaded.value;
    let listeners = Listeners::bind(&config, &ALL_ROLES, &Settings::OF_UP)?;

    let servers = tokio::select! {
        started = start_servers(&config, &data) => started?,
        () = stop.signalled() => return Ok(()),
    };
    let nats_url = servers.nats.as_ref().map_or_else(|| config.nats.url.clone(), nats::Running::url);
    let clickhouse_url = servers.clickhouse.as_ref().map(|server| clickhouse_url(server, &data)).transpose()?;
    config = with_servers(&config, &nats_url, clickhouse_url.as_deref().unwrap_or_default());
    let starting = async {
        if servers.clickhouse.is_some() {
            restore_dropped(&config).await;
        }
        let brokers = Brokers::connect(&config, &ALL_ROLES, "headrace up").await?;
        brokers.first().ensure_topology(&config.streams).await?;
        Process::start(&config, &ALL_ROLES, &brokers, listeners, servers.beside()).await
    };
    let process = tokio::select! {
        process = starting => process?,
        () = stop.signalled() => return Ok(()),
    };
    // Write this only now, because an `up` that did not start has computed nothing.
    last_up.write(data.path())?;
    let started = Started { process: &process, servers: &servers, data: &data, secret };
    let outcome = tokio::select! {
        result = serve(&config, started, &ready_files) => result,
        () = stop.signalled() => Ok(()),
    };
    // Remove the ready files first, because soon nobody answers at their addresses.
    drop(ready_files);
    let ending = async {
        process.stop(config.shutdown.grace()).await;
        servers.stop().await;
    };
    // The first error counts: why the process ended matters more than how.
    let ended = stop.end(ending).await;
    outcome.and(ended)
}

/// The wrong values, apart from those that `up` fills in.
pub(crate) fn values(config: &Config) -> Vec<Invalid> {
    let mut config = config.clone();
    config.sinks.first_or_default::<store::Config>();
    // The servers' addresses are not known yet. Everything else must be right before the servers start.
    let mut config = with_servers(&config, "nats://127.0.0.1:1", "http://127.0.0.1:1");
    stand_in_secrets(&mut config);
    config.validate(&ALL_ROLES)
}

/// Turns on the sources that `up` turns on, with a secret that stands for the one that it makes.
pub(crate) fn stand_in_secrets(config: &mut Config) {
    for source in SOURCES {
        let made = source.give_secret(&mut config.ingest, &mut || Ok(Secret::new("made-at-the-start")));
        made.expect("nothing is made here that could fail");
    }
}

/// Fills in what `up` itself decides: ports from the command line, the secret, the sinks. Returns the secret's origin.
fn complete(loaded: &mut Loaded<Config>, arguments: &Up, data: &DataDir) -> anyhow::Result<SecretOrigin> {
    let are_sized_by_user = stream_sizes::are_given(loaded);
    let config = &mut loaded.value;
    let ports = [
        (arguments.gateway_port, &mut config.ingest.listen),
        (arguments.metrics_port, &mut config.admin.listen),
        (arguments.nats_port, &mut config.local.nats_listen),
        (arguments.clickhouse_port, &mut config.local.clickhouse_listen),
    ];
    for (port, listen) in ports {
        if let Some(port) = port {
            listen.set_port(port);
        }
    }
    ensure_unread(config, data)?;
    let mut secret = SecretOrigin::Configured;
    for source in SOURCES {
        source.give_secret(&mut config.ingest, &mut || {
            if source.name() != GitHub::NAME {
                return data.secret(&token_file(source.name()));
            }
            secret = SecretOrigin::of(data.webhook_secret_path());
            data.webhook_secret()
        })?;
    }
    config.sinks.complete_for_up(data.path());
    if config.nats.url.is_empty() {
        connections::use_own_users(data, &mut config.nats);
        if !are_sized_by_user {
            stream_sizes::fit(&mut config.streams, data.path())?;
        }
    }
    // Once more, because sinks have got their directories.
    let problems = loaded.value.validate_folder().into_iter().collect();
    loaded.refuse(config::told(problems))?;
    Ok(secret)
}

/// Makes tables anew that somebody dropped in our own ClickHouse. Nobody can run `check --migrate` for it.
async fn restore_dropped(config: &Config) {
    let Some(clickhouse) = config.clickhouse() else { return };
    if let Err(fault) = clickhouse.restore_dropped().await {
        // The sink tells what it lacks.
        tracing::warn!(cause = format!("{fault}"), "cannot make tables anew that are missing in ClickHouse");
    }
}

/// Refuses a folder of records that holds the data directory: what is secret there would become rows.
fn ensure_unread(config: &Config, data: &DataDir) -> anyhow::Result<()> {
    let folder = config.ingest.ndjson.as_ref().and_then(|ndjson| ndjson.folder.as_ref());
    let Some(folder) = folder.filter(|folder| folder.reads(data.path())) else { return Ok(()) };
    anyhow::bail!(
        "expected a folder without the data directory {} in `ingest.ndjson.folder.url`, found `{}`, which holds it: secrets would \
         be read as records; choose another folder, or another data directory with --data-dir",
        data.path().display(),
        folder.url
    )
}

/// The file with the token that `up` makes for a source.
fn token_file(source: &str) -> String {
    format!("{source}-token")
}

/// The configuration, completed by the servers that it does not name.
pub(crate) fn with_servers(config: &Config, nats: &str, clickhouse: &str) -> Config {
    let mut config = config.clone();
    if config.nats.url.is_empty() {
        config.nats.reach(nats);
    }
    if let Some(own) = config.sinks.first_mut::<store::Config>().filter(|own| own.url.is_empty()) {
        // The URL has user and password. A user configured for another server does not exist here.
        let none = store::Config::default();
        (own.url, own.user, own.password) = (clickhouse.to_owned(), none.user, none.password);
        own.compress = false;
    }
    config
}

async fn start_servers(config: &Config, data: &DataDir) -> anyhow::Result<Servers> {
    let own_nats = config.nats.url.is_empty();
    let own_clickhouse = config.clickhouse().is_some_and(|clickhouse| clickhouse.url.is_empty());
    let install = move || -> anyhow::Result<(Option<PathBuf>, Option<PathBuf>)> {
        let installer = Installer::for_user(Arc::new(Terminal))?;
        let nats = own_nats.then(|| installer.nats_server()).transpose()?;
        let library = own_clickhouse.then(|| installer.clickhouse_library()).transpose()?;
        Ok((nats, library))
    };
    let (nats_program, library) = tokio::task::spawn_blocking(install).await.context("the installer panicked")??;
    // Both are in one cache.
    if let Some(program) = nats_program.as_ref().or(library.as_ref()) {
        ancestors::warn_of_cache(program)?;
    }
    if own_clickhouse {
        let own = [own_nats.then_some(config.local.nats_listen), Some(config.local.clickhouse_listen)];
        // Port 0 takes a free one.
        let ports: Vec<_> = own.into_iter().flatten().filter(|listen| listen.port() != 0).collect();
        killed::have_ended(&data.join("clickhouse"), &ports).await?;
    }
    let nats = async {
        let Some(program) = nats_program else { return anyhow::Ok(None) };
        let mut server = nats::Config::new(program, data.join("nats"));
        server.listen = config.local.nats_listen;
        server.sync_interval = config.local.sync_interval();
        server.restart.grace = SERVER_GRACE;
        server.users = connections::own_users(data, &config.sinks.components())?;
        Ok(Some(
            nats::start(server)
                .await
                .context("cannot start NATS (another port: `local.nats_listen` or --nats-port)")?,
        ))
    };
    let clickhouse = async {
        let Some(library) = library else { return anyhow::Ok(None) };
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        // Make the passwords before the server reads them. It reads files, because the list of processes shows
        // arguments.
        data.secret(CLICKHOUSE_PASSWORD)?;
        data.secret(CLICKHOUSE_READER_PASSWORD)?;
        let arguments = [
            "clickhouse".into(),
            "--library".into(),
            library.into_os_string(),
            "--password-file".into(),
            data.join(CLICKHOUSE_PASSWORD).into_os_string(),
            "--reader-password-file".into(),
            data.join(CLICKHOUSE_READER_PASSWORD).into_os_string(),
        ];
        let mut server = clickhouse::Config::new(program, arguments.to_vec(), data.join("clickhouse"));
        server.listen = config.local.clickhouse_listen;
        server.restart.grace = SERVER_GRACE;
        Ok(Some(
            clickhouse::start(server)
                .await
                .context("cannot start ClickHouse (another port: `local.clickhouse_listen` or --clickhouse-port)")?,
        ))
    };
    let (nats, clickhouse) = tokio::try_join!(nats, clickhouse)?;
    Ok(Servers { nats, clickhouse })
}

/// The URL of the embedded server, with the user who may write. The password needs no escape, because it has only
/// hexadecimal digits.
fn clickhouse_url(server: &clickhouse::Running, data: &DataDir) -> anyhow::Result<String> {
    let password = data.secret(CLICKHOUSE_PASSWORD)?;
    Ok(format!("http://{CLICKHOUSE_USER}:{}@{}", password.expose(), server.address()))
}

impl Servers {
    /// What shares this process's memory.
    const fn beside(&self) -> Beside {
        match (&self.nats, &self.clickhouse) {
            (_, Some(_)) => Beside::ClickHouse,
            (Some(_), None) => Beside::Nats,
            (None, None) => Beside::Nothing,
        }
    }

    fn pids(&self) -> BTreeMap<String, u32> {
        let nats = self.nats.as_ref().and_then(nats::Running::pid).map(|pid| ("nats".to_owned(), pid));
        let clickhouse = self.clickhouse.as_ref().and_then(clickhouse::Running::pid);
        let clickhouse = clickhouse.map(|pid| ("clickhouse".to_owned(), pid));
        let own = ("headrace".to_owned(), std::process::id());
        [Some(own), nats, clickhouse].into_iter().flatten().collect()
    }

    /// The events of the servers that `up` started.
    fn events(&self) -> Vec<watch::Receiver<Event>> {
        let nats = self.nats.as_ref().map(nats::Running::events);
        nats.into_iter().chain(self.clickhouse.as_ref().map(clickhouse::Running::events)).collect()
    }

    async fn stop(self) {
        let nats = async {
            if let Some(nats) = self.nats {
                nats.stop().await;
            }
        };
        let clickhouse = async {
            if let Some(clickhouse) = self.clickhouse {
                clickhouse.stop().await;
            }
        };
        tokio::join!(nats, clickhouse);
    }
}

/// Writes the ready files once everything answers, and again after each restart of a server. Returns when a server
/// cannot be kept running.
async fn serve(config: &Config, started: Started<'_>, ready_files: &ReadyFiles) -> anyhow::Result<()> {
    let Started { process, servers, data, secret } = started;
    let own: &[&str] = if servers.clickhouse.is_some() { &[CLICKHOUSE, CLICKHOUSE_RAW] } else { &[] };
    let away = until_ready(process, Awaited { own, within: Some(START_TIMEOUT) }).await?;
    let mut events = servers.events();
    events.iter_mut().for_each(|events| drop(events.borrow_and_update()));
    let nats_url = connections::admin_url(&config.nats)?;
    let ready = |pids| Ready {
        gateway: process.gateway.map(|address| format!("http://{}", reachable(address))),
        nats: Some(nats_url.clone()),
        clickhouse: config.clickhouse().map(|clickhouse| clickhouse.url.clone()),
        metrics: format!("http://{}", reachable(process.admin)),
        webhook_secret: config.ingest.github.secrets.first().map(|secret| secret.expose().to_owned()),
        tokens: tokens(&config.ingest),
        pids,
    };
    let first = ready(servers.pids());
    ready_files.write(&first)?;
    started::tell(&away);
    // Everything runs and answers already. A full disk must not end that.
    if let Err(error) = greeting::print(&first, config, servers, data, &secret, &away) {
        tracing::warn!(error = format!("{error:#}"), "cannot print the addresses; they are in the ready file");
    }
    let mut told = first.pids;
    loop {
        let changed = events.iter_mut().map(|events| Box::pin(events.changed()));
        if changed.len() == 0 {
            return std::future::pending().await;
        }
        // The supervising task lives as long as `servers`. If it ends, there is nothing to wait for.
        let ended = first_of(changed).await;
        for events in &mut events {
            if let Event::GaveUp { reason } = &*events.borrow_and_update() {
                anyhow::bail!("a server died too often and is not started again: {reason}");
            }
        }
        anyhow::ensure!(!ended, "the supervision of the servers ended");
        let all_ready = events.iter().all(|events| matches!(&*events.borrow(), Event::Ready { .. }));
        let pids = servers.pids();
        if all_ready && pids != told {
            ready_files.write(&ready(pids.clone()))?;
            told = pids;
        }
    }
}

/// The secrets of the sources that take a token, by the source's name.
fn tokens(config: &headrace_ingest::config::Config) -> BTreeMap<String, String> {
    let of_token = SOURCES.iter().filter(|source| source.name() != GitHub::NAME);
    let token =
        of_token.filter_map(|source| Some((source.name().to_owned(), source.secret(config)?.expose().to_owned())));
    token.collect()
}

/// Waits for the first of several changes. True if its sender is gone.
async fn first_of<F: Future<Output = Result<(), watch::error::RecvError>> + Unpin>(
    changes: impl Iterator<Item = F>,
) -> bool {
    let mut changes: Vec<F> = changes.collect();
    std::future::poll_fn(|context| {
        let ready = changes.iter_mut().find_map(|change| match std::pin::Pin::new(change).poll(context) {
            std::task::Poll::Ready(result) => Some(result.is_err()),
            std::task::Poll::Pending => None,
        });
        ready.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
    })
    .await
}
