//! How far a bucket was read: the cursor.
//!
//! Names are listed in their order, pass by pass. An object is known by its name, its tag and its size, so one that is
//! replaced is another. Three things tell which were read. A pass does not list again what is behind it. An object that
//! was last modified at the floor or before was read. Of younger ones that were read, each has a mark.
//!
//! A pass over everything may raise the floor when it ends: to `cutoff`, the time of its beginning less the look-back. That
//! time is the service's, as those of the objects are: another clock may be wrong. Marks at the floor or below are no longer
//! needed then. If there are too many marks before, `cutoff` rises early, so the look-back is shorter, but not than
//! [`LOOK_BACK_MIN`].

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::time::Duration;

use object_store::ObjectMeta;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::trouble::Trouble;

/// The most objects with a mark.
pub(super) const MARKS_MAX: usize = 2_000;
/// So many marks are given up at once, for each look at all of them costs time.
const GIVEN_UP: usize = MARKS_MAX / 4;
/// The most objects that are set aside.
pub(super) const ASIDE_MAX: usize = 16;
/// However many objects there are, one that becomes visible so late is still found.
const LOOK_BACK_MIN: Duration = Duration::from_secs(120);
/// A longer tag only tells an object from another.
const TAG_BYTES_MAX: usize = 200;

/// An object as it was listed. It never changes: with another content it is another object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Object {
    /// Its name in the bucket.
    pub(super) path: String,
    /// What it is known by, of its name, tag, version and size.
    pub(super) id: String,
    /// Its tag, if the service gave one.
    pub(super) tag: Option<String>,
    /// Its size in bytes.
    pub(super) size: u64,
    /// When it was last modified, in seconds since the epoch, as the service says.
    pub(super) modified: i64,
}

impl Object {
    pub(super) fn new(meta: ObjectMeta) -> Self {
        let mut id = Sha256::new();
        for part in [meta.location.as_ref(), meta.e_tag.as_deref().unwrap_or(""), meta.version.as_deref().unwrap_or("")]
        {
            id.update((part.len() as u64).to_be_bytes());
            id.update(part);
        }
        id.update(meta.size.to_be_bytes());
        // Without a tag, only the time tells a content from another.
        if meta.e_tag.is_none() {
            id.update(meta.last_modified.timestamp_micros().to_be_bytes());
        }
        Self {
            id: hex::encode(&id.finalize()[..12]),
            path: meta.location.into(),
            tag: meta.e_tag.filter(|tag| tag.len() <= TAG_BYTES_MAX),
            size: meta.size,
            modified: meta.last_modified.timestamp(),
        }
    }

    /// Its name without its folders.
    pub(super) fn name(&self) -> &OsStr {
        OsStr::new(self.path.rsplit('/').next().unwrap_or_default())
    }
}

/// An object that is read in part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reading {
    pub(super) object: Object,
    /// The bytes that were read. Of a packed object: after unpacking.
    pub(super) offset: u64,
    /// How far a packed object was unpacked to come to the offset again.
    pub(super) unpacked: Option<u64>,
}

/// An object that could not be read, or not to its end, and is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Aside {
    pub(super) reading: Reading,
    /// When it is tried again, in seconds since the epoch.
    pub(super) again_at: i64,
    /// What is wrong with it. `None` if it only has a line that is ahead of the clock.
    pub(super) trouble: Option<Trouble>,
}

/// A pass over the names, in their order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pass {
    /// Whether it began at the beginning.
    pub(super) is_full: bool,
    /// The last name that was dealt with.
    pub(super) after: Option<String>,
    /// When it began by the service's clock, in seconds since the epoch. `None` until the service has told.
    #[serde(default)]
    began_at: Option<i64>,
    /// What was modified then or before needs no mark, in seconds since the epoch.
    cutoff: i64,
}

/// That an object was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    #[serde(rename = "m")]
    modified: i64,
    /// It was listed in this pass.
    #[serde(rename = "s")]
    is_seen: bool,
}

/// How far a bucket was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Position {
    /// The object that was read last, for people.
    pub(super) at: Option<String>,
    /// Which bucket, folder and suffixes it is of.
    pub(super) of: String,
    /// The object that is read in part.
    pub(super) reading: Option<Reading>,
    /// The pass that goes on.
    pub(super) pass: Option<Pass>,
    /// Where a short pass begins.
    pub(super) recent: Option<String>,
    /// When the last pass over everything began, in seconds since the epoch.
    pub(super) full_at: Option<i64>,
    /// What was modified then or before was read, in seconds since the epoch.
    pub(super) floor: Option<i64>,
    /// Objects that were read, by their ids.
    pub(super) marks: BTreeMap<String, Mark>,
    /// Objects that are tried again.
    pub(super) aside: Vec<Aside>,
    /// An object that was read. If it still can be, the right to read is there.
    pub(super) proof: Option<Object>,
    /// How many objects were given up.
    pub(super) given_up: u64,
}

impl Position {
    pub(super) fn of(of: &str) -> Self {
        Self { of: of.to_owned(), ..Self::default() }
    }

