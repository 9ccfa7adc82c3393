//! How far a folder was read: the cursor.
//!
//! A file is known by its inode and the time of its birth, so that one which was renamed is read on and not again. The inode
//! alone is not enough: once a file is removed, the next that is made may get it. For at most [`FILES_MAX`] files the place
//! in each is kept. Of the others only a floor is: a file that last changed at the floor or earlier was read.
//! When a kept file is given up for lack of room, the floor rises to it. So only files that are read to their end are
//! given up, and none while an older one is unread.
//!
//! The floor holds for the folder that was looked through. With another folder or other suffixes, or with a subfolder that
//! was moved in with old files, it is dropped: files that were given up are read again, and none is passed over.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// The most files whose place is kept.
pub(super) const FILES_MAX: usize = 1_000;
/// The most subfolders that are remembered. With more of them, one that was moved in is not told from the others.
pub(super) const FOLDERS_MAX: usize = 2_000;

/// The order in which files are read.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Key {
    /// When the file last changed, in nanoseconds since the epoch, as the file system says (`ctime`). Nobody can set it,
    /// and moving a file into the folder changes it.
    pub(super) changed: i64,
    /// Its path below the folder, as [`super::scan::text_of`] writes it.
    pub(super) path: String,
}

/// How far a file was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// The bytes that were read. Of a packed file: after unpacking.
    #[serde(rename = "o")]
    pub(super) offset: u64,
    /// When the content had last changed, in nanoseconds since the epoch (`mtime`).
    #[serde(rename = "m")]
    pub(super) modified: i64,
    /// A hash of the bytes before the offset. A file that was cut and grew again has others there.
    #[serde(rename = "h")]
    pub(super) check: u32,
    /// What is left in it.
    #[serde(rename = "s")]
    pub(super) stage: Stage,
    /// Whether it must be unpacked.
    #[serde(rename = "z")]
    pub(super) packed: bool,
    /// When the file was made, in nanoseconds since the epoch. `None` if the file system does not tell, or an earlier release
    /// wrote the mark.
    #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
    pub(super) born: Option<i64>,
    /// Of a packed file, its size on the disk. `None` in a mark that an earlier release wrote.
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    pub(super) size: Option<u64>,
}

impl Mark {
    /// The mark with what an earlier release did not write, from the file itself: `born`, when it was made, and `modified`
    /// and `size` as they are now.
    pub(super) fn complete(self, born: Option<i64>, modified: i64, size: u64) -> Self {
        let is_unchanged = self.packed && self.modified == modified;
        Self { born: self.born.or(born), size: self.size.or(is_unchanged.then_some(size)), ..self }
    }
}

/// Whether two files with the same inode may be one, by the times at which they were made. An unknown time fits any: the
/// whole folder would be read again otherwise after an upgrade.
pub(super) fn may_be_same(born: Option<i64>, other: Option<i64>) -> bool {
    born.is_none() || other.is_none() || born == other
}

/// What is left in a file that has not changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stage {
    /// More lines.
    #[serde(rename = "r")]
    Reading,
    /// The beginning of a line, or of a packed file's next part.
    #[serde(rename = "w")]
    Waiting,
    /// Nothing.
    #[serde(rename = "d")]
    Done,
}

/// Where reading stopped, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct At {
    /// The file.
    #[serde(flatten)]
    pub(super) key: Key,
    /// The place in it.
    pub(super) offset: u64,
}

/// How far a folder was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Position {
    /// Where reading stopped last.
    pub(super) at: Option<At>,
    /// Which folder it is: another one has another position.
    pub(super) of: Option<String>,
    /// Which suffixes are read.
    pub(super) suffixes: Option<String>,
    /// A file at this key or below was read, unless it is among `files`.
    pub(super) floor: Option<Key>,
    /// How far each file was read, by its inode.
    pub(super) files: BTreeMap<String, Mark>,
    /// The folder and its subfolders, by their inodes, as they were when all of it was last looked through. `None` if that
    /// was never done, or there are too many.
    pub(super) folders: Option<BTreeSet<String>>,
    /// How far a packed file was unpacked whose reading goes on further behind, in bytes.
    pub(super) unpacked: Option<u64>,
}

/// What a look says about the files with a mark.
#[derive(Debug, Default)]
pub(super) struct Marked {
    /// The keys of those that are there. A file that only has the inode of one with a mark is none of them.
    pub(super) keys: BTreeMap<String, Key>,
    /// Marks that lacked something which the look tells.
    pub(super) completed: Vec<(String, Mark)>,
    /// The whole folder was looked through, so one without a key is gone.
    pub(super) is_whole: bool,
}

