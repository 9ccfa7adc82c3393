//! Runs the package clients, `pip` and `npm`. They bring their own retries, caches, proxies and credentials. Nothing
//! here may know a registry. An error shows the end of a client's output. None of that output may reach stdout.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::error::Error;

/// How many lines of a failed client's output an error shows.
const OUTPUT_LINES: usize = 15;

/// A package client.
pub(super) enum Client {
    /// `python3 -m pip`.
    Pip,
    /// `npm`.
    Npm,
}

impl Client {
    /// How this client spells a package of one version.
    pub(super) fn requirement(&self, package: &str, version: &str) -> String {
        match self {
            Self::Pip => format!("{package}=={version}"),
            Self::Npm => format!("{package}@{version}"),
        }
    }

    /// The suffix of a fetched archive's name.
    pub(super) fn extension(&self) -> &'static str {
        match self {
            Self::Pip => "whl",
            Self::Npm => "tgz",
        }
    }

    /// Fetches the archive of one package into `folder`.
    pub(super) fn fetch(&self, requirement: &str, folder: &Path, path: Option<&OsStr>) -> Result<(), Error> {
        let fixed: &[&str] = match self {
            Self::Pip => &["download", "--no-deps", "--only-binary", ":all:", "--dest"],
            Self::Npm => &["pack", "--loglevel", "error", "--pack-destination"],
        };
        self.run(fixed, folder, &[requirement], path)
    }

    /// Installs packages with their dependencies into `folder`.
    pub(super) fn install(&self, requirements: &[&str], folder: &Path, path: Option<&OsStr>) -> Result<(), Error> {
        let fixed: &[&str] = match self {
            Self::Pip => &["install", "--only-binary", ":all:", "--target"],
            Self::Npm => &["install", "--loglevel", "error", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"],
        };
        self.run(fixed, folder, requirements, path)
    }

    fn run(&self, fixed: &[&str], folder: &Path, rest: &[&str], path: Option<&OsStr>) -> Result<(), Error> {
        let package = rest.join(" ");
        if let Self::Pip = self {
            // Python without pip is common, and its own error does not help.
            let probe = self.command(path).args(["-m", "pip", "--version"]).output();
            if !self.found(probe, &package, path)?.status.success() {
                return Err(missing("pip", &package, path));
            }
        }
        let mut command = self.command(path);
        if let Self::Pip = self {
            command.args(["-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet"]);
        }
        command.args(fixed).arg(folder).args(rest);
        let output = self.found(command.output(), &package, path)?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::ToolFailed {
            command: format!("{command:?}"),
            status: output.status.to_string(),
            output: last_lines(&output),
        })
    }

    fn program(&self) -> &'static str {
        match self {
            Self::Pip => "python3",
            Self::Npm => "npm",
        }
    }

    fn command(&self, path: Option<&OsStr>) -> Command {
        let mut command = Command::new(self.program());
        if let Some(path) = path {
            command.env("PATH", path);
        }
        command.stdin(Stdio::null());
        command
    }

    fn found(&self, output: io::Result<Output>, package: &str, path: Option<&OsStr>) -> Result<Output, Error> {
        output.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => missing(self.program(), package, path),
            _ => Error::Io { action: "run", path: self.program().into(), source: error },
        })
    }
}

fn missing(tool: &'static str, package: &str, path: Option<&OsStr>) -> Error {
    let searched = match (tool, path.map(OsString::from).or_else(|| std::env::var_os("PATH"))) {
        ("pip", _) => "python3's modules".to_owned(),
        (_, Some(path)) if !path.is_empty() => format!("PATH={}", path.display()),
        _ => "an empty PATH".to_owned(),
    };
    let remedy = match tool {
        "python3" => "install Python 3 with pip (on Debian and Ubuntu: apt install python3-pip)",
        "pip" => "install pip for python3 (on Debian and Ubuntu: apt install python3-pip)",
        _ => "install Node.js with npm (on Debian and Ubuntu: apt install npm)",
    };
    Error::ToolMissing { tool, package: package.to_owned(), searched, remedy }
}

fn last_lines(output: &Output) -> String {
    let text = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(OUTPUT_LINES)..].join("\n")
}
