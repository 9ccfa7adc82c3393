//! What was sent, and how it was answered. `verify` compares this with what is stored.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::load::Delivery;
use crate::product::hook::sha256;

/// What the ids of lines and of records in requests begin with.
pub(super) const RECORDS: &str = "ndjson:";
/// What the ids of lines in files begin with.
pub(super) const LINES: &str = "ndjson:line-";
/// What the ids of records in requests begin with.
pub(super) const POSTED: &str = "ndjson:post-";

/// How a delivery was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// 2xx: the delivery must be stored.
    Stored,
    /// Anything else, or nothing: the delivery may be stored, but only once.
    Unknown,
}

/// Everything that was sent under one id.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The SHA-256 of each body in hex, and how it was answered.
    pub(super) bodies: Vec<(String, Answer)>,
    /// Whether a rule matches its event.
    pub(super) matching: bool,
}

impl Entry {
    /// The hashes of the bodies that must be stored.
    pub(super) fn stored(&self) -> impl Iterator<Item = &String> {
        self.bodies.iter().filter(|(_, answer)| *answer == Answer::Stored).map(|(hash, _)| hash)
    }

    /// Whether its event must be stored.
    pub(super) fn is_stored(&self) -> bool {
        self.stored().next().is_some()
    }

    /// Whether a body with this hash was sent.
    pub(super) fn has(&self, hash: &str) -> bool {
        self.bodies.iter().any(|(own, _)| own == hash)
    }
}

/// Every delivery that was sent.
#[derive(Default)]
pub(super) struct History(Mutex<HashMap<String, Entry>>);

impl History {
    /// Notes the answer to a delivery.
    pub(super) fn note(&self, delivery: &Delivery, answer: Answer) {
        self.note_body(delivery.id(), &delivery.body, delivery.matching, answer);
    }

    /// Notes the answer to a request with a record in it.
    pub(super) fn note_posted(&self, id: &str, line: &[u8], answer: Answer) {
        self.note_body(format!("{POSTED}{id}"), line, false, answer);
    }

    /// Once a body was answered with 2xx, no later answer changes that.
    fn note_body(&self, id: String, body: &[u8], matching: bool, answer: Answer) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.entry(id).or_insert_with(|| Entry { bodies: Vec::new(), matching });
        let hash = sha256(body);
        match entry.bodies.iter_mut().find(|(own, _)| *own == hash) {
            None => entry.bodies.push((hash, answer)),
            Some((_, known)) if answer == Answer::Stored => *known = answer,
            Some(_) => {}
        }
    }

    /// Notes a line that was written to a file: it must be stored.
    pub(super) fn note_line(&self, id: u64, line: &[u8]) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = Entry { bodies: vec![(sha256(line), Answer::Stored)], matching: false };
        entries.insert(format!("{LINES}{id}"), entry);
    }

    pub(super) fn entries(&self) -> HashMap<String, Entry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
