//! Whether a refused item is to blame for its refusal, or its receiver, which may refuse everything.
//!
//! A receiver that was changed, such as a table with a column of another type, refuses whatever it is sent. So a refusal
//! alone proves nothing. An item is to blame when the receiver accepts others: in the same batch, or between two
//! refusals of the item. When different items are refused and none is accepted, the receiver is to blame.
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

    /// Who is to blame that the receiver refused each of the items `names`, all in one batch. `acceptances` was read
    /// before the batch.
    pub(crate) fn judge(&self, names: &[String], acceptances: u64) -> Vec<Blame> {
        let mut state = self.state();
        let is_proven = state.acceptances != acceptances;
        // An item that is given up is forgotten: when a person redrives it, everything is open again.
        let proven: Vec<bool> = names.iter().map(|name| state.doubtful.remove(name) || is_proven).collect();
        // Several messages of an event count as one item.
        let unproven: HashSet<&String> =
            names.iter().zip(&proven).filter(|(_, proven)| !**proven).map(|(name, _)| name).collect();
        for name in unproven {
            // More than that prove nothing new.
            if state.open.len() < ITEMS_MAX || state.open.contains_key(name) {
                let times = state.open.entry(name.clone()).or_default();
                *times = times.saturating_add(1);
            }
        }
        let several = state.open.len() > 1;
        let blame = |(name, proven): (&String, bool)| match state.open.get(name).copied().unwrap_or(1) {
            _ if proven => Blame::Item,
            _ if several => Blame::Receiver,
            times if times > HELD_BACK_MAX => Blame::ItemUnlessBroken(Attempt(times)),
            times => Blame::Nobody(Attempt(times)),
        };
        names.iter().zip(proven).map(blame).collect()
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

    /// The verdict on items that are refused in a batch of which none is accepted.
    fn judged(refusals: &Refusals, refused: &[&str]) -> Vec<Blame> {
        refusals.judge(&names(refused), refusals.acceptances())
    }

    fn accept(refusals: &Refusals, accepted: &[&str]) {
        refusals.accepted(names(accepted).into_iter());
    }

    #[test]
    fn what_is_refused_beside_an_accepted_item_is_to_blame() {
        let refusals = Refusals::default();
        let before = refusals.acceptances();
        accept(&refusals, &["good"]);
        assert_eq!(refusals.judge(&names(&["a", "b"]), before), [Blame::Item; 2]);
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
            let many: Vec<String> = (0..ITEMS_MAX).map(|number| format!("{part}/{number}")).collect();
            assert!(refusals.judge(&many, refusals.acceptances()).iter().all(|blame| *blame == Blame::Receiver));
            assert!(refusals.state().open.len() <= ITEMS_MAX);
        }
        accept(&refusals, &["good"]);
        let many: Vec<String> = (0..9).map(|number| format!("more/{number}")).collect();
        refusals.judge(&many, refusals.acceptances());
        accept(&refusals, &["good"]);
        assert!(refusals.state().doubtful.len() <= ITEMS_MAX);
    }
}
