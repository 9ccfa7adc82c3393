//! What a sink is given at once.

use std::time::Duration;

use crate::message::payload::{Content, Identity};
use crate::moment::Moment;
use headrace_schemas::time::Timestamp;
use sha2::{Digest as _, Sha256};

/// One value for a sink.
#[derive(Debug)]
pub struct Item<T> {
    /// The value.
    pub value: T,
    /// An effect of it may exist already: look it up first.
    pub suspect: bool,
    /// JetStream delivered its message before, so somebody may have worked on it.
    pub redelivered: bool,
    /// Sequence of its message in the stream.
    pub sequence: u64,
    /// When the broker stored its message, by the broker's clock: in the item's own stream, or in CATCHUP if it is brought once
    /// more. Zero when the item was not made of a message.
    pub stored_at: Timestamp,
}

/// Which values may be delivered together: those of one key. Most sinks have one key for all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Key(String);

impl Key {
    /// The key `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Its text; empty when there is one key for all.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Values for a sink, in the order of their stream and of one [`Key`]. Either all are suspects or none is.
#[derive(Debug)]
pub struct Batch<T> {
    items: Vec<Item<T>>,
    valid_until: Moment,
}

impl<T> Batch<T> {
    /// A batch of `items` that nobody else is given for `valid_for` from now on.
    #[must_use]
    pub fn new(items: Vec<Item<T>>, valid_for: Duration) -> Self {
        Self { items, valid_until: Moment::now() + valid_for }
    }

    /// The values.
    #[must_use]
    pub fn items(&self) -> &[Item<T>] {
        &self.items
    }

    /// Whether effects of these items may exist already.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.items.first().is_some_and(|item| item.suspect)
    }

    /// How long it is still ours alone. An effect must be complete within this time, or not begin.
    #[must_use]
    pub fn valid_for(&self) -> Duration {
        self.valid_until.time_left()
    }

    /// A name of 32 hex digits for these items, given by sequence and identity, in this order. The same messages have
    /// the same token whenever they are presented, and any other set has another. Sequences alone are not enough: a
    /// broker that lost its newest messages gives their sequences to others.
    #[must_use]
    pub fn token<'a>(items: impl Iterator<Item = (u64, Identity<&'a str>)>, scope: &str) -> String {
        let mut hash = Sha256::new();
        hash.update(scope.as_bytes());
        for (sequence, Identity { tenant, id, content: Content { kind, sha256 } }) in items {
            hash.update(sequence.to_le_bytes());
            for text in [tenant, id, kind, sha256] {
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(text.as_bytes());
            }
        }
        hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(crate) fn push(&mut self, item: Item<T>) {
        self.items.push(item);
    }

    pub(crate) fn into_items(self) -> Vec<Item<T>> {
        self.items
    }

    /// Marks all items as suspects: from now on their effects may exist.
    pub(crate) fn suspect(&mut self) {
        self.items.iter_mut().for_each(|item| item.suspect = true);
    }

    pub(crate) const fn set_valid_until(&mut self, valid_until: Moment) {
        self.valid_until = valid_until;
    }
}

/// How large a batch may grow and how long it may wait for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchPolicy {
    /// Most events.
    pub events_max: usize,
    /// Most bytes of messages, with the bodies that they refer to; a larger one travels alone.
    pub bytes_max: usize,
    /// Longest wait for more.
    pub linger: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_the_items_and_their_order() {
        let named = |id| Identity { tenant: "acme", id, content: Content::default() };
        let token_in = |scope, items: &[(u64, &'static str)]| {
            Batch::<()>::token(items.iter().map(|&(sequence, id)| (sequence, named(id))), scope)
        };
        let token = |items: &[(u64, &'static str)]| token_in("events", items);
        assert_eq!(token(&[(1, "a"), (2, "b")]), token(&[(1, "a"), (2, "b")]));
        assert_ne!(token(&[(1, "a"), (2, "b")]), token(&[(2, "b"), (1, "a")]));
        assert_ne!(token(&[(1, "a"), (2, "b")]), token(&[(1, "a")]));
        assert_ne!(token(&[(1, "a")]), token_in("raw", &[(1, "a")]));
        assert_ne!(token(&[(1, "a")]), token(&[(1, "b")]), "a sequence that was given again is another message");
        for other in [
            Identity { tenant: "octo", ..named("a") },
            Identity { content: Content { kind: "push", sha256: "" }, ..named("a") },
            Identity { content: Content { kind: "", sha256: "ab" }, ..named("a") },
        ] {
            assert_ne!(token(&[(1, "a")]), Batch::<()>::token([(1, other)].into_iter(), "events"), "{other:?}");
        }
        assert_eq!(token(&[]).len(), 32);
    }
}
