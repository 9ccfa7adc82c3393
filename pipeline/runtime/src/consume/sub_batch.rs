//! A sub-batch of what a sink's worker gathered, with the messages behind it, and whether it is still ours.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::component::batch::{Batch, Item, Key};
use crate::consume::read::within;
use crate::fault::Effect;
use crate::message::Delivered;
use crate::message::payload::Payload;
use crate::moment::Moment;

/// Some of what was gathered: the items, and the messages behind them in the same order.
pub(crate) struct SubBatch<T> {
    pub(crate) messages: Vec<Delivered>,
    pub(crate) batch: Batch<T>,
    /// Whether an earlier call for these items failed and may have had its effect all the same.
    pub(crate) effect: Effect,
}

/// What was read, parted into sub-batches: first deliveries and suspects, and each of them by key.
pub(crate) struct Parts<T> {
    places: HashMap<(bool, Key), usize>,
    parts: Vec<SubBatch<T>>,
    /// How many messages there are in all. Nearly always most of them are in the first part.
    count: usize,
}

impl<T> Parts<T> {
    /// For `count` messages.
    pub(crate) fn of(count: usize) -> Self {
        Self { places: HashMap::new(), parts: Vec::new(), count }
    }

    pub(crate) fn push(&mut self, key: Key, message: Delivered, value: T, suspect: bool) {
        let place = *self.places.entry((suspect, key)).or_insert(self.parts.len());
        if place == self.parts.len() {
            let count = if self.parts.is_empty() { self.count } else { 0 };
            self.parts.push(SubBatch::with_capacity(count));
        }
        self.parts[place].push(message, value, suspect);
    }

    /// First deliveries before suspects. Within these, keys are in the order in which they came, and so are the messages
    /// of each.
    pub(crate) fn into_sub_batches(self) -> VecDeque<SubBatch<T>> {
        let (suspects, firsts): (Vec<_>, Vec<_>) = self.parts.into_iter().partition(|part| part.batch.is_suspect());
        firsts.into_iter().chain(suspects).collect()
    }
}

/// Whether messages are ours to deliver.
pub(crate) enum Ownership {
    /// Nobody else is given them before `valid_until`.
    Owned { valid_until: Moment },
    /// They are not ours any more: the broker gives them to another.
    Expired,
}

impl<T> SubBatch<T> {
    pub(crate) fn empty() -> Self {
        Self::with_capacity(0)
    }

    fn with_capacity(count: usize) -> Self {
        let batch = Batch::new(Vec::with_capacity(count), Duration::ZERO);
        Self { messages: Vec::with_capacity(count), batch, effect: Effect::None }
    }

    pub(crate) fn push(&mut self, message: Delivered, value: T, suspect: bool) {
        let redelivered = message.may_be_redelivered();
        let (sequence, stored_at) = (message.sequence, message.stored_at);
        self.batch.push(Item { value, suspect, redelivered, sequence, stored_at });
        self.messages.push(message);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Delivered, &T)> {
        self.messages.iter().zip(self.batch.items().iter().map(|item| &item.value))
    }

    /// Splits into those that `chosen` chooses and the others. Both keep their order.
    pub(crate) fn partition(self, chosen: impl Fn(&Delivered, &T) -> bool) -> (Self, Self) {
        let part = || Self { effect: self.effect, ..Self::empty() };
        let (mut ours, mut others) = (part(), part());
        for (message, item) in self.messages.into_iter().zip(self.batch.into_items()) {
            let sub_batch = if chosen(&message, &item.value) { &mut ours } else { &mut others };
            sub_batch.messages.push(message);
            sub_batch.batch.push(item);
        }
        (ours, others)
    }

    /// Two sub-batches of about as many messages each.
    pub(crate) fn halves(self) -> [Self; 2] {
        let middle = self.messages.len() / 2;
        self.split(middle)
    }

    fn split(mut self, middle: usize) -> [Self; 2] {
        let valid_for = self.batch.valid_for();
        let later_messages = self.messages.split_off(middle);
        let mut items = self.batch.into_items();
        let later_items = items.split_off(middle);
        [
            Self { messages: self.messages, batch: Batch::new(items, valid_for), effect: self.effect },
            Self { messages: later_messages, batch: Batch::new(later_items, valid_for), effect: self.effect },
        ]
    }
}

impl<T: Payload> SubBatch<T> {
    /// About how many bytes it takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.batch.items().iter().map(|item| item.value.size()).sum()
    }

    /// Two sub-batches of about as many bytes each. Only for a sub-batch of two messages or more.
    pub(crate) fn cut(self) -> [Self; 2] {
        let sizes = self.batch.items().iter().map(|item| item.value.size());
        let middle = within(sizes, self.bytes() / 2).min(self.messages.len().saturating_sub(1));
        self.split(middle)
    }
}
