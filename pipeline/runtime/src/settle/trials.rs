//! Trials: what keeps a message on which processes die (out of memory, an abort, a stack overflow) from coming for ever.
//!
//! A death leaves no outcome, so it must be noted before. The broker's count of deliveries does not tell: it grows also by
//! messages that were given back. It only makes a message *questionable*: three deliveries went by of whose outcome this
//! process knows nothing. Questionable messages are worked on after the others, in small groups
//! (`consume/trial.rs`). Before a group's turn its *mark* is written to the state, and with its outcome the mark is
//! removed. A mark that is there all the same was left by a process that died. Its messages then come in smaller groups,
//! down to one by one. A message that was alone in [`TRIALS_MAX`] such marks is dead-lettered. A mark that could not be
//! removed is removed later, also when no more messages come ([`Trials::beside`]).
//!
//! A process has one trial at a time, over all its components. Otherwise an innocent message of one would be blamed for
//! the death on another's.

use std::cmp::Reverse;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use headrace_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::sleep;

use crate::broker::Broker;
use crate::fault::{DeadReason, Fault};
use crate::message::Delivered;
use crate::state::StateStore;

/// So many deliveries without a known outcome make a message questionable.
pub const UNANSWERED_MIN: u32 = 3;
/// So many processes may die on a message that they work on alone.
pub(crate) const TRIALS_MAX: u32 = 2;
/// The most marks of a component. Each is of a worker, or was left by one. A lost mark costs a few deaths more.
const MARKS_MAX: usize = 64;
/// How often to write marks that other workers change at the same time.
const WRITES_MAX: usize = 32;
/// How often to try again what could not be done to the marks.
const AGAIN_EVERY: Duration = Duration::from_secs(2);

/// Whose turn it is in this process.
static TURN: Semaphore = Semaphore::const_new(1);

/// Messages on trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// The lowest sequence.
    pub(crate) first: u64,
    /// The highest sequence. Between the two there may be messages of other workers.
    pub(crate) last: u64,
    /// How many there are.
    pub(crate) size: usize,
    /// When the first was stored. A broker that lost its newest messages gives their sequences to others.
    pub(crate) stored_at: Timestamp,
    /// How many times they were on trial together, this time included.
    pub(crate) trials: u32,
}

impl Mark {
    /// The mark of `messages`, which processes have died on `trials` times.
    pub(crate) fn of(messages: &[Delivered], trials: u32) -> Option<Self> {
        let first = messages.iter().min_by_key(|message| message.sequence)?;
        let last = messages.iter().map(|message| message.sequence).max()?;
        let (size, trials) = (messages.len(), trials.saturating_add(1));
        Some(Self { first: first.sequence, last, size, stored_at: first.stored_at, trials })
    }

    const fn is_alone(&self) -> bool {
        self.size == 1
    }

    fn is_of_same(&self, other: &Self) -> bool {
        let place = |mark: &Self| (mark.first, mark.last, mark.size, mark.stored_at);
        place(self) == place(other)
    }

    /// Whether the message was on trial with it.
    pub(crate) fn holds(&self, sequence: u64, stored_at: Timestamp) -> bool {
        if self.is_alone() {
            return (self.first, self.stored_at) == (sequence, stored_at);
        }
        // Another worker's message may lie in the span, too. It is only tried in a smaller group than it need be.
        (self.first..=self.last).contains(&sequence) && self.stored_at <= stored_at
    }
}

/// The marks that a component's workers left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks(pub(crate) Vec<Mark>);

impl Marks {
    /// Reads them. What cannot be read is of a later release, and is left out.
    fn read(value: &[u8]) -> Self {
        Self(serde_json::from_slice(value).unwrap_or_default())
    }

    fn write(&self) -> Bytes {
        serde_json::to_vec(&self.0).expect("numbers and times can be written").into()
    }

    /// The mark of the smallest group that the message was in.
    pub(crate) fn of(&self, sequence: u64, stored_at: Timestamp) -> Option<&Mark> {
        let own = self.0.iter().filter(|mark| mark.holds(sequence, stored_at));
        own.min_by_key(|mark| (mark.size, Reverse(mark.trials)))
    }

    /// The marks of all groups that one of the messages at `places` was in.
    pub(crate) fn of_groups(&self, places: &[(u64, Timestamp)]) -> Vec<Mark> {
        let holds = |mark: &&Mark| places.iter().any(|&(sequence, stored_at)| mark.holds(sequence, stored_at));
        self.0.iter().filter(|mark| !mark.is_alone()).filter(holds).cloned().collect()
    }

    fn add(&mut self, mark: Mark) {
        self.remove(&mark);
        self.0.push(mark);
        // The oldest may be of messages that are gone.
        self.0.drain(..self.0.len().saturating_sub(MARKS_MAX));
    }

