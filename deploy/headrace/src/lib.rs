//! Headrace carries GitHub's security and audit events from the webhook to ClickHouse, SIEMs and tickets. This crate is
//! its one binary: it reads the configuration, builds the parts and runs them. It must not decide what a part can
//! decide, and no other crate may depend on it.
//!
//! # The map
//!
//! An event comes in at the gateway, is stored in JetStream, and goes through the stages to the sinks. In this table,
//! each crate uses only those above it:
//!
//! | crate | what is in it |
//! |---|---|
//! | [`headrace_schemas`] | event, alert, subjects, headers, Avro; the catalog of each source. No I/O |
//! | [`headrace_runtime`] | the only code that consumes JetStream or settles a message. Read it first |
//! | [`headrace_ingest`] | the gateway, and a folder for each source |
//! | [`headrace_stages`] | normalize, enrich, score, alert; the detection rules |
//! | [`headrace_sinks`] | a folder for each receiver |
//! | [`headrace_settings`] | reads a configuration. Knows nothing of Headrace |
//! | [`headrace_local`] | installs and supervises servers on this machine. Knows nothing of Headrace |
//! | [`headrace_embedded_clickhouse`] | the ClickHouse engine and its HTTP front. Knows nothing of Headrace |
//! | `headrace` | [`cli`] is the command line, `commands` has a module for each command, `process` runs the roles, `installation` has what `up` keeps on this machine, [`nats`] has the users of NATS and their rights |
//!
//! `deploy/docs` has pages for operators, contributors and auditors. `architecture.md` has the invariants.

#![deny(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "they panic when the reader is gone or the disk is full; use `cli::output`"
)]

pub mod cli;
mod commands;
pub mod config;
mod installation;
pub mod nats;
mod process;
pub mod role;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;

use self::cli::global::settle_colors;
use self::cli::{Cli, Command, exit, output};
use self::commands::{check, clickhouse, context, dead, gaps, query, replay, run, send, shell, sinks, sources, up};
use self::installation::private;
use self::process::telemetry;

/// Runs the command line `arguments`, the program's name first.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    private::close_new_files();
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    settle_colors(&arguments);
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // `--help` and `--version` also come here, with the exit code 0.
            let printed = error.print();
            if !error.use_stderr() {
                return exit::report(output::written(printed).map(|_| ()).map_err(Into::into));
            }
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit::USAGE));
        }
    };
    exit::report(dispatch(cli))
}

fn dispatch(cli: Cli) -> anyhow::Result<()> {
    let global = cli.global;
    // The other commands log as their configuration says.
    if global.is_verbose() && !matches!(cli.command, Command::Up(_) | Command::Run(_) | Command::Clickhouse(_)) {
        telemetry::install(&config::Log::default(), global.filter())?;
    }
    match cli.command {
        Command::Up(up) => block_on(up::up(up, global)),
        Command::Run(run) => block_on(run::run(run, global)),
        Command::Send(send) => block_on(send::send(send)),
        Command::Check(check) => block_on(check::check(check)),
        Command::Gaps(gaps) => block_on(gaps::gaps(gaps)),
        Command::Sources(sources) => block_on(sources::sources(sources, global)),
        Command::Dead(dead) => block_on(dead::dead(dead, global)),
        Command::Sinks(sinks) => block_on(sinks::sinks(sinks, global)),
        Command::Replay(replay) => block_on(replay::replay(replay, global)),
        Command::Query(query) => block_on(query::query(query)),
        Command::Context(context) => context::context(context),
        Command::Config { schema: false } => {
            output::write(headrace_settings::reference::<config::Config>(config::PREFIX).as_bytes())?;
            Ok(())
        }
        Command::Config { schema: true } => {
            output::write(headrace_settings::json_schema::<config::Config>().as_bytes())?;
            Ok(())
        }
        Command::Clickhouse(clickhouse) => clickhouse::serve(clickhouse, global),
        Command::Completions(completions) => shell::completions(&completions),
        Command::Man(man) => shell::man(&man),
    }
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(work);
    // All tasks have been told to stop. A thread that hangs must not keep the process alive.
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    result
}
