//! What a replay tells while it works, on stderr: one line that changes on a terminal, else a plain line now and
//! then.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::time::Instant;

/// How often the line changes on a terminal.
const CHANGE: Duration = Duration::from_millis(200);
/// How often there is a plain line.
const PLAIN: Duration = Duration::from_secs(10);

/// Tells a person how far it is.
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

    /// One that tells only what a person must know.
    pub(super) const fn silent() -> Self {
        Self { is_silent: true, is_terminal: false, told_at: None, is_open: false }
    }

    /// Something that is good to know, and stays to be read.
    pub(super) fn note(&mut self, text: &str) {
        if !self.is_silent {
            self.print(text);
        }
    }

    /// A warning: it stays to be read, whoever wants to hear little.
    pub(super) fn print(&mut self, text: &str) {
        self.clear();
        eprintln!("{text}");
        self.told_at = Some(Instant::now());
    }

    /// How far it is; not every word is shown.
    pub(super) fn update(&mut self, text: impl FnOnce() -> String) {
        let pause = if self.is_terminal { CHANGE } else { PLAIN };
        if self.is_silent || self.told_at.is_some_and(|at| at.elapsed() < pause) {
            return;
        }
        if self.is_terminal {
            self.clear();
            eprint!("{}", text());
            let _ = std::io::stderr().flush();
            self.is_open = true;
        } else {
            eprintln!("{}", text());
        }
        self.told_at = Some(Instant::now());
    }

    fn clear(&mut self) {
        if self.is_open {
            // To the line's beginning, and without what is there.
            eprint!("\r\u{1b}[2K");
            self.is_open = false;
        }
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        self.clear();
    }
}
