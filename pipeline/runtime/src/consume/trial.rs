//! In which order and in which groups a worker takes its messages when processes may have died on some of them.
//!
//! Those are worked on last, so that the others of the batch go through whatever happens. Why, and what follows from a
//! death, is told in [`crate::settle::trials`].

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::time::Duration;

use headrace_schemas::time::Timestamp;

use crate::consume::hold::while_held;
use crate::fault::Fault;
use crate::message::Delivered;
use crate::settle::Outcome;
use crate::settle::settler::Settler;
use crate::settle::trials::{Mark, Marks, TRIALS_MAX, Trial, crashed};

/// Into how many groups the questionable messages of a batch are parted, and again those of a group that a process died
/// on. So 25,000 messages take a few deaths and a few dozen groups, and a few messages are tried one by one at once.
const PARTS: usize = 16;

/// In which groups to work on a batch.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Messages that nobody doubts. They come first.
    usual: usize,
    groups: VecDeque<Group>,
}

/// Messages to be tried together.
#[derive(Debug)]
pub(crate) struct Group {
    size: usize,
    /// How often processes have died on them. More than 0 only for a message that was alone.
    deaths: u32,
    /// Marks that are done with once this group has been tried.
    closes: Vec<Mark>,
}

impl Plan {
    fn usual(count: usize) -> Self {
        Self { usual: count, groups: VecDeque::new() }
    }

    /// How many of the next messages to work on together, of at most `fitting`, and whether they are on trial.
    pub(crate) fn next(&mut self, fitting: usize) -> (usize, Option<Group>) {
        if self.usual > 0 {
            let count = fitting.min(self.usual);
            self.usual -= count;
            return (count, None);
        }
        match self.groups.pop_front() {
            Some(mut group) if fitting < group.size => {
                group.size -= fitting;
                let part = Group { size: fitting, deaths: group.deaths, closes: Vec::new() };
                self.groups.push_front(group);
                (fitting, Some(part))
            }
            Some(group) => (group.size, Some(group)),
            None => (fitting, None),
        }
    }
}

/// What is to be done with a questionable message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Try it in a group of at most this size, after so many deaths.
    Try { size: usize, deaths: u32 },
    /// So many processes died on it alone. Give it up.
    GiveUp { deaths: u32 },
}

/// What is to be done with each of the questionable messages at `places`.
fn judge(places: &[(u64, Timestamp)], marks: &Marks) -> Vec<Verdict> {
    let found: Vec<Option<&Mark>> = places.iter().map(|&(sequence, stored_at)| marks.of(sequence, stored_at)).collect();
    let fresh = found.iter().filter(|mark| mark.is_none()).count().div_ceil(PARTS);
    let verdict = |mark: Option<&Mark>| match mark.map(|mark| (mark.size, mark.trials)) {
        None => Verdict::Try { size: fresh, deaths: 0 },
        Some((1, deaths)) if deaths >= TRIALS_MAX => Verdict::GiveUp { deaths },
        Some((1, deaths)) => Verdict::Try { size: 1, deaths },
        Some((size, _)) => Verdict::Try { size: size.div_ceil(PARTS), deaths: 0 },
    };
    found.into_iter().map(verdict).collect()
}

/// The groups of messages with these sizes and deaths, in their order.
fn groups(wanted: &[(usize, u32)]) -> VecDeque<Group> {
    let mut groups: VecDeque<Group> = VecDeque::new();
    let mut before = None;
    for &(size, deaths) in wanted {
        match groups.back_mut() {
            Some(group) if before == Some((size, deaths)) && group.size < size => group.size += 1,
            _ => groups.push_back(Group { size: 1, deaths, closes: Vec::new() }),
        }
        before = Some((size, deaths));
    }
    groups
}

