//! The servers of a fault run, and the file systems that they are on. `testbed` starts the processes beside them.

use std::path::PathBuf;
use std::sync::Arc;

use headrace_local::install::{Error, Installer, Silent};
use headrace_local::{clickhouse, nats};

use super::Options;
use super::disk::Disk;
use super::scenario::SmallDisks;
use crate::harness::servers;

/// NATS and ClickHouse. Dropping this ends them.
pub(super) struct Servers {
    pub(super) nats: Vec<nats::Running>,
    pub(super) clickhouse: clickhouse::Running,
    // Drop these after the servers, which write into them.
    pub(super) disks: Option<Disks>,
}

/// The file systems of NATS and of ClickHouse.
pub(super) struct Disks {
    pub(super) nats: Disk,
    pub(super) clickhouse: Disk,
    /// For how long one is full, in milliseconds: at least and at most.
    pub(super) full_ms: (u64, u64),
}

impl Servers {
    /// Installs what is missing and starts what the scenario names.
    pub(super) async fn start(options: &Options) -> anyhow::Result<Self> {
        let (nats_program, library) = tokio::task::spawn_blocking(install).await??;
        let (nats_dir, clickhouse_dir) = (options.dir.join("nats"), options.dir.join("clickhouse"));
        let mount = |SmallDisks { bytes, full_ms }| {
            let (nats, clickhouse) = (Disk::mount(&nats_dir, bytes)?, Disk::mount(&clickhouse_dir, bytes)?);
            anyhow::Ok(Disks { nats, clickhouse, full_ms })
        };
        let disks = options.scenario.disks.map(mount).transpose()?;
        let nats = servers::start_nats(&nats_program, &nats_dir, options.scenario.nats_servers).await?;
        let mut arguments = options.program.1.clone();
        arguments.extend(["clickhouse".into(), "--library".into(), library.into_os_string()]);
        let mut engine = clickhouse::Config::new(&options.program.0, arguments, clickhouse_dir);
        engine.log = options.dir.join("clickhouse.log");
        let clickhouse = clickhouse::start(engine).await?;
        Ok(Self { nats, clickhouse, disks })
    }
}

fn install() -> Result<(PathBuf, PathBuf), Error> {
    let installer = Installer::for_user(Arc::new(Silent))?;
    Ok((installer.nats_server()?, installer.clickhouse_library()?))
}
