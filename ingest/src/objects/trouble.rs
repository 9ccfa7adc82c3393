//! Trouble with single objects: what is tried again, when, and when it is given up.
//!
//! An object that cannot be read must not stop the others, and must not be given up for what is not its own trouble. So a try
//! that fails only counts when something shows that others can be read: an object that was read before is asked for its
//! first byte. Where that fails too, the trouble is the service's, or that of our rights, and nothing is given up for it.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::anyhow;
use headrace_runtime::fault::Fault;
use headrace_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::answers::{Class, Failure};
use super::position::{ASIDE_MAX, Aside, Position, Reading, seconds};
use super::read::{Draft, Origin, Reader};
use crate::lines::Place;

/// An object is tried so often before it is set aside.
const TRIES_MAX: u32 = 3;
/// A line that does not end goes on for so many pages before its object is set aside.
const SLOW_MAX: u32 = 5;
/// The most objects of which failures are counted. Beyond that, counting begins anew.
const FAILING_MAX: usize = 1_000;
/// The pause after the first try of an object that is set aside. It is short, because an outage that ended in the middle of
/// the tries looks like an object's own trouble. Later ones are twice as long, up to the longest.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(3_600);
/// An object becomes a dead letter after so many tries that count, and not before it has failed for so long.
const GIVEN_UP_TRIES: u32 = 100;
const GIVEN_UP_AFTER: Duration = Duration::from_secs(7 * 86_400);

/// What is wrong with an object that is set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Trouble {
    kind: Kind,
    /// Since when, in seconds since the epoch.
    since: i64,
    /// How often it was tried.
    tries: u32,
    /// How many of these tries showed that the trouble is its own.
    counted: u32,
}

/// The kinds of trouble with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// We may not read it.
    Denied,
    /// It must be restored first.
    Archived,
    /// Reading it fails.
    Failing,
}

impl Kind {
    const fn of(class: Class) -> Self {
        match class {
            Class::Denied => Self::Denied,
            Class::Archived => Self::Archived,
            _ => Self::Failing,
        }
    }

    /// What is wrong, if nobody knows more.
    const fn told(self) -> &'static str {
        match self {
            Self::Denied => "it may not be read",
            Self::Archived => "it is archived",
            Self::Failing => "reading it fails",
        }
    }

    /// What a person can do.
    const fn advice(self) -> &'static str {
        match self {
            Self::Denied => "give this account the right to read it, or remove it",
            Self::Archived => "restore it (at S3: RestoreObject), or remove it",
            Self::Failing => "find out at the service what is wrong with it, or remove it",
        }
    }
}

impl Trouble {
    /// The trouble after another try failed, which counts if it `is_own`.
    fn tried(old: Option<Self>, kind: Kind, is_own: bool, now: i64) -> Self {
        let Self { since, tries, counted, .. } = old.unwrap_or(Self { kind, since: now, tries: 0, counted: 0 });
        Self { kind, since, tries: tries.saturating_add(1), counted: counted.saturating_add(u32::from(is_own)) }
    }

    /// The time until the next try.
    fn pause(&self) -> i64 {
        let pause = match self.kind {
            // Restoring takes hours.
            Kind::Archived => AGAIN_AFTER_MAX,
            Kind::Denied | Kind::Failing => {
                AGAIN_AFTER_MAX.min(AGAIN_AFTER * 2_u32.pow(self.tries.saturating_sub(1).min(9)))
            }
        };
        seconds(pause)
    }

    /// Whether enough tries have shown that the object can never be read.
    fn is_hopeless(&self, now: i64) -> bool {
        self.counted >= GIVEN_UP_TRIES && now.saturating_sub(self.since) >= seconds(GIVEN_UP_AFTER)
    }

    /// One that takes the most room in a cursor.
    #[cfg(test)]
    pub(super) const fn longest() -> Self {
        Self { kind: Kind::Archived, since: i64::MIN, tries: u32::MAX, counted: u32::MAX }
    }
}

/// What is remembered of objects that fail. It is lost with the process, which costs tries.
#[derive(Default)]
pub(super) struct Failing {
    /// How often they failed in a row, by their ids.
    tries: HashMap<String, u32>,
    /// Which object was set aside last, by its id, and why.
    why: Option<(String, String)>,
}