    fn remove(&mut self, mark: &Mark) {
        self.0.retain(|other| !other.is_of_same(mark));
    }

    /// Undoes that `mark` was added, if it was. The deaths before it stay known.
    fn take_back(&mut self, mark: &Mark) {
        self.0.iter_mut().filter(|other| *other == mark).for_each(|added| added.trials -= 1);
        self.0.retain(|other| other.trials > 0);
    }
}

/// What this process has still to do to the marks.
#[derive(Clone, Debug, Default)]
struct Left {
    /// Marks to remove.
    done: Marks,
    /// Marks that may have been written although the broker did not say so. Nobody worked on their messages, so they
    /// must not count as deaths.
    unclear: Marks,
}

impl Left {
    /// Forgets what was to be done to the marks of the same messages, because they are written anew.
    fn supersede(&mut self, mark: &Mark) {
        self.done.remove(mark);
        self.unclear.remove(mark);
    }

    /// Forgets what is in `applied`.
    fn forget(&mut self, applied: &Self) {
        applied.done.0.iter().for_each(|mark| self.done.remove(mark));
        applied.unclear.0.iter().for_each(|mark| self.unclear.remove(mark));
    }

    const fn is_empty(&self) -> bool {
        self.done.0.is_empty() && self.unclear.0.is_empty()
    }

    fn apply(&self, marks: &mut Marks) {
        self.done.0.iter().for_each(|mark| marks.remove(mark));
        self.unclear.0.iter().for_each(|mark| marks.take_back(mark));
    }
}

/// A component's trials. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Trials {
    broker: Broker,
    key: String,
    left: Arc<Mutex<Left>>,
    /// Held during a trial of this component, and while somebody does what is left to do.
    own: Arc<Semaphore>,
}

/// Messages on trial. Nothing else in this process is on trial meanwhile.
pub(crate) struct Trial {
    mark: Mark,
    _own: OwnedSemaphorePermit,
    _turn: SemaphorePermit<'static>,
}

impl Trials {
    pub(crate) fn new(component: &str, broker: &Broker) -> Self {
        Self { broker: broker.clone(), key: key(component), left: Arc::default(), own: Arc::new(Semaphore::new(1)) }
    }

    /// The marks that are there.
    ///
    /// # Errors
    /// Transient, when the broker does not answer.
    pub(crate) async fn load(&self) -> Result<Marks, Fault> {
        self.change(|_| {}).await
    }

    /// Waits for its turn and writes `mark`. It must be written before anybody works on the messages.
    ///
    /// # Errors
    /// Transient, when the broker does not answer.
    pub(crate) async fn begin(&self, mark: Mark) -> Result<Trial, Fault> {
        let no_more = |_| Fault::transient(anyhow::anyhow!("no more trials"));
        // Its own first: what waits for that keeps no other component waiting.
        let own = Arc::clone(&self.own).acquire_owned().await.map_err(no_more)?;
        let turn = TURN.acquire().await.map_err(no_more)?;
        self.left().supersede(&mark);
        if let Err(fault) = self.change(|marks| marks.add(mark.clone())).await {
            self.left().unclear.add(mark);
            // At once, because another process may get the messages next. It does not know what we know.
            self.tidy().await;
            return Err(fault);
        }
        Ok(Trial { mark, _own: own, _turn: turn })
    }

    /// Removes the mark of a trial that its process survived.
    pub(crate) async fn end(&self, trial: Trial) {
        self.remove(vec![trial.mark]).await;
    }

    /// Removes `marks`. What cannot be removed now is removed with the next change, or by [`Self::beside`].
    pub(crate) async fn remove(&self, marks: Vec<Mark>) {
        if marks.is_empty() {
            return;
        }
        marks.into_iter().for_each(|mark| self.left().done.add(mark));
        self.tidy().await;
    }

