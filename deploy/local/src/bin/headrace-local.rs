//! One local server in the foreground: what this crate's tests start, because `kill -9` needs a process of its own.
//! `headrace` has the same commands for people; this one only keeps the tests from depending on it.
//!
//! ```text
//! headrace-local clickhouse --library L [--password P] [--reader-password P] [--queries-max N] … --data-dir D --listen A
//! headrace-local nats --program P --data-dir D --ready-file F
//! ```

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use headrace_local::clickhouse::front::{self, Password, ServerConfig};
use headrace_local::nats;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next();
    let options = Options(arguments.collect());
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match command.as_deref() {
        Some("clickhouse") => {
            // A way to see what the statement policy does by itself.
            if options.find("--confine") != Some("no") {
                headrace_local::clickhouse::confine(
                    options.get("--data-dir")?.as_ref(),
                    options.get("--library")?.as_ref(),
                )?;
            }
            runtime()?.block_on(clickhouse(&options))
        }
        Some("nats") => runtime()?.block_on(nats(&options)),
        other => bail!("expected clickhouse or nats, found {other:?}"),
    }
}

/// `--name value` pairs.
struct Options(Vec<String>);

impl Options {
    fn find(&self, name: &str) -> Option<&str> {
        let at = self.0.iter().position(|argument| argument == name)?;
        self.0.get(at + 1).map(String::as_str)
    }

    fn get(&self, name: &str) -> anyhow::Result<&str> {
        self.find(name).with_context(|| format!("{name} is missing"))
    }
}

async fn clickhouse(options: &Options) -> anyhow::Result<()> {
    let listen: SocketAddr = options.get("--listen")?.parse()?;
    let mut config = ServerConfig::new(listen, options.get("--data-dir")?, options.get("--library")?);
    config.password = options.find("--password").map(Password::new);
    config.reader_password = options.find("--reader-password").map(Password::new);
    config.hosts = options.find("--host").map(str::to_owned).into_iter().collect();
    if let Some(number) = options.find("--memory-bytes-max") {
        config.memory_bytes_max = Some(number.parse()?);
    }
    if let Some(number) = options.find("--connections-max") {
        config.limits.connections_max = number.parse()?;
    }
    if let Some(number) = options.find("--queries-max") {
        config.limits.queries_max = number.parse()?;
    }
    if let Some(number) = options.find("--waiting-max") {
        config.limits.waiting_max = number.parse()?;
    }
    if let Some(number) = options.find("--body-bytes-max") {
        config.limits.body_bytes_max = number.parse()?;
    }
    if let Some(number) = options.find("--idle-ms-max") {
        config.limits.idle_max = Duration::from_millis(number.parse()?);
    }
    let mut terminate = signal(SignalKind::terminate())?;
    front::serve(config, async move { terminate.recv().await.unwrap_or_default() }).await?;
    Ok(())
}

async fn nats(options: &Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let running = nats::start(nats::Config::new(options.get("--program")?, options.get("--data-dir")?)).await?;
    let pid = running.pid().context("the server has just started")?;
    std::fs::write(options.get("--ready-file")?, pid.to_string())?;
    terminate.recv().await;
    running.stop().await;
    Ok(())
}