impl Failing {
    fn count(&mut self, id: &str) -> u32 {
        if self.tries.len() >= FAILING_MAX {
            self.tries.clear();
        }
        let tries = self.tries.entry(id.to_owned()).or_default();
        *tries += 1;
        *tries
    }

    /// Forgets the failures of an object.
    pub(super) fn forget(&mut self, id: &str) {
        self.tries.remove(id);
    }
}

/// Whose trouble it is that an object cannot be read.
enum Whose {
    /// Its own: another one can be read.
    Own,
    /// Nobody can tell.
    Unknown,
    /// The service's, or that of our rights: another one cannot be read either.
    All,
}

impl Reader {
    /// What a person must know of the objects that are set aside.
    pub(super) fn trouble(&self, position: &Position) -> Option<Fault> {
        let failing = || position.aside.iter().filter_map(|aside| Some((&aside.reading.object, aside.trouble?)));
        let why_of = |id: &str| self.failing.why.as_ref().filter(|(own, _)| own == id).map(|(_, why)| why.as_str());
        let known = failing().find(|(object, _)| why_of(&object.id).is_some());
        let (object, trouble) = known.or_else(|| failing().next())?;
        let since = Timestamp::from_micros(trouble.since.saturating_mul(1_000_000));
        Some(Fault::broken(anyhow!(
            "expected to read every object of {}, found {} that cannot be read, such as `{}` ({}; tried {} times since \
             {since}); the others are read; {}; after {GIVEN_UP_TRIES} tries in {} days or more, while others can be read, \
             it becomes a dead letter",
            self.settings.bucket.told(),
            failing().count(),
            object.path,
            why_of(&object.id).unwrap_or_else(|| trouble.kind.told()),
            trouble.tries,
            trouble.kind.advice(),
            GIVEN_UP_AFTER.as_secs() / 86_400,
        )))
    }

    /// Decides what follows from a failure to read an object.
    ///
    /// # Errors
    /// When it is not the object's own trouble, or when too many are set aside.
    pub(super) fn failed(
        &mut self,
        reading: Reading,
        origin: Origin,
        failure: Failure,
        draft: &mut Draft,
    ) -> Result<(), Fault> {
        let (class, id) = (failure.class, reading.object.id.clone());
        let tries = self.failing.count(&id);
        let is_over = origin.is_aside() || tries >= if class == Class::Slow { SLOW_MAX } else { TRIES_MAX };
        let is_told_by_answer = matches!(class, Class::Denied | Class::Archived | Class::Refused | Class::BadName);
        let why = failure.to_string();
        let fault = self.fault(failure, &reading);
        if !is_over && !is_told_by_answer && !matches!(class, Class::Missing | Class::Replaced) {
            return Err(put_back(reading, origin, draft, fault));
        }
        // Somebody else may have answered in the service's place, so look whether it is still listed. If another object has
        // its name now, that one is listed by the next pass.
        match self.list.shows(&reading.object) {
            Ok(false) => {
                tracing::debug!(object = reading.object.path, "an object that was listed is gone");
                self.failing.forget(&id);
                return Ok(());
            }
            Ok(true) if is_over || is_told_by_answer => {}
            Ok(true) | Err(_) => return Err(put_back(reading, origin, draft, fault)),
        }
        let is_own = match self.whose(class, &reading, &mut draft.position) {
            Whose::Own => true,
            Whose::Unknown => false,
            Whose::All => return Err(put_back(reading, origin, draft, fault)),
        };
        let old = origin.trouble();
        let trouble = Trouble::tried(old, Kind::of(class), is_own, draft.now);
        if is_own && trouble.is_hopeless(draft.now) {
            self.give_up(&reading, trouble, &why, draft);
            return Ok(());
        }
        if old.is_none() {
            let object = reading.object.path.as_str();
            tracing::warn!(object, why, "cannot read an object; it is tried again, and the others are read");
        }
        self.failing.why = Some((id, why));
        let again_at = draft.now.saturating_add(trouble.pause());
        self.set_aside(Aside { reading, again_at, trouble: Some(trouble) }, &mut draft.position)
    }

    fn fault(&self, failure: Failure, reading: &Reading) -> Fault {
        let operation = format!("read the object {}", reading.object.path);
        match failure.class {
            // The service lists it, or cannot be asked.
            Class::Missing | Class::Replaced => {
                Fault::transient(anyhow::Error::new(failure).context(format!("cannot {operation}")))
            }
            _ => failure.fault(&operation),
        }
    }