    /// Runs a worker's `work` to its end. Meanwhile it does again and again what is left to do, because a worker to which
    /// no messages come changes nothing. Several may run this at once.
    pub(crate) async fn beside<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            done = work => done,
            never = self.tidy_in_time() => never,
        }
    }

    async fn tidy_in_time<T>(&self) -> T {
        loop {
            sleep(AGAIN_EVERY).await;
            // A trial that begins meanwhile could leave something to do about the same messages. One that runs does this by
            // itself, and another worker may be at it. Other components' trials do not wait for a broker that is silent.
            let Ok(_own) = self.own.try_acquire() else { continue };
            if !self.left().is_empty() {
                self.tidy().await;
            }
        }
    }

    /// Does what is left to do. What fails stays left.
    async fn tidy(&self) {
        if let Err(fault) = self.change(|_| {}).await {
            tracing::debug!(%fault, key = self.key, "marks of trials are not removed yet");
        }
    }

    /// Changes the marks, after what is left to do to them. Returns the marks as they are then.
    async fn change(&self, change: impl Fn(&mut Marks)) -> Result<Marks, Fault> {
        Box::pin(self.try_change(change)).await.map_err(|Fault { class, source, effect }| {
            // NATS gives no answer to who lacks a right.
            let what =
                format!("cannot note in the state what is on trial; our NATS user needs the key `{}` there", self.key);
            Fault { class, source: source.context(what), effect }
        })
    }

    async fn try_change(&self, change: impl Fn(&mut Marks)) -> Result<Marks, Fault> {
        let store = StateStore::open(&self.broker).await.map_err(Fault::transient)?;
        for _ in 0..WRITES_MAX {
            let entry = store.load(&self.key).await?;
            let before = entry.as_ref().map(|entry| Marks::read(&entry.value)).unwrap_or_default();
            let (mut marks, left) = (before.clone(), self.left().clone());
            left.apply(&mut marks);
            change(&mut marks);
            // An unclear mark may still be on its way. Writing makes the broker refuse it.
            let is_same = marks == before && left.unclear.0.is_empty();
            if is_same || store.save(&self.key, marks.write(), entry.as_ref()).await? {
                self.left().forget(&left);
                return Ok(marks);
            }
        }
        Err(Fault::transient(anyhow::anyhow!("others change it all the time")))
    }

    fn left(&self) -> MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The key with a component's marks, in the bucket `state`.
#[must_use]
pub fn key(component: &str) -> String {
    format!("trial.{component}")
}

/// What a message is dead-lettered for when `deaths` processes have died on it.
pub(crate) fn crashed(deaths: u32) -> Fault {
    Fault::poison(
        DeadReason::Crashed,
        anyhow::anyhow!(
            "expected the process to survive its work on this message, found that it ended {deaths} times while it worked on \
             this message alone; see what its log and the kernel's say of these ends (out of memory, a stack overflow, an \
             abort), give it more memory or a release that is mended, then redrive this dead letter"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(first: u64, last: u64, size: usize, trials: u32) -> Mark {
        Mark { first, last, size, stored_at: at(first), trials }
    }

    /// When the message `sequence` was stored.
    fn at(sequence: u64) -> Timestamp {
        Timestamp::from_micros(i64::try_from(sequence).unwrap() * 1_000)
    }

    #[test]
    fn a_message_is_known_by_its_smallest_group_and_its_time() {
        let marks = Marks(vec![mark(10, 90, 40, 1), mark(20, 25, 3, 1), mark(22, 22, 1, 1)]);
        let of = |sequence| marks.of(sequence, at(sequence)).map(|mark| (mark.size, mark.trials));
        assert_eq!(
            [9, 10, 20, 22, 25, 90, 91].map(of),
            [None, Some((40, 1)), Some((3, 1)), Some((1, 1)), Some((3, 1)), Some((40, 1)), None,]
        );
        let reborn = Marks(vec![mark(22, 22, 1, 2)]);
        assert_eq!(reborn.of(22, at(23)), None, "another message was given its sequence");
        assert_eq!(Marks::read(&marks.write()), marks);
        assert_eq!(Marks::read(b"?"), Marks::default());
    }

    #[test]
    fn a_second_trial_takes_the_place_of_the_first() {
        let mut marks = Marks::default();
        marks.add(mark(22, 22, 1, 1));
        marks.add(mark(22, 22, 1, 2));
        assert_eq!(marks.0, [mark(22, 22, 1, 2)]);
        marks.remove(&mark(22, 22, 1, 1));
        assert_eq!(marks, Marks::default());
    }

    #[test]
    fn what_is_taken_back_leaves_the_deaths_before_it() {
        for (before, added, after) in [
            (vec![], mark(22, 22, 1, 1), vec![]),
            (vec![mark(22, 22, 1, 1)], mark(22, 22, 1, 2), vec![mark(22, 22, 1, 1)]),
        ] {
            let mut marks = Marks(before.clone());
            marks.add(added.clone());
            marks.take_back(&added);
            assert_eq!(marks.0, after);
            // The broker may not have stored it.
            marks.take_back(&added);
            assert_eq!(marks.0, before);
        }
    }

    #[test]
    fn marks_do_not_pile_up() {
        let mut marks = Marks::default();
        for sequence in 1..=1_000 {
            marks.add(mark(sequence, sequence, 1, 1));
        }
        assert_eq!(marks.0.len(), MARKS_MAX);
        assert!(marks.of(1_000, at(1_000)).is_some() && marks.of(1, at(1)).is_none(), "the newest are kept");
    }
}
