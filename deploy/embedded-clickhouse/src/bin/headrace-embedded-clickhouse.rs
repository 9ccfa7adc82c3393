//! The embedded ClickHouse in the foreground, for this crate's tests: the engine belongs in a process of its own.
//! People use `headrace clickhouse`, which does the same. This program only keeps the tests from depending on that one.
//!
//! ```text
//! headrace-embedded-clickhouse --library L [--password P] [--reader-password P] [--queries-max N] … --data-dir D --listen A
//! ```

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use headrace_embedded_clickhouse::front::{self, Password, ServerConfig};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let Err(error) = run() else { return ExitCode::SUCCESS };
    // Print no backtrace: the tests look for the message at the end of the log.
    eprintln!("{error:#}");
    ExitCode::FAILURE
}

fn run() -> anyhow::Result<()> {
    let options = Options(std::env::args().skip(1).collect());
    // Tests turn confinement off to see what the statement policy does alone.
    if options.find("--confine") != Some("no") {
        let (data_dir, library) = (options.get("--data-dir")?, options.get("--library")?);
        headrace_embedded_clickhouse::confine(data_dir.as_ref(), library.as_ref())?;
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(&options))
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

async fn serve(options: &Options) -> anyhow::Result<()> {
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