    /// Begins a pass at the time `now` of this machine. [`Self::began`] tells the service's.
    pub(super) fn begin(&mut self, now: i64, full_every: Duration) {
        let is_due = self.full_at.is_none_or(|at| now.saturating_sub(at) >= seconds(full_every) || now < at);
        let is_full = is_due || self.marks.len() >= MARKS_MAX;
        let after = if is_full { None } else { self.recent.clone() };
        if is_full {
            self.full_at = Some(now);
            self.marks.values_mut().for_each(|mark| mark.is_seen = false);
        }
        self.pass = Some(Pass { is_full, after, began_at: None, cutoff: i64::MIN });
    }

    /// Notes that the service's clock was at `clock` when the pass began. Without a clock every object needs a mark.
    pub(super) fn began(&mut self, clock: Option<i64>, look_back: Duration) {
        if let Some(pass) = self.pass.as_mut().filter(|pass| pass.began_at.is_none()) {
            pass.began_at = clock;
            pass.cutoff = clock.map_or(i64::MIN, |clock| clock.saturating_sub(seconds(look_back)));
        }
    }

    /// How far back the pass looks, in seconds, if that is less than `look_back`.
    pub(super) fn short_look_back(&self, look_back: Duration) -> Option<i64> {
        let pass = self.pass.as_ref()?;
        let looked = pass.began_at?.saturating_sub(pass.cutoff);
        (looked < seconds(look_back)).then_some(looked)
    }

    /// Ends the pass: all names were listed.
    pub(super) fn end(&mut self) {
        let Some(pass) = self.pass.take().filter(|pass| pass.is_full) else { return };
        let floor = self.floor.map_or(pass.cutoff, |floor| floor.max(pass.cutoff));
        self.floor = Some(floor);
        // One that was not listed is gone.
        self.marks.retain(|_, mark| mark.is_seen && mark.modified > floor);
    }

    /// Whether an object that was listed was read or is dealt with elsewhere.
    pub(super) fn knows(&mut self, object: &Object) -> bool {
        if let Some(mark) = self.marks.get_mut(&object.id) {
            mark.is_seen = true;
            return true;
        }
        self.floor.is_some_and(|floor| object.modified <= floor)
            || self.aside.iter().any(|aside| aside.reading.object.id == object.id)
    }

    /// Notes that an object was read or set aside.
    pub(super) fn mark(&mut self, object: &Object) {
        self.at = Some(object.path.clone());
        let needless = match &self.pass {
            // One that is still ahead of the pass would be taken for unread.
            Some(pass) if pass.is_full && pass.after.as_deref() >= Some(object.path.as_str()) => Some(pass.cutoff),
            _ => self.floor,
        };
        if needless.is_some_and(|needless| object.modified <= needless) {
            return;
        }
        if self.marks.len() >= MARKS_MAX {
            self.make_room();
        }
        self.marks.insert(object.id.clone(), Mark { modified: object.modified, is_seen: true });
    }

    fn make_room(&mut self) {
        if let Some(pass) = self.pass.as_mut().filter(|pass| pass.is_full) {
            let newest = pass.began_at.map_or(i64::MIN, |began_at| began_at.saturating_sub(seconds(LOOK_BACK_MIN)));
            // Those that were seen are behind this pass, so a higher cutoff does as well as their marks.
            let seen = self.marks.values().filter(|mark| mark.is_seen && mark.modified <= newest);
            let mut times: Vec<i64> = seen.map(|mark| mark.modified).collect();
            times.sort_unstable();
            if let Some(cutoff) = times.get(GIVEN_UP.min(times.len().saturating_sub(1))) {
                let cutoff = pass.cutoff.max(*cutoff);
                pass.cutoff = cutoff;
                self.marks.retain(|_, mark| !mark.is_seen || mark.modified > cutoff);
            }
        }
        // Whatever has no mark is read again, which only costs time.
        while self.marks.len() >= MARKS_MAX {
            let oldest = self.marks.iter().min_by_key(|(_, mark)| mark.modified).map(|(id, _)| id.clone());
            let Some(oldest) = oldest else { return };
            self.marks.remove(&oldest);
        }
    }
}

