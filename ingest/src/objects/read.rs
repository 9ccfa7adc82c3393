//! Reads a page of lines from the objects of a bucket. All of it blocks.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use headrace_runtime::fault::Fault;
use headrace_schemas::time::Timestamp;
use object_store::{Error, ObjectStore};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::DropGuard;

use super::Settings;
use super::content::{self, Content};
use super::list::List;
use super::position::{ASIDE_MAX, Aside, Object, Position, Reading, seconds};
use super::service::{Answers, Class};
use super::wait::Wait;
use crate::lines::{Gathered, Limits, Place, Records, named};
use crate::source::Record;

/// So much of a packed object is passed over before the page's time is looked at again.
const PASSED_BYTES: u64 = 8 << 20;
/// An object is tried so often before it is set aside.
const TRIES_MAX: u32 = 3;
/// The most objects of which failures are counted. Beyond that, counting begins anew.
const FAILING_MAX: usize = 1_000;
/// The pause between two tries of an object that is set aside.
const AGAIN_AFTER: Duration = Duration::from_secs(300);
/// An object that fails for so long becomes a dead letter.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(86_400);

/// Reads the bucket. It keeps nothing that the position does not have, but for what saves requests.
pub(super) struct Reader {
    settings: Settings,
    records: Arc<dyn Records>,
    store: Arc<dyn ObjectStore>,
    answers: Answers,
    wait: Wait,
    list: List,
    /// What bounds a page.
    pub(super) limits: Limits,
    open: Option<Open>,
    /// How often objects failed, by their ids.
    failing: HashMap<String, u32>,
    /// Why an object was set aside last.
    why: String,
    /// All was read but what is set aside, and nobody was told yet.
    is_to_tell: bool,
}

/// An object that is open between two pages.
struct Open {
    id: String,
    offset: u64,
    content: Content,
}

/// What one look gave.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) records: Vec<Record>,
    pub(super) position: Position,
    pub(super) has_more: bool,
}

/// A page as it is made.
struct Draft {
    gathered: Gathered,
    position: Position,
    now: i64,
}

/// How the reading of an object ended.
enum Outcome {
    /// At its end.
    Done,
    /// The page is full.
    Full,
    /// At a line that is ahead of the clock for so long.
    Early(Duration),
    /// With a request that failed.
    Failed(Error),
}

impl Reader {
    pub(super) fn new(
        settings: Settings,
        records: Arc<dyn Records>,
        store: Arc<dyn ObjectStore>,
        answers: Answers,
    ) -> Self {
        let wait = Wait::default();
        Self {
            list: List::new(Arc::clone(&store), wait.clone(), settings.bucket.folder.clone()),
            settings,
            records,
            store,
            answers,
            wait,
            limits: Limits::default(),
            open: None,
            failing: HashMap::new(),
            why: String::new(),
            is_to_tell: false,
        }
    }

    /// Begins a page. When the guard is dropped, nobody wants it any more.
    pub(super) fn begin(&self) -> DropGuard {
        self.wait.begin()
    }

    /// The lines behind `position`.
    pub(super) fn page(&mut self, position: Position) -> Result<Page, Fault> {
        let trouble = self.trouble(&position);
        if std::mem::take(&mut self.is_to_tell)
            && let Some(trouble) = trouble
        {
            return Err(trouble);
        }
        let before = position.clone();
        let now = Timestamp::now().as_micros() / 1_000_000;
        let mut draft = Draft { gathered: Gathered::new(self.limits), position, now };
        let filled = self.fill(&mut draft);
        let Draft { gathered, position, .. } = draft;
        let has_moved = position != before;
        let has_more = match filled {
            // Keep what was read. The next page comes to the same failure at once.
            Err(fault) if !has_moved => return Err(fault),
            Err(_) => true,
            Ok(false) => has_moved,
            Ok(true) => match self.trouble(&position) {
                Some(trouble) if !has_moved => return Err(trouble),
                // The position must be kept first.
                trouble => {
                    self.is_to_tell = trouble.is_some();
                    self.is_to_tell
                }
            },
        };
        Ok(Page { records: gathered.records, position, has_more })
    }

    /// What a person must know of the objects that are set aside.
    fn trouble(&self, position: &Position) -> Option<Fault> {
        let mut failing = position.aside.iter().filter(|aside| aside.fails_since.is_some());
        let first = failing.next()?;
        let count = failing.count() + 1;
        let path = &first.reading.object.path;
        Some(Fault::broken(anyhow!(
            "expected to read every object of {}, found {count} that cannot be read, such as `{path}` ({}); the others are \
             read; give this account the right to read it, or remove it; a day after it failed first it becomes a dead letter",
            self.settings.bucket.told(),
            self.why
        )))
    }

