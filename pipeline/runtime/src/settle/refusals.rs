//! Whether a refused item is to blame for its refusal, or its receiver, which may refuse everything.
//!
//! A receiver that was changed, such as a table with a column of another type, refuses whatever it is sent. So a refusal
//! alone proves nothing. An item is to blame when the receiver accepts others between two refusals of the item: before the
//! second it worked. When different items are refused and none is accepted, the receiver is to blame.
//!
//! One refusal and one acceptance prove less, whichever came first: the receiver may have been changed or mended between
//! the two. After an acceptance the item is tried once more. Before one, the receiver is asked whether it is in order.
//!
//! A single item that is refused while no other comes proves neither. It is held back a few times. Then the receiver is
//! asked whether it is in order, and its word counts against the item: one poisonous item must not stay for ever. That
//! word counts once: a receiver that does not know of its own trouble costs one item, until it accepts another.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::retry::Attempt;

/// How often a single refused item is held back, in the hope that another item shows who is to blame.
const HELD_BACK_MAX: u32 = 3;
/// The most items to remember. They take some megabytes.
const ITEMS_MAX: usize = 50_000;

/// What a component's receiver refused lately. All workers of the component share it. The next start begins anew: it is
/// better to hold an item back too often than to give it up too early.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refusals(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// How often the receiver has accepted something.
    acceptances: u64,
    /// Refused since it last accepted something, with how often.
    open: HashMap<String, u32>,
    /// Refused before it last accepted something, and not accepted since.
    doubtful: HashSet<String>,
}

/// Who is to blame for a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// The item: it is poison.
    Item,
    /// The receiver: a person must act.
    Receiver,
    /// Nobody knows yet. The item was refused so often.
    Nobody(Attempt),
    /// The item, if the receiver says that it is in order itself. The item was refused so often.
    ItemUnlessBroken(Attempt),
}

impl Refusals {
    /// How often the receiver has accepted something. Compare two readings: it has, when they differ.
    pub(crate) fn acceptances(&self) -> u64 {
        self.state().acceptances
    }

    /// Whether the receiver has refused something since it last accepted something.
    pub(crate) fn are_open(&self) -> bool {
        !self.state().open.is_empty()
    }

    /// Notes that the receiver accepted the items `names`. So it works, and what it refuses once more is to blame.
    pub(crate) fn accepted(&self, names: impl Iterator<Item = String>) {
        let mut state = self.state();
        state.acceptances += 1;
        if state.open.is_empty() && state.doubtful.is_empty() {
            return;
        }
        let refused: Vec<String> = state.open.drain().map(|(name, _)| name).collect();
        if state.doubtful.len() + refused.len() > ITEMS_MAX {
            state.doubtful.clear();
        }
        state.doubtful.extend(refused);
        names.for_each(|name| {
            state.doubtful.remove(&name);
        });
    }

    /// Notes that the receiver refused the item `name`, alone. Returns whether that proves the item's blame.
    pub(crate) fn refused(&self, name: &str) -> bool {
        let mut state = self.state();
        // An item that is given up is forgotten: when a person redrives it, everything is open again.
        if state.doubtful.remove(name) {
            return true;
        }
        // More than that prove nothing new.
        if state.open.len() < ITEMS_MAX || state.open.contains_key(name) {
            let times = state.open.entry(name.to_owned()).or_default();
            *times = times.saturating_add(1);
        }
        false
    }

