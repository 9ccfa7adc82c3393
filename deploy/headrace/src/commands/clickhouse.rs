//! `headrace clickhouse`: the embedded ClickHouse as a process of its own.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use headrace_embedded_clickhouse::confine;
use headrace_embedded_clickhouse::front::{self, Password, ServerConfig};
use headrace_local::install::{Installer, Terminal};
use secrecy::ExposeSecret as _;

use crate::block_on;
use crate::cli::global::Global;
use crate::cli::serve::Clickhouse;
use crate::config::Log;
use crate::installation::{ancestors, private};
use crate::process::stop::stop_signal;
use crate::process::telemetry;

/// The lock of the server and the log that `up` keeps of it. Only one of them may be there.
const MARKS: [&str; 2] = [front::LOCK, "headrace-clickhouse.log"];

/// Serves until it is told to stop. Call it before this process has a second thread: only threads that start later are
/// confined.
pub(crate) fn serve(arguments: Clickhouse, global: Global) -> anyhow::Result<()> {
    telemetry::install(&Log::default(), global.filter())?;
    let password = arguments.password_file.as_deref().map(password).transpose()?;
    let reader_password = arguments.reader_password_file.as_deref().map(password_of_reader).transpose()?;
    let library = match arguments.library {
        Some(library) => library,
        None => {
            let library = Installer::for_user(Arc::new(Terminal))?.clickhouse_library()?;
            ancestors::warn_of_cache(&library)?;
            library
        }
    };
    let data_dir = private::directory(&arguments.data_dir, is_of_clickhouse).context("cannot use --data-dir")?;
    confine(&data_dir, &library).with_context(|| format!("cannot confine ClickHouse to {}", data_dir.display()))?;
    let mut config = ServerConfig::new(arguments.listen, data_dir, library);
    let given = arguments.password.filter(|password| !password.expose_secret().is_empty());
    config.password = password.or(given.map(Password::new));
    config.reader_password = reader_password;
    config.hosts = arguments.hosts;
    config.memory_bytes_max = arguments.memory_bytes_max;
    block_on(async {
        front::serve(config, stop_signal()?).await?;
        Ok(())
    })
}

/// Whether this command has used the directory `path` before, or `up` has just made it for its log.
fn is_of_clickhouse(path: &Path, _names: &[OsString]) -> bool {
    MARKS.iter().any(|name| path.join(name).symlink_metadata().is_ok_and(|found| found.is_file()))
}

fn password(path: &Path) -> anyhow::Result<Password> {
    first_line(path, "--password-file")
}

fn password_of_reader(path: &Path) -> anyhow::Result<Password> {
    first_line(path, "--reader-password-file")
}

/// The password in a file's first line.
fn first_line(path: &Path, option: &str) -> anyhow::Result<Password> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}, named by {option}"))?;
    let line = text.lines().next().unwrap_or_default().trim();
    ensure!(
        !line.is_empty(),
        "expected a password in the first line of {shown} ({option}), found none; write one into it"
    );
    Ok(Password::new(line))
}

#[cfg(test)]
mod tests {
    use super::password;

    #[test]
    fn a_password_file_that_is_absent_or_empty_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let said = || format!("{:#}", password(&path).unwrap_err());
        assert!(said().contains("--password-file") && said().contains("password"), "{}", said());
        std::fs::write(&path, "\n").unwrap();
        assert!(said().contains("expected a password in the first line"), "{}", said());
        std::fs::write(&path, "secret\nmore\n").unwrap();
        assert!(password(&path).is_ok());
    }
}
