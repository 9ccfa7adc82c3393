//! The names of a bucket in their order, a part at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{Error, ObjectStore};

use super::position::{Object, Pass};
use super::wait::Wait;

/// The most names that are held: one answer of the service.
const HELD_MAX: usize = 1_000;
/// A short pass begins so many names before the last one.
pub(super) const RECENT: usize = 1_000;

/// Lists the names of a pass. What it holds is only there to save requests.
pub(super) struct List {
    store: Arc<dyn ObjectStore>,
    wait: Wait,
    folder: Path,
    /// The name before those that are held.
    behind: Option<String>,
    held: VecDeque<Object>,
    /// Nothing comes after those that are held.
    is_end: bool,
    /// The last names of this pass.
    recent: VecDeque<String>,
    /// Where the names in `recent` begin, until there are enough of them.
    recent_behind: Option<String>,
}

impl List {
    pub(super) fn new(store: Arc<dyn ObjectStore>, wait: Wait, folder: Path) -> Self {
        Self {
            store,
            wait,
            folder,
            behind: None,
            held: VecDeque::new(),
            is_end: false,
            recent: VecDeque::new(),
            recent_behind: None,
        }
    }

    /// Begins with `pass`.
    pub(super) fn begin(&mut self, pass: &Pass) {
        self.held.clear();
        self.is_end = false;
        self.behind.clone_from(&pass.after);
        self.recent.clear();
        self.recent_behind.clone_from(&pass.after);
    }

    /// Where the next short pass begins, when this pass has ended.
    pub(super) fn recent(&self) -> Option<String> {
        if self.recent.len() >= RECENT { self.recent.front().cloned() } else { self.recent_behind.clone() }
    }

    /// The next object of `pass`, which counts as dealt with from now on. `None` at the end.
    pub(super) fn next(&mut self, pass: &mut Pass) -> Result<Option<Object>, Error> {
        // Another process had gone on meanwhile, or this one has just begun.
        if self.behind != pass.after {
            self.begin(pass);
        }
        if self.held.is_empty() && !self.is_end {
            self.held = self.wait.on(part(&*self.store, &self.folder, self.behind.as_deref(), HELD_MAX))?;
            self.is_end = self.held.len() < HELD_MAX;
        }
        let Some(object) = self.held.pop_front() else { return Ok(None) };
        // The mark of a folder, `a/`, is told as `a`, which belongs before `a-b`.
        if pass.after.as_deref().is_none_or(|after| after < object.path.as_str()) {
            pass.after = Some(object.path.clone());
        }
        self.behind.clone_from(&pass.after);
        if self.recent.len() >= RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(object.path.clone());
        Ok(Some(object))
    }

    /// Whether the service lists `object`, the very one.
    pub(super) fn shows(&self, object: &Object) -> Result<bool, Error> {
        // A name just before its own.
        let mut before = object.path.clone();
        before.pop();
        let after = (!before.is_empty()).then_some(before.as_str());
        let listed = self.wait.on(part(&*self.store, &self.folder, after, HELD_MAX))?;
        let is_beyond = listed.len() < HELD_MAX || listed.back().is_some_and(|last| last.path > object.path);
        // Among so many names nobody can tell.
        Ok(!is_beyond || listed.iter().any(|listed| listed.id == object.id))
    }

    /// Whether the service answers.
    pub(super) fn try_once(&self) -> Result<(), Error> {
        self.wait.on(part(&*self.store, &self.folder, None, 1)).map(|_| ())
    }
}

/// At most `max` objects behind the name `after`.
async fn part(
    store: &dyn ObjectStore,
    folder: &Path,
    after: Option<&str>,
    max: usize,
) -> Result<VecDeque<Object>, Error> {
    let listed = match after {
        None => store.list(Some(folder)),
        Some(after) => store.list_with_offset(Some(folder), &Path::parse(after)?),
    };
    listed.take(max).map_ok(Object::new).try_collect().await
}
