//! Shows a person the progress of an install. It must never write to stdout, which belongs to the command's output.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Receives every step.
pub trait Progress: Send + Sync {
    /// A step begins. `bytes` says how many bytes it will process, if that is known.
    fn begin(&self, step: &str, bytes: Option<u64>) -> Box<dyn Step>;
}

/// A step that is under way. Dropping it without [`Step::end`] means that it has failed.
pub trait Step: Send + Sync {
    /// The step has processed `bytes` more.
    fn advance(&self, bytes: u64);
    /// The step is done.
    fn end(&self);
}

/// Shows nothing; for tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

/// Shows a spinner or a bar if stderr is a terminal, otherwise one plain line for each step.
#[derive(Debug, Clone, Copy, Default)]
pub struct Terminal;

impl Progress for Silent {
    fn begin(&self, _: &str, _: Option<u64>) -> Box<dyn Step> {
        Box::new(Self)
    }
}

impl Step for Silent {
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}

impl Progress for Terminal {
    fn begin(&self, step: &str, bytes: Option<u64>) -> Box<dyn Step> {
        if !std::io::stderr().is_terminal() {
            // `eprintln!` would panic when nobody reads.
            let _ = writeln!(std::io::stderr(), "{step}");
            return Box::new(Silent);
        }
        let template = match bytes {
            Some(_) => "{spinner} {msg} {bar:30} {bytes}/{total_bytes} {elapsed}",
            None => "{spinner} {msg} {elapsed}",
        };
        let style = ProgressStyle::with_template(template).expect("the template is a constant and was tested");
        let bar = ProgressBar::with_draw_target(bytes, ProgressDrawTarget::stderr())
            .with_style(style)
            .with_message(step.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        Box::new(Bar(bar))
    }
}

struct Bar(ProgressBar);

impl Step for Bar {
    fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    fn end(&self) {
        self.0.finish();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if !self.0.is_finished() {
            self.0.abandon();
        }
    }
}
