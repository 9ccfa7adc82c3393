//! What can go wrong while installing. Each error says what was expected, what was found and what to do.

use std::io;
use std::path::PathBuf;

/// Why an install failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A package client is missing.
    #[error("expected {tool} to install {package}, found none in {searched}; {remedy}")]
    ToolMissing {
        /// `python3`, `pip` or `npm`.
        tool: &'static str,
        /// What it should have installed.
        package: String,
        /// Where we looked for the client.
        searched: String,
        /// What a person can do about it.
        remedy: &'static str,
    },
    /// A package client failed.
    #[error("{command} failed ({status}); it says:\n{output}")]
    ToolFailed {
        /// The command.
        command: String,
        /// Its exit status.
        status: String,
        /// The end of its output.
        output: String,
    },
    /// The file is not the pinned one.
    #[error(
        "expected {what} with SHA-256 {expected}, found {found}; it was removed. \
             Try again; if it stays so, the registry serves another file than the one this version was tested with"
    )]
    Checksum {
        /// The file.
        what: String,
        /// The pinned digest.
        expected: String,
        /// The file's own digest.
        found: String,
    },
    /// The file system is full.
    #[error(
        "the file system of {path} is full: {free_bytes} bytes are free and {needed_bytes} are needed; \
             make room, or set HEADRACE_CACHE_DIR to a directory elsewhere"
    )]
    DiskFull {
        /// The cache directory.
        path: PathBuf,
        /// Bytes free.
        free_bytes: u64,
        /// Bytes needed.
        needed_bytes: u64,
    },
    /// A downloaded archive lacks what it should contain.
    #[error("expected {expected} in {archive}, found none; remove that file and try again")]
    Content {
        /// What should be inside.
        expected: String,
        /// The archive, or the folder where it should be.
        archive: PathBuf,
    },
    /// The pinned programs do not run on this machine.
    #[error(
        "expected x86-64 Linux with glibc for {what}, found {found}; \
             run the server elsewhere and name its URL in the configuration"
    )]
    Platform {
        /// What we were to install.
        what: &'static str,
        /// This machine.
        found: String,
    },
    /// No variable says where the cache directory is.
    #[error(
        "expected HEADRACE_CACHE_DIR, XDG_CACHE_HOME or HOME in the environment, found none; \
             set HEADRACE_CACHE_DIR to a directory with 1 GB of room"
    )]
    NoCacheDir,
    /// Another account can change what would run as this one.
    #[error(
        "expected {path} to belong to {expected} and not to be writable by everybody, found it to be that of user id \
             {owner} with the mode {mode:o}: another account could choose what is run; set HEADRACE_CACHE_DIR to a \
             directory of your own, or, if this one is yours, remove it or close it with `chmod o-w`"
    )]
    Foreign {
        /// The file or directory.
        path: PathBuf,
        /// Whose it may be.
        expected: String,
        /// Its owner's user id.
        owner: u32,
        /// Its permissions.
        mode: u32,
    },
    /// A file or directory cannot be used.
    #[error("cannot {action} {path}")]
    Io {
        /// What we tried to do.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: adds what we tried to do, and on which path.
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