/// Has each of `marks` closed after the last of `groups` that has one of its messages. A worker may not come to later
/// groups, and when the others are settled, nothing would remind it of the mark. `places` are those of all messages of the
/// groups, in their order. Returns the marks of which no group has a message: they are done with now.
fn close_after(groups: &mut VecDeque<Group>, places: &[(u64, Timestamp)], marks: Vec<Mark>) -> Vec<Mark> {
    let mut done = Vec::new();
    for mark in marks {
        let last = places.iter().rposition(|&(sequence, stored_at)| mark.holds(sequence, stored_at));
        let mut end = 0;
        let ends_behind = |group: &&mut Group| {
            end += group.size;
            last.is_some_and(|last| last < end)
        };
        match groups.iter_mut().find(ends_behind) {
            Some(group) => group.closes.push(mark),
            None => done.push(mark),
        }
    }
    done
}

/// Puts `messages` in the order in which to work on them. Settles those that are given up, and those of which the broker
/// does not tell whether they must be.
pub(crate) async fn plan(settler: &Settler, ack_wait: Duration, messages: Vec<Delivered>) -> (Vec<Delivered>, Plan) {
    if !messages.iter().any(|message| settler.is_questionable(message)) {
        let plan = Plan::usual(messages.len());
        return (messages, plan);
    }
    let held: Vec<&Delivered> = messages.iter().collect();
    let marks = while_held(&held, ack_wait, settler.trials.load()).await;
    let (questionable, mut messages): (Vec<_>, Vec<_>) =
        messages.into_iter().partition(|message| settler.is_questionable(message));
    let mut plan = Plan::usual(messages.len());
    let marks = match marks {
        Ok(marks) => marks,
        Err(fault) => {
            give_back(settler, ack_wait, &questionable, &fault).await;
            return (messages, plan);
        }
    };
    let places: Vec<_> = questionable.iter().map(|message| (message.sequence, message.stored_at)).collect();
    let (mut tried, mut given_up) = (Vec::new(), Vec::new());
    for (message, verdict) in questionable.into_iter().zip(judge(&places, &marks)) {
        match verdict {
            Verdict::Try { size, deaths } => tried.push(((size, deaths), message)),
            Verdict::GiveUp { deaths } => given_up.push((message, deaths)),
        }
    }
    give_up(settler, ack_wait, &marks, given_up).await;
    // The larger the group, the less doubtful are its messages.
    tried.sort_by_key(|((size, deaths), _)| (Reverse(*size), *deaths));
    let (wanted, tried): (Vec<_>, Vec<Delivered>) = tried.into_iter().unzip();
    plan.groups = groups(&wanted);
    // Also those of what is given up: it may be all that was left of its groups.
    let closes = marks.of_groups(&places);
    let tried_places: Vec<_> = tried.iter().map(|message| (message.sequence, message.stored_at)).collect();
    let done = close_after(&mut plan.groups, &tried_places, closes);
    settler.trials.remove(done).await;
    messages.extend(tried);
    (messages, plan)
}

/// Dead-letters messages on which processes died.
async fn give_up(settler: &Settler, ack_wait: Duration, marks: &Marks, mut messages: Vec<(Delivered, u32)>) {
    messages.retain(|(message, _)| is_ours(settler, ack_wait, message));
    if messages.is_empty() {
        return;
    }
    let outcomes = messages.iter().map(|(message, deaths)| (message, Outcome::Failed(crashed(*deaths)))).collect();
    // Where DEAD does not take them, they come again and must be recognized.
    if settler.settle_all(outcomes).await.is_none() {
        let done = messages.iter().filter_map(|(message, _)| marks.of(message.sequence, message.stored_at).cloned());
        settler.trials.remove(done.collect()).await;
    }
}

/// Gives `messages` back, because nobody may work on them before they are marked.
pub(crate) async fn give_back(settler: &Settler, ack_wait: Duration, messages: &[Delivered], fault: &Fault) {
    let ours = messages.iter().filter(|message| is_ours(settler, ack_wait, message));
    settler.settle_all(ours.zip(Outcome::untried(fault)).collect()).await;
}

/// Never answer for an expired message: the broker would accept the answer although another process has the message.
fn is_ours(settler: &Settler, ack_wait: Duration, message: &Delivered) -> bool {
    let is_held = message.is_held(ack_wait);
    if !is_held {
        settler.expire(message);
    }
    is_held
}

