//! Standard output and standard error: everything that a command prints goes through here.
//!
//! `println!` and `eprintln!` are denied in this crate, because they panic when the reader is gone or the disk is full.
//! A reader that is gone, such as `head`, is no error: the command goes on without a word, so that its exit code tells
//! what it found.

use std::fmt;
use std::io::{self, ErrorKind, Write as _};

/// What has become of the reader of our output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listener {
    /// It has what was printed.
    Listens,
    /// It has closed the pipe. A command that only prints may stop here.
    Gone,
}

/// Standard output takes nothing, for instance because the disk is full.
#[derive(Debug)]
pub(crate) struct Unwritable(io::Error);

impl fmt::Display for Unwritable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot write to standard output")
    }
}

impl std::error::Error for Unwritable {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// Prints a line.
pub(crate) fn line(text: impl fmt::Display) -> Result<Listener, Unwritable> {
    write(format!("{text}\n").as_bytes())
}

/// Prints `bytes` as they are.
pub(crate) fn write(bytes: &[u8]) -> Result<Listener, Unwritable> {
    written(io::stdout().write_all(bytes))
}

/// What a result of writing to standard output means.
pub(crate) fn written(result: io::Result<()>) -> Result<Listener, Unwritable> {
    // Flush at once: an error at the end of the process would be lost.
    match result.and_then(|()| io::stdout().flush()) {
        Ok(()) => Ok(Listener::Listens),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Listener::Gone),
        Err(error) => Err(Unwritable(error)),
    }
}

/// Prints a line to standard error. If that takes nothing, there is nobody left to tell.
pub(crate) fn note(text: impl fmt::Display) {
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}
