//! Logs on stderr: JSON for machines, text for people.

use std::io::IsTerminal as _;

use anstream::{AutoStream, ColorChoice};
use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Installs the process's subscriber. `filter` comes from the command line and overrides the configuration's.
pub(crate) fn install(log: &Log, filter: Option<&str>) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter.unwrap_or(&log.filter)).context("cannot read the filter of the log")?;
    let terminal = std::io::stderr().is_terminal();
    let has_colors = AutoStream::choice(&std::io::stderr()) != ColorChoice::Never;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(has_colors);
    let json = match log.format {
        LogFormat::Auto => !terminal,
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let installed = if json {
        builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
    } else {
        builder.with_target(false).try_init()
    };
    installed.map_err(|error| anyhow::anyhow!("cannot set up logging: {error}"))
}
