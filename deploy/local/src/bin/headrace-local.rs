//! Runs a nats-server for this crate's tests. They kill the server's parent with `kill -9`, so the parent must be a
//! process of its own.
//!
//! ```text
//! headrace-local --program P --data-dir D --ready-file F
//! ```

use std::process::ExitCode;

use anyhow::Context as _;
use headrace_local::nats;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let Err(error) = run() else { return ExitCode::SUCCESS };
    // Print no backtrace: the message is one line at the end of the log.
    eprintln!("{error:#}");
    ExitCode::FAILURE
}

fn run() -> anyhow::Result<()> {
    let options = Options(std::env::args().skip(1).collect());
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(&options))
}

/// `--name value` pairs.
struct Options(Vec<String>);

impl Options {
    fn get(&self, name: &str) -> anyhow::Result<&str> {
        let at = self.0.iter().position(|argument| argument == name);
        let value = at.and_then(|at| self.0.get(at + 1)).map(String::as_str);
        value.with_context(|| format!("{name} is missing"))
    }
}

async fn serve(options: &Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let running = nats::start(nats::Config::new(options.get("--program")?, options.get("--data-dir")?)).await?;
    let pid = running.pid().context("the server has just started")?;
    std::fs::write(options.get("--ready-file")?, pid.to_string())?;
    terminate.recv().await;
    running.stop().await;
    Ok(())
}