impl Position {
    /// Whether a file without a mark was read before.
    pub(super) fn was_read(&self, key: &Key) -> bool {
        self.floor.as_ref().is_some_and(|floor| key <= floor)
    }

    /// The position for the folder `of` and these suffixes, from one that may be for others.
    pub(super) fn fit(self, of: &str, suffixes: &str) -> Self {
        let is_of = self.of.as_deref().is_none_or(|own| own == of);
        let has_suffixes = self.suffixes.as_deref().is_none_or(|own| own == suffixes);
        let mut position = if is_of { self } else { Self::default() };
        // A file that the other suffixes left out may be as old as those that were read.
        if !has_suffixes {
            position.drop_floor();
        }
        Self { of: Some(of.to_owned()), suffixes: Some(suffixes.to_owned()), ..position }
    }

    /// Has files that were given up read again. One that was read to its end is given up too: older ones would find no room
    /// otherwise, because none is given up for an older one.
    pub(super) fn drop_floor(&mut self) {
        self.floor = None;
        if self.files.len() >= FILES_MAX
            && let Some(done) = self.files.iter().find(|(_, mark)| mark.stage == Stage::Done).map(|(id, _)| id.clone())
        {
            self.files.remove(&done);
        }
    }

    /// Keeps which subfolders there are. If not all of it was looked through, the earlier ones are kept too.
    pub(super) fn know(&mut self, found: BTreeSet<String>, is_whole: bool) {
        let mut folders = found;
        if !is_whole {
            folders.extend(self.folders.take().into_iter().flatten());
        }
        self.folders = (folders.len() <= FOLDERS_MAX).then_some(folders);
    }

    /// Whether the file `id` that was made at `born` has a mark, and not only one before it that had its inode.
    pub(super) fn has_mark(&self, id: &str, born: Option<i64>) -> bool {
        self.files.get(id).is_some_and(|mark| may_be_same(mark.born, born))
    }

    /// Makes room for another file. `marked` has the files with a mark, and `unread` is the least key of a file that has
    /// none and is not read. Returns false when there is no room.
    pub(super) fn make_room(&mut self, marked: &Marked, unread: Option<&Key>) -> bool {
        let seen = &marked.keys;
        if self.files.len() < FILES_MAX {
            return true;
        }
        // A file that is gone says nothing about others.
        if marked.is_whole
            && let Some(gone) = self.files.keys().find(|id| !seen.contains_key(*id)).cloned()
        {
            self.files.remove(&gone);
            return true;
        }
        let done = seen.iter().filter(|(id, key)| {
            let is_done = self.files.get(*id).is_some_and(|mark| mark.stage == Stage::Done);
            is_done && unread.is_none_or(|unread| *key < unread)
        });
        let Some((id, key)) = done.min_by_key(|(_, key)| *key) else { return false };
        self.files.remove(id);
        if !self.was_read(key) {
            self.floor = Some(key.clone());
        }
        true
    }