    /// Fills a page. Returns whether all was read.
    fn fill(&mut self, draft: &mut Draft) -> Result<bool, Fault> {
        if let Some(reading) = draft.position.reading.take() {
            let stepped = self.step(reading, None, draft);
            if stepped.is_err() {
                // One that is in the way must not keep the others from being tried, and from being given up.
                let in_the_way = draft.position.reading.take();
                let _ = self.try_due(draft);
                match (in_the_way, &draft.position.reading) {
                    (Some(reading), Some(_)) => {
                        let again_at = draft.now;
                        draft.position.aside.push(Aside { reading, again_at, fails_since: None });
                    }
                    (in_the_way, None) => draft.position.reading = in_the_way,
                    (None, Some(_)) => {}
                }
                stepped?;
            }
        }
        self.try_due(draft)?;
        loop {
            if draft.position.reading.is_some() || draft.gathered.is_full() {
                return Ok(false);
            }
            let Some(object) = self.next(&mut draft.position, draft.now)? else { return Ok(true) };
            let is_wanted = object.size > 0 && named(object.name(), &self.settings.suffixes).is_some();
            if is_wanted && !draft.position.knows(&object) {
                self.step(Reading { object, offset: 0, unpacked: None }, None, draft)?;
            }
        }
    }

    /// Tries those that were set aside and are due, as far as the page has room.
    fn try_due(&mut self, draft: &mut Draft) -> Result<(), Fault> {
        let now = draft.now;
        let due = draft.position.aside.iter().filter(|aside| aside.again_at <= now);
        let due: Vec<String> = due.map(|aside| aside.reading.object.id.clone()).collect();
        for id in due {
            if draft.position.reading.is_some() || draft.gathered.is_full() {
                return Ok(());
            }
            let asides = &mut draft.position.aside;
            if let Some(place) = asides.iter().position(|aside| aside.reading.object.id == id) {
                let aside = asides.remove(place);
                self.step(aside.reading, Some(aside.fails_since), draft)?;
            }
        }
        Ok(())
    }

    /// The next object of the pass. `None` at its end.
    fn next(&mut self, position: &mut Position, now: i64) -> Result<Option<Object>, Fault> {
        let mut before = None;
        if position.pass.is_none() {
            before = Some(position.clone());
            let config = &self.settings.config;
            position.begin(now, config.look_back(), config.full_listing());
            position.pass.iter().for_each(|pass| self.list.begin(pass));
        }
        let Some(pass) = &mut position.pass else { return Ok(None) };
        let next = match self.list.next(pass) {
            Ok(next) => next,
            Err(error) => {
                // A pass that did not begin is nothing to keep.
                before.into_iter().for_each(|before| *position = before);
                let operation = format!("list the bucket {}", self.settings.bucket.told());
                return Err(self.answers.fault(error, &operation));
            }
        };
        if next.is_none() {
            position.recent = self.list.recent();
            position.end();
        }
        Ok(next)
    }

    /// Reads an object on, as far as the page has room. `aside` is since when it fails, if it was set aside.
    fn step(&mut self, mut reading: Reading, aside: Option<Option<i64>>, draft: &mut Draft) -> Result<(), Fault> {
        let Draft { gathered, position, now } = draft;
        match self.object(&mut reading, gathered) {
            Outcome::Done => {
                self.failing.remove(&reading.object.id);
                position.mark(&reading.object, *now);
                Ok(())
            }
            Outcome::Full => {
                position.at = Some(reading.object.path.clone());
                position.reading = Some(reading);
                Ok(())
            }
            Outcome::Early(wait) => {
                // At least a second, so that a page does not come back to it at once.
                let again_at = *now + seconds(wait).saturating_add(1);
                self.set_aside(Aside { reading, again_at, fails_since: None }, position)
            }
            Outcome::Failed(error) => self.failed(reading, aside, error, draft),
        }
    }

    fn failed(
        &mut self,
        reading: Reading,
        aside: Option<Option<i64>>,
        error: Error,
        draft: &mut Draft,
    ) -> Result<(), Fault> {
        let path = reading.object.path.clone();
        if self.failing.len() >= FAILING_MAX {
            self.failing.clear();
        }
        let tries = self.failing.entry(reading.object.id.clone()).or_default();
        *tries += 1;
        let is_over = *tries >= TRIES_MAX || aside.is_some();
        let class = self.answers.class(&error);
        let operation = format!("read the object {path}");
        let fault = match class {
            // The service lists it, or cannot be asked.
            Class::Missing | Class::Replaced => {
                Fault::transient(anyhow::Error::new(error).context(format!("cannot {operation}")))
            }
            Class::Refused | Class::Away => self.answers.fault(error, &operation),
        };
        let why = format!("{:#}", fault.source);
        let why = why.strip_prefix(&format!("cannot {operation}: ")).unwrap_or(&why).to_owned();
        // Somebody else may have answered in the service's place, so look whether it is still listed. If another object has
        // its name now, that one is listed by the next pass.
        if matches!(class, Class::Missing | Class::Replaced)
            && self.list.shows(&reading.object).is_ok_and(|is_shown| !is_shown)
        {
            tracing::debug!(object = path, "an object that was listed is gone");
            self.failing.remove(&reading.object.id);
            return Ok(());
        }
        // It is only the object's own trouble if the service answers otherwise.
        let may_be_own = is_over || matches!(class, Class::Refused);
        if !may_be_own || self.list.try_once().is_err() {
            match aside {
                None => draft.position.reading = Some(reading),
                Some(fails_since) => {
                    let again_at = draft.now + seconds(AGAIN_AFTER);
                    draft.position.aside.push(Aside { reading, again_at, fails_since });
                }
            }
            return Err(fault);
        }
        let fails_since = aside.flatten().unwrap_or(draft.now);
        if draft.now - fails_since >= seconds(GIVEN_UP_AFTER) {
            self.give_up(&reading, &why, draft);
            return Ok(());
        }
        if aside.flatten().is_none() {
            tracing::warn!(object = path, why, "cannot read an object; it is tried again, and the others are read");
        }
        self.why = why;
        let again_at = draft.now + seconds(AGAIN_AFTER);
        self.set_aside(Aside { reading, again_at, fails_since: Some(fails_since) }, &mut draft.position)
    }

