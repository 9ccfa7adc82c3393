//! Servers without the product, and the product's roles as processes of their own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headrace_local::clickhouse;
use headrace_local::install::{Installer, Silent};
use headrace_tests::harness::Nats;
use headrace_tests::product::process::{Launch, Running};

use super::PROGRAM;
use super::testbed::Testbed;

/// The secret that signs deliveries.
pub(crate) const SECRET: &str = "a secret of this test";

/// Servers without the product.
pub(crate) struct Servers {
    /// NATS.
    pub(crate) nats: Nats,
    /// ClickHouse.
    pub(crate) clickhouse: clickhouse::Running,
}

impl Servers {
    pub(crate) async fn start(testbed: &Testbed) -> Self {
        let install = || Installer::for_user(Arc::new(Silent))?.clickhouse_library();
        let library = tokio::task::spawn_blocking(install).await.unwrap().unwrap();
        let arguments = vec![OsString::from("clickhouse"), OsString::from("--library"), library.into_os_string()];
        let config = clickhouse::Config::new(PROGRAM, arguments, testbed.dir.path().join("clickhouse"));
        Self { nats: Nats::start().await, clickhouse: clickhouse::start(config).await.unwrap() }
    }

    /// Writes the configuration of all roles, with the lines `more` added. The limits are short, so that the messages of a
    /// killed process are delivered again soon.
    pub(crate) fn configure(&self, testbed: &Testbed, more: &str) -> PathBuf {
        let (nats, clickhouse) = (self.nats.server().url(), self.clickhouse.url());
        let streams = "max_age_hours = 24\nmax_bytes = 67108864\n";
        let streams = ["raw", "events", "alerts", "dead"].map(|name| format!("[streams.{name}]\n{streams}")).concat();
        let more = format!(
            "nats.url = '{nats}'\nsinks.clickhouse.url = '{clickhouse}'\nadmin.listen = '127.0.0.1:0'\n\
             ingest.listen = '127.0.0.1:0'\nstreams.duplicate_window_s = 4\ningest.github.secrets = ['{SECRET}']\n\
             nats.clock_skew_ms = 100\nsinks.clickhouse.insert_timeout_s = 1\nsinks.clickhouse.clock_skew_ms = 200\n\
             {more}\n{streams}"
        );
        // On a busy machine a delivery may take seconds to reach RAW. After this time it counts as missing.
        testbed.configure("grace_s = 4", &more)
    }
}

/// Starts one role, with files of its own.
pub(crate) async fn role(role: &str, name: &str, config: &Path, testbed: &Testbed) -> Running {
    let dir = testbed.dir.path().join(name);
    std::fs::create_dir_all(&dir).unwrap();
    Launch::run(PROGRAM, role, config, &dir).start().await
}