    /// The youngest file that was read to its end, of those that are there.
    pub(super) fn youngest_done<'m>(&self, marked: &'m Marked) -> Option<&'m String> {
        let done =
            marked.keys.iter().filter(|(id, _)| self.files.get(*id).is_some_and(|mark| mark.stage == Stage::Done));
        done.max_by_key(|(_, key)| *key).map(|(id, _)| id)
    }

    /// Gives up that file. The floor stays below it, so it is read again: that costs time and doubles nothing.
    pub(super) fn give_up_youngest(&mut self, marked: &Marked) {
        if let Some(youngest) = self.youngest_done(marked) {
            self.files.remove(youngest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::pull::CURSOR_BYTES_MAX;

    fn key(changed: i64) -> Key {
        Key { changed, path: format!("{changed}.log") }
    }

    fn full(stage: impl Fn(i64) -> Stage) -> (Position, Marked) {
        let mut position = Position::default();
        let mut seen = Marked { is_whole: true, ..Marked::default() };
        for number in 0..FILES_MAX as i64 {
            let mark = Mark {
                offset: u64::MAX,
                modified: i64::MAX,
                check: u32::MAX,
                stage: stage(number),
                packed: true,
                born: Some(i64::MAX),
                size: Some(u64::MAX),
            };
            position.files.insert(format!("{:x}", u64::MAX - number as u64), mark);
            seen.keys.insert(format!("{:x}", u64::MAX - number as u64), key(number));
        }
        (position, seen)
    }

    #[test]
    fn the_oldest_file_that_was_read_to_its_end_is_given_up() {
        let (mut position, seen) = full(|number| if number < 2 { Stage::Waiting } else { Stage::Done });
        assert!(position.make_room(&seen, None));
        assert_eq!((position.floor.clone(), position.files.len()), (Some(key(2)), FILES_MAX - 1));
        assert!(position.was_read(&key(2)) && !position.was_read(&key(3)));
        assert!(position.make_room(&seen, None), "there is room by now");
        assert_eq!(position.floor, Some(key(2)));
    }

    #[test]
    fn no_file_is_given_up_while_an_older_one_is_unread() {
        let (mut position, seen) = full(|_| Stage::Done);
        assert!(!position.make_room(&seen, Some(&key(0))));
        assert!(position.make_room(&seen, Some(&key(1))));
        assert_eq!(position.floor, Some(key(0)));
        let (mut position, seen) = full(|_| Stage::Waiting);
        assert!(!position.make_room(&seen, None), "each has something left");
    }

    #[test]
    fn a_file_that_is_gone_is_forgotten_first() {
        let (mut position, mut seen) = full(|_| Stage::Waiting);
        let (gone, _) = seen.keys.pop_last().unwrap();
        seen.is_whole = false;
        assert!(!position.make_room(&seen, None), "it may be where nobody looked");
        seen.is_whole = true;
        assert!(position.make_room(&seen, None));
        assert!(!position.files.contains_key(&gone) && position.floor.is_none());
    }

    #[test]
    fn the_largest_position_is_a_cursor() {
        let (mut position, _) = full(|_| Stage::Waiting);
        // The longest path, of bytes that are written as three characters each.
        let longest = Key { changed: i64::MAX, path: "%ff".repeat(4_096) };
        position.at = Some(At { key: longest.clone(), offset: u64::MAX });
        position.floor = Some(longest);
        position = position.fit(&"f".repeat(16), &"f".repeat(16));
        position.unpacked = Some(u64::MAX);
        let folder = |number: u64| format!("{:x}-{:x}", u64::MAX, u64::MAX - number);
        position.know((0..FOLDERS_MAX as u64).map(folder).collect(), true);
        assert_eq!(position.folders.as_ref().map(BTreeSet::len), Some(FOLDERS_MAX));
        let bytes = serde_json::to_vec(&position).unwrap();
        assert!(bytes.len() <= CURSOR_BYTES_MAX, "{}", bytes.len());
        assert_eq!(serde_json::from_slice::<Position>(&bytes).unwrap(), position);
    }

    #[test]
    fn a_mark_of_an_earlier_release_fits_any_file_and_is_completed() {
        let earlier = r#"{"o":10,"m":7,"h":0,"s":"d","z":true}"#;
        let mark: Mark = serde_json::from_str(earlier).unwrap();
        assert_eq!((mark.born, mark.size), (None, None));
        assert_eq!(serde_json::to_string(&mark).unwrap(), earlier);
        let completed = mark.complete(Some(3), 7, 20);
        assert_eq!(completed, Mark { born: Some(3), size: Some(20), ..mark });
        assert_eq!(completed.complete(Some(4), 7, 21), completed, "what is known stays");
        assert_eq!(mark.complete(None, 8, 20), mark, "the size is another content's");
        let plain = Mark { packed: false, ..mark };
        assert_eq!(plain.complete(Some(3), 7, 20), Mark { born: Some(3), ..plain }, "a plain file grows");
    }

    #[test]
    fn a_file_that_has_only_the_inode_of_another_has_no_mark() {
        let mark =
            |born| Mark { offset: 1, modified: 7, check: 0, stage: Stage::Done, packed: false, born, size: None };
        for (marked, born, expected) in [
            (Some(3), Some(3), true),
            (Some(3), Some(4), false),
            (Some(3), None, true),
            (None, Some(4), true),
            (None, None, true),
        ] {
            let position = Position { files: BTreeMap::from([("1".to_owned(), mark(marked))]), ..Position::default() };
            assert_eq!(position.has_mark("1", born), expected, "{marked:?} {born:?}");
            assert!(!position.has_mark("2", born));
        }
    }

    #[test]
    fn another_folder_begins_anew_and_other_suffixes_drop_the_floor() {
        let (mut position, seen) = full(|_| Stage::Done);
        assert!(position.make_room(&seen, None));
        let known = position.clone().fit("here", ".log");
        assert_eq!((known.floor.is_some(), known.files.len()), (true, FILES_MAX - 1), "an earlier release's");
        assert_eq!(known.clone().fit("here", ".log"), known);
        let more = known.clone().fit("here", ".log.json");
        assert_eq!((more.floor.clone(), more.files.len()), (None, FILES_MAX - 1));
        let (whole, _) = full(|_| Stage::Done);
        let more = whole.fit("here", ".log").fit("here", ".json");
        assert_eq!((more.floor.clone(), more.files.len()), (None, FILES_MAX - 1), "there is room for an older one");
        let other = known.fit("there", ".log");
        assert_eq!((other.floor, other.files.len()), (None, 0));
    }
}