    /// Sets an object aside. If there are too many already, it stays in the way.
    fn set_aside(&self, aside: Aside, position: &mut Position) -> Result<(), Fault> {
        if position.aside.len() < ASIDE_MAX {
            position.aside.push(aside);
            return Ok(());
        }
        let is_failing = aside.fails_since.is_some();
        let told = format!(
            "expected at most {ASIDE_MAX} objects of {} that cannot be read yet, found more, such as `{}` ({})",
            self.settings.bucket.told(),
            aside.reading.object.path,
            if is_failing { self.why.as_str() } else { "a line's time is ahead of the clock" }
        );
        position.reading = Some(aside.reading);
        Err(if is_failing {
            Fault::broken(anyhow!("{told}; give this account the right to read them, or remove them"))
        } else {
            Fault::transient(anyhow!("{told}; they are waited for"))
        })
    }

    fn give_up(&mut self, reading: &Reading, why: &str, draft: &mut Draft) {
        let Reading { object, offset, .. } = reading;
        self.failing.remove(&object.id);
        let place = Place { name: &object.path, offset: *offset };
        let why = format!("cannot read the object from here on ({why})");
        draft.gathered.unreadable(&*self.records, place, &[], Sha256::digest(&object.id).into(), &why);
        draft.position.mark(object, draft.now);
    }

    fn object(&mut self, reading: &mut Reading, gathered: &mut Gathered) -> Outcome {
        let Reading { object, offset, unpacked } = reading;
        let packed = named(object.name(), &self.settings.suffixes).unwrap_or_default();
        let kept = self
            .open
            .take()
            .filter(|open| open.id == object.id && (open.offset == *offset || (packed && open.offset < *offset)));
        let lines_max = self.settings.line_bytes_max;
        let opened = kept.map_or_else(
            || {
                let content = content::open(&self.store, &self.wait, object, packed, *offset, lines_max)?;
                Ok(Open { id: object.id.clone(), offset: if packed { 0 } else { *offset }, content })
            },
            Ok,
        );
        let mut open = match opened {
            Ok(open) => open,
            Err(source) => return Outcome::Failed(Error::InvalidPath { source }),
        };
        *unpacked = None;
        while open.offset < *offset {
            if gathered.is_full() {
                // The cursor says so, because a page with more must move it.
                *unpacked = Some(open.offset);
                self.open = Some(open);
                return Outcome::Full;
            }
            match open.content.skip(PASSED_BYTES.min(*offset - open.offset)) {
                Ok(0) => break,
                Ok(passed) => {
                    open.offset += passed;
                    gathered.count(passed);
                }
                Err(error) => return self.broken(object, *offset, &[], error, gathered),
            }
        }
        let mut so_far = Vec::new();
        loop {
            if gathered.is_full() {
                open.offset = *offset;
                self.open = Some(open);
                return Outcome::Full;
            }
            match open.content.next(&mut so_far) {
                Ok(None) => return Outcome::Done,
                Ok(Some(line)) => {
                    let place = Place { name: &object.path, offset: *offset };
                    if let Err(wait) = gathered.take(&*self.records, place, &line, lines_max) {
                        return Outcome::Early(wait);
                    }
                    *offset += line.length;
                }
                Err(error) => return self.broken(object, *offset, &so_far, error, gathered),
            }
        }
    }

    /// What follows from `error`: a request failed, or a packed object cannot be unpacked from here on.
    fn broken(
        &self,
        object: &Object,
        offset: u64,
        so_far: &[u8],
        error: io::Error,
        gathered: &mut Gathered,
    ) -> Outcome {
        let is_of_content =
            matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::InvalidData | ErrorKind::UnexpectedEof);
        if is_of_content {
            let why = format!("cannot unpack the object from here on ({error})");
            let place = Place { name: &object.path, offset };
            gathered.unreadable(&*self.records, place, so_far, Sha256::digest(so_far).into(), &why);
            return Outcome::Done;
        }
        Outcome::Failed(
            error.downcast::<Error>().unwrap_or_else(|error| Error::Generic { store: "bucket", source: error.into() }),
        )
    }
}