/// Marks `messages` when they are on trial, and waits for their turn.
///
/// # Errors
/// When the broker does not take the mark. Then nobody may work on them.
pub(crate) async fn begin(
    settler: &Settler,
    messages: &[Delivered],
    group: Option<&Group>,
) -> Result<Option<Trial>, Fault> {
    match group.and_then(|group| Mark::of(messages, group.deaths)) {
        Some(mark) => settler.trials.begin(mark).await.map(Some),
        None => Ok(None),
    }
}

/// Removes the mark of a trial that is over.
pub(crate) async fn end(settler: &Settler, trial: Option<Trial>) {
    if let Some(trial) = trial {
        settler.trials.end(trial).await;
    }
}

/// Removes the marks that are done with after `group`.
pub(crate) async fn close(settler: &Settler, group: Option<Group>) {
    if let Some(group) = group {
        settler.trials.remove(group.closes).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(mut plan: Plan, fitting: usize, count: usize) -> Vec<(usize, bool)> {
        let mut sizes = Vec::new();
        while sizes.iter().map(|(size, _)| size).sum::<usize>() < count {
            let (size, group) = plan.next(fitting);
            sizes.push((size, group.is_some()));
        }
        sizes
    }

    fn place(sequence: u64) -> (u64, Timestamp) {
        (sequence, Timestamp::from_micros(i64::try_from(sequence).unwrap()))
    }

    #[test]
    fn undoubted_messages_come_first_and_groups_are_kept_apart() {
        let plan = Plan { usual: 70, groups: groups(&[(3, 0), (3, 0), (3, 0), (3, 0), (1, 0), (1, 0), (1, 1)]) };
        let expected = [(32, false), (32, false), (6, false), (3, true), (1, true), (1, true), (1, true), (1, true)];
        assert_eq!(sizes(plan, 32, 77), expected);
        // Bytes may allow fewer.
        let plan = Plan { usual: 0, groups: groups(&[(3, 0), (3, 0), (3, 0)]) };
        assert_eq!(sizes(plan, 2, 3), [(2, true), (1, true)]);
    }

    #[test]
    fn a_mark_is_closed_as_soon_as_none_of_its_messages_is_left_to_be_tried() {
        let mark = |first: u64, last: u64| Mark { first, last, size: 2, stored_at: place(first).1, trials: 1 };
        let (early, late, gone) = (mark(1, 3), mark(2, 6), mark(8, 9));
        let mut groups = groups(&[(2, 0), (2, 0), (2, 0), (1, 0), (1, 0)]);
        let places: Vec<_> = [1, 2, 3, 6, 7].map(place).into();
        let marks = vec![early.clone(), late.clone(), gone.clone()];
        assert_eq!(close_after(&mut groups, &places, marks), [gone]);
        let closes: Vec<_> = groups.into_iter().map(|group| group.closes).collect();
        assert_eq!(closes, [vec![], vec![early], vec![late], vec![]]);
    }

    #[test]
    fn groups_get_smaller_until_each_message_is_alone() {
        let few: Vec<_> = (1..=16).map(place).collect();
        assert_eq!(judge(&few, &Marks::default()), vec![Verdict::Try { size: 1, deaths: 0 }; 16]);
        let many: Vec<_> = (1..=25_000).map(place).collect();
        let (mut marks, mut verdicts) = (Marks::default(), Vec::new());
        // Processes die on the first group each time.
        while let [verdict @ Verdict::Try { size, deaths }, ..] = judge(&many, &marks)[..] {
            verdicts.push(verdict);
            let (first, stored_at) = many[0];
            marks.0.push(Mark { first, last: size as u64, size, stored_at, trials: deaths + 1 });
        }
        let tried = [(1_563, 0), (98, 0), (7, 0), (1, 0), (1, 1)];
        assert_eq!(verdicts, tried.map(|(size, deaths)| Verdict::Try { size, deaths }));
        let last = judge(&many, &marks);
        assert_eq!(last[..2], [Verdict::GiveUp { deaths: 2 }, Verdict::Try { size: 1, deaths: 0 }]);
        assert_eq!(last[7..9], [Verdict::Try { size: 7, deaths: 0 }; 2], "of the group of 98");
        assert_eq!(last[24_999], Verdict::Try { size: 1_465, deaths: 0 }, "no process died on it");
    }
}