pub(super) fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::pull::CURSOR_BYTES_MAX;

    const HOUR: Duration = Duration::from_secs(3_600);
    const NOW: i64 = 1_000_000;

    fn object(number: usize, modified: i64) -> Object {
        Object { path: format!("{number:06}"), id: format!("{number:024x}"), tag: None, size: 1, modified }
    }

    /// Reads what a pass over `objects` finds unread.
    fn pass(position: &mut Position, objects: &[Object], now: i64) -> usize {
        position.begin(now, Duration::ZERO);
        position.began(Some(now), HOUR);
        let mut read = 0;
        for object in objects {
            if let Some(pass) = &mut position.pass {
                pass.after = Some(object.path.clone());
            }
            if !position.knows(object) {
                read += 1;
                position.mark(object);
            }
            assert!(position.marks.len() <= MARKS_MAX);
        }
        position.end();
        read
    }

    #[test]
    fn old_objects_need_no_marks_and_young_ones_have_them_until_the_floor_passes() {
        let mut position = Position::default();
        let old: Vec<Object> = (0..10_000).map(|number| object(number, NOW - 10_000)).collect();
        let young: Vec<Object> = (10_000..10_100).map(|number| object(number, NOW - 100)).collect();
        let all = [old, young].concat();
        assert_eq!(pass(&mut position, &all, NOW), 10_100);
        assert_eq!((position.marks.len(), position.floor), (100, Some(NOW - 3_600)));
        assert_eq!(pass(&mut position, &all, NOW + 60), 0);
        // One that came late, under an earlier name, and one that was replaced.
        let mut changed = all.clone();
        changed.insert(5, object(20_000, NOW - 1_000));
        changed[7] = object(20_001, NOW + 50);
        assert_eq!(pass(&mut position, &changed, NOW + 120), 2);
        assert_eq!(pass(&mut position, &changed, NOW + 100_000), 0);
        assert_eq!(position.marks.len(), 0);
    }

    #[test]
    fn more_young_objects_than_there_are_marks_are_each_read_once() {
        let mut position = Position::default();
        let count = MARKS_MAX * 4;
        // In the order of their names they are not in that of their times.
        let all: Vec<Object> =
            (0..count).map(|number| object(number, NOW - 200 - (number * 37 % 3_000) as i64)).collect();
        assert_eq!(pass(&mut position, &all, NOW), count);
        assert_eq!(pass(&mut position, &all, NOW + 10), 0);
        assert!(position.floor < Some(NOW - 120), "{:?}", position.floor);
        // While a pass goes on, it tells that it looks back less far than it should.
        let mut position = Position::default();
        position.begin(NOW, Duration::ZERO);
        position.began(Some(NOW), HOUR);
        assert_eq!(position.short_look_back(HOUR), None);
        for object in &all {
            position.pass.iter_mut().for_each(|pass| pass.after = Some(object.path.clone()));
            position.mark(object);
        }
        assert!(position.short_look_back(HOUR).is_some_and(|seconds| (120..3_600).contains(&seconds)));
    }

    #[test]
    fn the_look_back_never_shrinks_below_its_least() {
        let mut position = Position::default();
        let all: Vec<Object> = (0..MARKS_MAX * 2).map(|number| object(number, NOW)).collect();
        assert_eq!(pass(&mut position, &all, NOW), MARKS_MAX * 2);
        assert_eq!(position.floor, Some(NOW - 3_600));
        assert!(!position.knows(&object(1_000_000, NOW)), "one that becomes visible late");
    }

    #[test]
    fn only_the_services_clock_says_what_is_old() {
        // This machine's clock is ahead by more than the look-back.
        let mut position = Position::default();
        let object = |number, modified| object(number, modified);
        let read = |position: &mut Position, clock, object: &Object| {
            position.begin(NOW + 10_000, Duration::ZERO);
            position.began(clock, HOUR);
            let is_known = position.knows(object);
            position.mark(object);
            position.end();
            is_known
        };
        assert!(!read(&mut position, Some(NOW), &object(1, NOW - 10)));
        assert_eq!(position.floor, Some(NOW - 3_600));
        assert!(!read(&mut position, Some(NOW + 60), &object(2, NOW + 50)));
        // No clock, no floor.
        let mut position = Position::default();
        assert!(!read(&mut position, None, &object(1, NOW)));
        assert_eq!(position.floor, Some(i64::MIN));
        assert!(!position.knows(&object(2, 0)));
    }

    #[test]
    fn the_largest_position_is_a_cursor() {
        // The longest name, of characters that JSON writes as six.
        let longest = "\u{1}".repeat(1_024);
        let tag = Some("\"".repeat(TAG_BYTES_MAX));
        let object = Object { path: longest.clone(), id: "f".repeat(24), tag, size: u64::MAX, modified: i64::MIN };
        let proof = Some(object.clone());
        let reading = Reading { object, offset: u64::MAX, unpacked: Some(u64::MAX) };
        let aside = Aside { reading: reading.clone(), again_at: i64::MIN, trouble: Some(Trouble::longest()) };
        let mark = Mark { modified: i64::from(u32::MAX) * 10, is_seen: false };
        let position = Position {
            at: Some(longest.clone()),
            of: "f".repeat(64),
            reading: Some(reading),
            pass: Some(Pass {
                is_full: true,
                after: Some(longest.clone()),
                began_at: Some(i64::MIN),
                cutoff: i64::MIN,
            }),
            recent: Some(longest),
            full_at: Some(i64::MIN),
            floor: Some(i64::MIN),
            marks: (0..MARKS_MAX).map(|number| (format!("{number:024x}"), mark)).collect(),
            aside: vec![aside; ASIDE_MAX],
            proof,
            given_up: u64::MAX,
        };
        let bytes = serde_json::to_vec(&position).unwrap();
        assert!(bytes.len() <= CURSOR_BYTES_MAX, "{}", bytes.len());
        assert_eq!(serde_json::from_slice::<Position>(&bytes).unwrap(), position);
    }
}
