//! `headrace clickhouse`: the embedded ClickHouse as a process of its own.

use std::sync::Arc;

use anyhow::Context as _;
use headrace_local::clickhouse::front::{self, Password, ServerConfig};
use headrace_local::install::{Installer, Terminal};

use crate::cli::Clickhouse;
use crate::config::Log;
use crate::private;
use crate::run::stop_signal;
use crate::telemetry;

pub(crate) async fn serve(arguments: Clickhouse) -> anyhow::Result<()> {
    telemetry::install(&Log::default())?;
    let library = match arguments.library {
        Some(library) => library,
        None => {
            let install = || Installer::for_user(Arc::new(Terminal))?.clickhouse_library();
            tokio::task::spawn_blocking(install).await.context("the installer panicked")??
        }
    };
    let data_dir = private::directory(&arguments.data_dir).context("cannot use --data-dir")?;
    let mut config = ServerConfig::new(arguments.listen, data_dir, library);
    config.password = arguments.password.map(Password::new);
    front::serve(config, stop_signal()?).await?;
    Ok(())
}
