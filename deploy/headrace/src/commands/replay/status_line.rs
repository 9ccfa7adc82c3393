//! Shows the progress of a replay on stderr: on a terminal one line that changes, otherwise a plain line now and then.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::time::Instant;

use crate::cli::output;

/// How often the line changes on a terminal.
const CHANGE: Duration = Duration::from_millis(200);
/// How often a plain line is printed.
const PLAIN: Duration = Duration::from_secs(10);

/// Shows a person the progress.
pub(super) struct StatusLine {
    is_silent: bool,
    is_terminal: bool,
    told_at: Option<Instant>,
    is_open: bool,
}

impl StatusLine {
    pub(super) fn new() -> Self {
        Self { is_silent: false, is_terminal: std::io::stderr().is_terminal(), told_at: None, is_open: false }
    }

    /// A status line that prints warnings only.
    pub(super) const fn silent() -> Self {
        Self { is_silent: true, is_terminal: false, told_at: None, is_open: false }
    }

    /// Prints a note that stays on the screen.
    pub(super) fn note(&mut self, text: &str) {
        if !self.is_silent {
            self.print(text);
        }
    }

    /// Prints a warning that stays on the screen, even with `--quiet`.
    pub(super) fn print(&mut self, text: &str) {
        self.clear();
        output::note(text);
        self.told_at = Some(Instant::now());
    }

    /// Shows the progress. Texts that come too fast are skipped.
    pub(super) fn update(&mut self, text: impl FnOnce() -> String) {
        let pause = if self.is_terminal { CHANGE } else { PLAIN };
        if self.is_silent || self.told_at.is_some_and(|at| at.elapsed() < pause) {
            return;
        }
        if self.is_terminal {
            self.clear();
            let _ = std::io::stderr().write_all(text().as_bytes());
            self.is_open = true;
        } else {
            output::note(text());
        }
        self.told_at = Some(Instant::now());
    }

    fn clear(&mut self) {
        if self.is_open {
            // Go to the beginning of the line and clear it.
            let _ = std::io::stderr().write_all(b"\r\x1b[2K");
            self.is_open = false;
        }
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        self.clear();
    }
}