    /// Who is to blame that the receiver refused each of `items`, all in one batch: their names, and what
    /// [`Self::refused`] told of each. `acceptances` was read before the batch.
    pub(crate) fn judge<'a>(&self, items: impl Iterator<Item = (&'a str, bool)>, acceptances: u64) -> Vec<Blame> {
        let state = self.state();
        let (has_accepted, several) = (state.acceptances != acceptances, state.open.len() > 1);
        let blame = |(name, proven): (&str, bool)| match state.open.get(name).copied() {
            _ if proven => Blame::Item,
            // Accepted since, or too many to remember.
            None => Blame::Nobody(Attempt(1)),
            Some(times) if has_accepted => Blame::ItemUnlessBroken(Attempt(times)),
            Some(_) if several => Blame::Receiver,
            Some(times) if times > HELD_BACK_MAX => Blame::ItemUnlessBroken(Attempt(times)),
            Some(times) => Blame::Nobody(Attempt(times)),
        };
        items.map(blame).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// The verdict on items that are refused in a batch.
    fn judged(refusals: &Refusals, refused: &[&str]) -> Vec<Blame> {
        let before = refusals.acceptances();
        judged_since(refusals, refused, before)
    }

    /// As [`judged`], where the batch began at `before`.
    fn judged_since(refusals: &Refusals, refused: &[&str], before: u64) -> Vec<Blame> {
        let mut proven: Vec<(&str, bool)> = refused.iter().map(|name| (*name, false)).collect();
        let mut seen = HashSet::new();
        for (name, proven) in &mut proven {
            // Several messages of an event count as one item.
            *proven = seen.insert(*name) && refusals.refused(name);
        }
        refusals.judge(proven.into_iter(), before)
    }

    fn accept(refusals: &Refusals, accepted: &[&str]) {
        refusals.accepted(names(accepted).into_iter());
    }

    #[test]
    fn what_is_refused_after_an_accepted_item_is_to_blame_if_the_receiver_is_in_order() {
        let refusals = Refusals::default();
        let before = refusals.acceptances();
        accept(&refusals, &["good"]);
        assert_eq!(judged_since(&refusals, &["a", "b"], before), [Blame::ItemUnlessBroken(Attempt(1)); 2]);
    }

    #[test]
    fn what_is_refused_before_an_accepted_item_is_tried_once_more() {
        let refusals = Refusals::default();
        let before = refusals.acceptances();
        assert!(!refusals.refused("a") && !refusals.refused("b"));
        accept(&refusals, &["good"]);
        let refused = [("a", false), ("b", false)];
        assert_eq!(refusals.judge(refused.into_iter(), before), [Blame::Nobody(Attempt(1)); 2]);
        accept(&refusals, &["b"]);
        assert_eq!(judged(&refusals, &["a"]), [Blame::Item]);
        assert_eq!(judged(&refusals, &["b"]), [Blame::Nobody(Attempt(1))]);
    }

    #[test]
    fn a_receiver_that_refuses_every_item_is_to_blame() {
        let refusals = Refusals::default();
        accept(&refusals, &["earlier"]);
        for _ in 0..10 {
            assert_eq!(judged(&refusals, &["a", "b"]), [Blame::Receiver; 2]);
        }
        // It accepts something, so it works again. What it refuses once more is to blame, and nothing else.
        accept(&refusals, &["c", "b"]);
        assert_eq!(judged(&refusals, &["a"]), [Blame::Item]);
        assert_eq!(judged(&refusals, &["b"]), [Blame::Nobody(Attempt(1))]);
    }

    #[test]
    fn a_trickle_that_is_refused_item_by_item_costs_one_at_most() {
        let refusals = Refusals::default();
        for times in 1..=HELD_BACK_MAX {
            assert_eq!(judged(&refusals, &["a"]), [Blame::Nobody(Attempt(times))]);
        }
        assert_eq!(judged(&refusals, &["a"]), [Blame::ItemUnlessBroken(Attempt(HELD_BACK_MAX + 1))]);
        for other in ["b", "c", "b", "d"] {
            assert_eq!(judged(&refusals, &[other]), [Blame::Receiver], "{other}");
        }
        assert!(refusals.are_open());
        accept(&refusals, &["e"]);
        assert!(!refusals.are_open());
        assert_eq!(judged(&refusals, &["d", "f"]), [Blame::Item, Blame::Nobody(Attempt(1))]);
    }

    #[test]
    fn several_messages_of_an_event_are_one_item() {
        let refusals = Refusals::default();
        assert_eq!(judged(&refusals, &["a", "a"]), [Blame::Nobody(Attempt(1)); 2]);
        assert_eq!(judged(&refusals, &["a"]), [Blame::Nobody(Attempt(2))]);
    }

    #[test]
    fn memory_is_bounded() {
        let refusals = Refusals::default();
        for part in 0..3 {
            for number in 0..ITEMS_MAX {
                refusals.refused(&format!("{part}/{number}"));
            }
            assert!(refusals.state().open.len() <= ITEMS_MAX);
        }
        accept(&refusals, &["good"]);
        for number in 0..9 {
            refusals.refused(&format!("more/{number}"));
        }
        accept(&refusals, &["good"]);
        assert!(refusals.state().doubtful.len() <= ITEMS_MAX);
    }
}
