//! Reads a page of lines from the objects of a bucket. All of it blocks. What follows from an object that cannot be read is
//! decided in `trouble`.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use headrace_runtime::fault::Fault;
use headrace_schemas::time::Timestamp;
use tokio_util::sync::DropGuard;

use super::Settings;
use super::answers::{Class, Failure};
use super::content;
use super::list::List;
use super::position::{Aside, Object, Position, Reading, seconds};
use super::service::Client;
use super::trouble::{Failing, Trouble};
use super::wait::Wait;
use super::warnings::Warnings;
use crate::lines::{Content, Gathered, Limits, Place, Records, is_of_content, named};
use crate::source::Record;

/// Reads the bucket. It keeps nothing that the position does not have, but for what saves requests.
pub(super) struct Reader {
    /// `<source>.<name>`, for people.
    pub(super) name: String,
    pub(super) settings: Settings,
    pub(super) records: Arc<dyn Records>,
    pub(super) client: Client,
    pub(super) wait: Wait,
    pub(super) list: List,
    /// What bounds a page.
    pub(super) limits: Limits,
    open: Option<Open>,
    pub(super) failing: Failing,
    warnings: Warnings,
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
pub(super) struct Draft {
    pub(super) gathered: Gathered,
    pub(super) position: Position,
    /// This machine's time, in seconds since the epoch.
    pub(super) now: i64,
}

/// Where an object that is read was found.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin {
    /// In the listing.
    Listed,
    /// It had been begun, or is in the way.
    Begun,
    /// Among those that were set aside, with what is wrong with it.
    Aside(Option<Trouble>),
}

impl Origin {
    pub(super) const fn is_aside(self) -> bool {
        matches!(self, Self::Aside(_))
    }

    /// What is known to be wrong with the object.
    pub(super) const fn trouble(self) -> Option<Trouble> {
        match self {
            Self::Aside(trouble) => trouble,
            Self::Listed | Self::Begun => None,
        }
    }
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
    Failed(Failure),
}

impl Reader {
    pub(super) fn new(name: String, settings: Settings, records: Arc<dyn Records>, client: Client) -> Self {
        let wait = Wait::default();
        Self {
            name,
            list: List::new(client.clone(), wait.clone()),
            settings,
            records,
            client,
            wait,
            limits: Limits::default(),
            open: None,
            failing: Failing::default(),
            warnings: Warnings::default(),
            is_to_tell: false,
        }
    }