    /// Whether another object can be read.
    fn whose(&self, class: Class, reading: &Reading, position: &mut Position) -> Whose {
        if matches!(class, Class::Archived | Class::BadName) {
            return Whose::Own;
        }
        let Some(proof) = position.proof.take_if(|proof| proof.id != reading.object.id) else { return Whose::Unknown };
        let read = self.wait.on(self.client.read(&proof, 0..1)).map_err(|failure| failure.class);
        match read {
            // The right is looked at before the tag.
            Ok(_) | Err(Class::Replaced) => {
                position.proof = Some(proof);
                Whose::Own
            }
            // Another one that is read takes its place.
            Err(Class::Missing | Class::Archived) => Whose::Unknown,
            Err(_) => {
                position.proof = Some(proof);
                Whose::All
            }
        }
    }

    /// Sets an object aside. If there are too many already, it stays in the way.
    pub(super) fn set_aside(&self, aside: Aside, position: &mut Position) -> Result<(), Fault> {
        if position.aside.len() < ASIDE_MAX {
            position.aside.push(aside);
            return Ok(());
        }
        let told = |why: &str| {
            format!(
                "expected at most {ASIDE_MAX} objects of {} that cannot be read yet, found more, such as `{}` ({why})",
                self.settings.bucket.told(),
                aside.reading.object.path,
            )
        };
        let fault = match &aside.trouble {
            Some(trouble) => {
                let why = self.failing.why.as_ref().map_or(trouble.kind.told(), |(_, why)| why.as_str());
                Fault::broken(anyhow!("{}; the rest waits for them; {}", told(why), trouble.kind.advice()))
            }
            None => Fault::transient(anyhow!("{}; they are waited for", told("a line's time is ahead of the clock"))),
        };
        position.reading = Some(aside.reading);
        Err(fault)
    }

    fn give_up(&mut self, reading: &Reading, trouble: Trouble, why: &str, draft: &mut Draft) {
        let Reading { object, offset, .. } = reading;
        self.failing.forget(&object.id);
        let (path, tries, name) = (object.path.as_str(), trouble.tries, &self.name);
        tracing::error!(
            object = path,
            tries,
            why,
            "gave an object up: it becomes a dead letter, and is not read again"
        );
        let place = Place { name: path, offset: *offset };
        let told = trouble.kind.told();
        // The advice first: a long reason is cut.
        let why = format!(
            "cannot read the object from here on: {told}; {}, then run `headrace sources rewind {name}` ({why})",
            trouble.kind.advice()
        );
        draft.gathered.unreadable(&*self.records, place, &[], Sha256::digest(&object.id).into(), &why);
        draft.position.given_up = draft.position.given_up.saturating_add(1);
        draft.position.mark(object);
    }
}

/// Leaves an object where it was: the trouble is not its own, or may pass.
fn put_back(reading: Reading, origin: Origin, draft: &mut Draft, fault: Fault) -> Fault {
    match origin {
        Origin::Aside(trouble) => {
            let again_at = draft.now.saturating_add(seconds(AGAIN_AFTER));
            draft.position.aside.push(Aside { reading, again_at, trouble });
        }
        Origin::Listed | Origin::Begun => draft.position.reading = Some(reading),
    }
    fault
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_given_up_after_many_tries_over_a_long_time_that_show_it_is_its_own_trouble() {
        let week = seconds(GIVEN_UP_AFTER);
        let (mut own, mut others, mut now) = (None, None, 0);
        let mut pauses = Vec::new();
        while own.is_none_or(|trouble: Trouble| !trouble.is_hopeless(now)) {
            let trouble = Trouble::tried(own, Kind::Denied, true, now);
            own = Some(trouble);
            others = Some(Trouble::tried(others, Kind::Denied, false, now));
            pauses.push(trouble.pause());
            now += trouble.pause();
        }
        assert_eq!(pauses[..6], [10, 20, 40, 80, 160, 320]);
        assert!((week..week + 7_200).contains(&now), "{now}");
        assert!(pauses.len() > 100, "{}", pauses.len());
        assert!(!others.unwrap().is_hopeless(i64::MAX), "rights that lapse for all give nothing up");
        let often = Trouble { counted: u32::MAX, ..Trouble::tried(None, Kind::Denied, true, 0) };
        assert!(!often.is_hopeless(week - 1) && often.is_hopeless(week));
    }
}
