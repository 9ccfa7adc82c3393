//! What was sent and how it was answered.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::load::Delivery;
use crate::product::hook::sha256;

/// How a delivery was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// 2xx: it must be there.
    Stored,
    /// Anything else, or nothing: it may be there, once.
    Unknown,
}

/// A delivery by its id.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) answer: Answer,
    /// SHA-256 of the body, hex.
    pub(super) hash: String,
    /// Whether a rule matches it.
    pub(super) matching: bool,
}

/// Every delivery that was sent.
#[derive(Default)]
pub(super) struct Ledger(Mutex<HashMap<String, Entry>>);

impl Ledger {
    /// Notes an answer. Once stored is stored, whatever a repetition is answered.
    pub(super) fn note(&self, delivery: &Delivery, answer: Answer) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Delivery { body, matching, .. } = delivery;
        let new = || Entry { answer, hash: sha256(body), matching: *matching };
        let entry = entries.entry(delivery.id()).or_insert_with(new);
        if answer == Answer::Stored {
            entry.answer = answer;
        }
    }

    pub(super) fn entries(&self) -> HashMap<String, Entry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