    /// Begins a page. When the guard is dropped, nobody wants it any more.
    pub(super) fn begin(&self) -> DropGuard {
        self.wait.begin(self.limits.time)
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

    /// Fills a page. Returns whether all was read.
    fn fill(&mut self, draft: &mut Draft) -> Result<bool, Fault> {
        if let Some(reading) = draft.position.reading.take() {
            let stepped = self.step(reading, Origin::Begun, draft);
            if stepped.is_err() {
                // One that is in the way must not keep the others from being tried, and from being given up.
                let in_the_way = draft.position.reading.take();
                let _ = self.try_due(draft);
                match (in_the_way, &draft.position.reading) {
                    (Some(reading), Some(_)) => {
                        let again_at = draft.now;
                        draft.position.aside.push(Aside { reading, again_at, trouble: None });
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
                self.step(Reading { object, offset: 0, unpacked: None }, Origin::Listed, draft)?;
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
                self.step(aside.reading, Origin::Aside(aside.trouble), draft)?;
            }
        }
        Ok(())
    }

    /// The next object of the pass. `None` at its end.
    fn next(&mut self, position: &mut Position, now: i64) -> Result<Option<Object>, Fault> {
        let (config, mut before) = (&self.settings.config, None);
        if position.pass.is_none() {
            before = Some(position.clone());
            position.begin(now, config.full_listing());
            position.pass.iter().for_each(|pass| self.list.begin(pass));
        }
        let Some(pass) = &mut position.pass else { return Ok(None) };
        let next = match self.list.next(pass) {
            Ok(next) => next,
            Err(failure) => {
                match before {
                    Some(_) if self.list.goes_on() => position.began(self.list.began_at(), config.look_back()),
                    // A pass that did not begin is nothing to keep.
                    Some(before) => *position = before,
                    None => {}
                }
                return Err(failure.fault(&format!("list the bucket {}", self.settings.bucket.told())));
            }
        };
        if before.is_some() {
            position.began(self.list.began_at(), config.look_back());
            self.warnings.clocks(self.list.clock(), Timestamp::now().as_micros() / 1_000_000);
        }
        self.warnings.look_back(position.short_look_back(config.look_back()), config.look_back_s);
        if next.is_none() {
            position.recent = self.list.recent();
            position.end();
        }
        Ok(next)
    }

    /// Reads an object on, as far as the page has room.
    fn step(&mut self, mut reading: Reading, origin: Origin, draft: &mut Draft) -> Result<(), Fault> {
        let Draft { gathered, position, now } = draft;
        let begun_at = (reading.offset, reading.unpacked);
        match self.object(&mut reading, gathered) {
            Outcome::Done => {
                self.failing.forget(&reading.object.id);
                position.mark(&reading.object);
                position.proof = Some(reading.object);
                Ok(())
            }
            // The page's time was over, but something was read. Or the object came late in the page: then it is the next
            // one's first.
            Outcome::Failed(failure)
                if failure.class == Class::Slow
                    && (begun_at != (reading.offset, reading.unpacked) || matches!(origin, Origin::Listed)) =>
            {
                if !matches!(origin, Origin::Listed) {
                    self.failing.forget(&reading.object.id);
                }
                position.reading = Some(reading);
                Ok(())
            }
            Outcome::Full => {
                self.failing.forget(&reading.object.id);
                position.at = Some(reading.object.path.clone());
                position.reading = Some(reading);
                Ok(())
            }
            Outcome::Early(wait) => {
                // At least a second, so that a page does not come back to it at once.
                let again_at = *now + seconds(wait).saturating_add(1);
                self.set_aside(Aside { reading, again_at, trouble: None }, position)
            }
            Outcome::Failed(failure) => self.failed(reading, origin, failure, draft),
        }
    }

    fn object(&mut self, reading: &mut Reading, gathered: &mut Gathered) -> Outcome {
        let Reading { object, offset, unpacked } = reading;
        let packed = named(object.name(), &self.settings.suffixes).unwrap_or_default();
        let lines_max = self.settings.line_bytes_max;
        let kept = self
            .open
            .take()
            .filter(|open| open.id == object.id && (open.offset == *offset || (packed && open.offset < *offset)));
        let mut open = kept.unwrap_or_else(|| {
            let content = content::open(&self.client, &self.wait, object, packed, *offset, lines_max);
            Open { id: object.id.clone(), offset: if packed { 0 } else { *offset }, content }
        });
        *unpacked = None;
        let passed = gathered.pass_over(&mut open.content, &mut open.offset, *offset);
        if !matches!(passed, Ok(true)) {
            // The cursor says so, because a page with more must move it.
            *unpacked = Some(open.offset);
        }
        match passed {
            Ok(true) => {}
            Ok(false) => {
                self.open = Some(open);
                return Outcome::Full;
            }
            Err(error) => return self.broken(open, object, *offset, &[], error, gathered),
        }
        let mut so_far = Vec::new();
        loop {
            open.offset = *offset;
            if gathered.is_full() {
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
                Err(error) => return self.broken(open, object, *offset, &so_far, error, gathered),
            }
        }
    }

    /// What follows from `error`: a request failed, a packed object cannot be unpacked from here on, or the page's time is
    /// over.
    fn broken(
        &mut self,
        open: Open,
        object: &Object,
        offset: u64,
        so_far: &[u8],
        error: io::Error,
        gathered: &mut Gathered,
    ) -> Outcome {
        if is_of_content(&error) {
            gathered.cut_off(&*self.records, Place { name: &object.path, offset }, "object", so_far, &error);
            return Outcome::Done;
        }
        if error.kind() == ErrorKind::TimedOut {
            self.open = Some(open);
        }
        let failure = error.downcast::<Failure>();
        Outcome::Failed(failure.unwrap_or_else(|error| Failure::new(Class::Away, error)))
    }
}
