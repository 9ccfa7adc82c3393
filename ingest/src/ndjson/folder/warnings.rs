//! Warnings about single files, each once.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::scan::text_of;

/// The most files that are remembered. Beyond that, warnings come again.
const FILES_MAX: usize = 1_000;

/// The warnings that were given.
#[derive(Debug, Default)]
pub(super) struct Warnings(HashSet<(PathBuf, &'static str)>);

impl Warnings {
    /// Warns of `why` at `path`, unless that was done before.
    pub(super) fn tell(&mut self, path: &Path, why: &'static str) {
        if self.0.len() >= FILES_MAX {
            self.0.clear();
        }
        if self.0.insert((path.to_owned(), why)) {
            tracing::warn!(path = text_of(path), "{why}");
        }
    }
}
