//! What these tests share. They use the real engine from the user's cache, and each has a directory of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use headrace_local::clickhouse;
use headrace_local::install::{Installer, Silent};
use tempfile::TempDir;

/// Far beyond what anything here takes. Only a failing test waits that long.
pub(crate) const CEILING: Duration = Duration::from_secs(60);

/// This crate's helper program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_headrace-embedded-clickhouse");

pub(crate) fn installer() -> Installer {
    Installer::for_user(Arc::new(Silent)).expect("a test machine has a home directory")
}

/// Runs an install, which blocks.
pub(crate) async fn installed(
    what: impl FnOnce(&Installer) -> Result<PathBuf, headrace_local::install::Error> + Send + 'static,
) -> PathBuf {
    tokio::task::spawn_blocking(move || what(&installer())).await.unwrap().unwrap()
}

/// A ClickHouse of the test's own.
pub(crate) struct ClickHouse {
    pub(crate) server: clickhouse::Running,
    pub(crate) http: reqwest::Client,
    pub(crate) dir: TempDir,
}

impl ClickHouse {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = clickhouse::start(config(&dir, options).await).await.unwrap();
        Self::on(server, dir).await
    }

    pub(crate) async fn on(server: clickhouse::Running, dir: TempDir) -> Self {
        let clickhouse = Self { server, http: reqwest::Client::new(), dir };
        clickhouse.run("CREATE DATABASE test ENGINE = Atomic").await;
        clickhouse
    }

    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    pub(crate) async fn post(&self, parameters: &[(&str, &str)], body: impl Into<reqwest::Body>) -> reqwest::Response {
        let url = reqwest::Url::parse_with_params(&self.url(), parameters).unwrap();
        self.http.post(url).body(body).send().await.unwrap()
    }

    /// Runs a statement that must succeed.
    pub(crate) async fn run(&self, sql: &str) -> String {
        let answer = self.post(&[], sql.to_owned()).await;
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{sql}: {status} {text}");
        text.trim_end().to_owned()
    }
}

pub(crate) async fn config(dir: &TempDir, options: &[&str]) -> clickhouse::Config {
    let library = installed(Installer::clickhouse_library).await;
    let mut args = vec!["--library".into(), library.into()];
    args.extend(options.iter().map(Into::into));
    clickhouse::Config::new(PROGRAM, args, dir.path().join("clickhouse"))
}

/// `kill -9`.
pub(crate) fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// What a process holds in memory (`VmRSS`).
pub(crate) fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    kib.unwrap().parse::<u64>().unwrap() << 10
}
