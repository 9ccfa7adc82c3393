//! What can go wrong while installing, each with what was expected, what was found and what to do.

use std::io;
use std::path::PathBuf;

/// Why something is not installed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A client is not there.
    #[error("expected {tool} to install {package}, found none in {searched}; {remedy}")]
    ToolMissing {
        /// `python3`, `pip` or `npm`.
        tool: &'static str,
        /// What was to be installed.
        package: String,
        /// Where it was looked for.
        searched: String,
        /// What a person does about it.
        remedy: &'static str,
    },
    /// A client was there and failed.
    #[error("{command} failed ({status}); it says:\n{output}")]
    ToolFailed {
        /// What was run.
        command: String,
        /// Its exit status.
        status: String,
        /// The end of what it said.
        output: String,
    },
    /// Something else than the pinned artefact came.
    #[error(
        "expected {what} with SHA-256 {expected}, found {found}; it was removed. \
             Try again; if it stays so, the registry serves another file than the one this version was tested with"
    )]
    Checksum {
        /// The file.
        what: String,
        /// The pinned digest.
        expected: String,
        /// The digest of what came.
        found: String,
    },
    /// There is no room.
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
    /// A downloaded archive is not what its client promised.
    #[error("expected {expected} in {archive}, found none; remove that file and try again")]
    Content {
        /// What should be inside.
        expected: String,
        /// The archive or the folder it should be in.
        archive: PathBuf,
    },
    /// The pinned programs do not run here.
    #[error(
        "expected x86-64 Linux with glibc for {what}, found {found}; \
             run the server elsewhere and name its URL in the configuration"
    )]
    Platform {
        /// What was to be installed.
        what: &'static str,
        /// This machine.
        found: String,
    },
    /// Nobody said where to put things.
    #[error(
        "expected HEADRACE_CACHE_DIR, XDG_CACHE_HOME or HOME in the environment, found none; \
             set HEADRACE_CACHE_DIR to a directory with 1 GB of room"
    )]
    NoCacheDir,
    /// A file or directory cannot be used.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: says what was tried on which path.
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
