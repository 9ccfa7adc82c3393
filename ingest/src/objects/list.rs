//! The names of a bucket in their order, a part at a time.

use std::collections::VecDeque;

use super::answers::{Class, Failure};
use super::position::{Object, Pass};
use super::service::{Client, Part, Start};
use super::wait::Wait;

/// The most names that are held: one answer of the service.
const HELD_MAX: usize = 1_000;
/// A short pass begins so many names before the last one.
pub(super) const RECENT: usize = 1_000;
/// So many parts without a new name are asked for in one look. The service may have reasons for some, such as removed
/// objects.
const EMPTY_MAX: usize = 100;

/// Lists the names of a pass. What it holds is only there to save requests.
pub(super) struct List {
    client: Client,
    wait: Wait,
    /// The name before those that are held.
    behind: Option<String>,
    held: VecDeque<Object>,
    /// By which a part that had no new name goes on.
    token: Option<String>,
    /// The last name of the parts that the token goes on from.
    last: Option<String>,
    /// Nothing comes after those that are held.
    is_end: bool,
    /// The last names of this pass.
    recent: VecDeque<String>,
    /// Where the names in `recent` begin, until there are enough of them.
    recent_behind: Option<String>,
    /// The service's clock at the first answer of this pass, in seconds since the epoch.
    clock: Option<i64>,
    /// The time of the youngest object in that answer.
    youngest: Option<i64>,
    /// That answer has come.
    is_begun: bool,
}

impl List {
    pub(super) fn new(client: Client, wait: Wait) -> Self {
        Self {
            client,
            wait,
            behind: None,
            held: VecDeque::new(),
            token: None,
            last: None,
            is_end: false,
            recent: VecDeque::new(),
            recent_behind: None,
            clock: None,
            youngest: None,
            is_begun: false,
        }
    }

    /// Begins with `pass`.
    pub(super) fn begin(&mut self, pass: &Pass) {
        self.held.clear();
        self.is_end = false;
        (self.token, self.last, self.is_begun) = (None, None, false);
        self.behind.clone_from(&pass.after);
        self.recent.clear();
        self.recent_behind.clone_from(&pass.after);
    }

    /// Where the next short pass begins, when this pass has ended.
    pub(super) fn recent(&self) -> Option<String> {
        if self.recent.len() >= RECENT { self.recent.front().cloned() } else { self.recent_behind.clone() }
    }

    /// The service's clock at the first answer of this pass, in seconds since the epoch, if it told it.
    pub(super) const fn clock(&self) -> Option<i64> {
        self.clock
    }

    /// A time that the service's clock had certainly come to at the first answer of this pass.
    pub(super) fn began_at(&self) -> Option<i64> {
        self.clock.or(self.youngest)
    }

    /// Whether it is in the middle of parts without names.
    pub(super) const fn goes_on(&self) -> bool {
        self.token.is_some()
    }

    /// The next object of `pass`, which counts as dealt with from now on. `None` at the end.
    pub(super) fn next(&mut self, pass: &mut Pass) -> Result<Option<Object>, Failure> {
        // Another process had gone on meanwhile, or this one has just begun.
        if self.behind != pass.after {
            self.begin(pass);
        }
        if self.held.is_empty() && !self.is_end {
            self.fill()?;
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

    /// Asks for parts until one has a name behind those that were dealt with.
    fn fill(&mut self) -> Result<(), Failure> {
        let mut parts = 0;
        while parts < EMPTY_MAX && (parts == 0 || !self.wait.is_over()) {
            parts += 1;
            let from = match (&self.token, &self.behind) {
                (Some(token), _) => Start::Token(token),
                (None, Some(name)) => Start::Behind(name),
                (None, None) => Start::Beginning,
            };
            let listed = self.wait.on(self.client.list(from, HELD_MAX));
            let Part { objects, token, clock } = listed.inspect_err(|failure| {
                // A token may have expired.
                if failure.class != Class::Away {
                    (self.token, self.last) = (None, None);
                }
            })?;
            if token.is_some() && token == self.token {
                return Err(
                    self.garbled("expected another continuation token in each part of a listing, found the same")
                );
            }
            if !std::mem::replace(&mut self.is_begun, true) {
                (self.clock, self.youngest) = (clock, objects.iter().map(|object| object.modified).max());
            }
            self.take(objects)?;
            self.is_end = token.is_none() && self.held.len() <= HELD_MAX;
            self.held.truncate(HELD_MAX);
            if !self.held.is_empty() || self.is_end {
                // From here on by name: another process could not go on from a token.
                (self.token, self.last) = (None, None);
                return Ok(());
            }
            self.token = token;
        }
        // The next look goes on from the token, should there be an end after all.
        let why = format!("expected an end, or a name in {parts} parts of a listing one after another, found none");
        // In a page whose time was over, a few parts say nothing.
        Err(Failure::new(if parts < EMPTY_MAX { Class::Away } else { Class::Garbled }, why))
    }

    /// Holds what of a part is behind the names that were dealt with. A service need not know how to begin there.
    fn take(&mut self, objects: Vec<Object>) -> Result<(), Failure> {
        for object in objects {
            if let Some(last) = &self.last
                && !is_behind(&object.path, last)
            {
                let why =
                    format!("expected the names of a listing in their order, found `{}` behind `{last}`", object.path);
                return Err(self.garbled(why));
            }
            if self.last.as_ref().is_none_or(|last| *last < object.path) {
                self.last = Some(object.path.clone());
            }
            if self.behind.as_ref().is_none_or(|behind| *behind < object.path) {
                self.held.push_back(object);
            }
        }
        Ok(())
    }

    /// The next look begins anew behind what was dealt with.
    fn garbled(&mut self, why: impl Into<String>) -> Failure {
        self.held.clear();
        (self.token, self.last) = (None, None);
        Failure::new(Class::Garbled, why.into())
    }

    /// Whether the service lists `object`, the very one.
    pub(super) fn shows(&self, object: &Object) -> Result<bool, Failure> {
        // A name just before its own.
        let mut before = object.path.clone();
        before.pop();
        let from = if before.is_empty() { Start::Beginning } else { Start::Behind(&before) };
        let part = self.wait.on(self.client.list(from, HELD_MAX))?;
        let is_beyond = part.token.is_none() || part.objects.last().is_some_and(|last| last.path > object.path);
        // Among so many names nobody can tell.
        Ok(!is_beyond || part.objects.iter().any(|listed| listed.id == object.id))
    }
}

/// Whether a name comes after `last` in a listing. The mark of a folder, `a/`, is told as `a`.
fn is_behind(name: &str, last: &str) -> bool {
    name > last || name.bytes().chain([b'/']).gt(last.bytes())
}
