//! What is sent again for a dead letter, and when two dead letters are of one message.

use std::collections::{BTreeMap, HashSet};

use async_nats::HeaderMap;
use headrace_schemas::header;
use sha2::{Digest as _, Sha256};

use super::DeadLetter;

/// What became of a dead letter that was to be redriven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redriven {
    /// It is stored under its subject again, and the dead letter is removed.
    Sent,
    /// The same message was sent before in this run, because another component had given it up, too. All components
    /// read that message. So this dead letter is removed.
    Covered,
    /// It is not in DEAD, or not any more.
    Gone,
    /// It cannot be sent, so it was left in DEAD. The text says why.
    Kept(String),
}

/// The messages that a run of redriving has sent.
#[derive(Debug, Default)]
pub struct SentMessages {
    /// Each by [`content`].
    pub(super) contents: HashSet<[u8; 32]>,
    /// The ids of their events.
    pub(super) ids: HashSet<String>,
}

impl SentMessages {
    /// Adds the message of `dead_letter`, which has this `content`.
    pub(super) fn insert(&mut self, dead_letter: &DeadLetter, content: [u8; 32]) {
        self.contents.insert(content);
        self.ids.insert(dead_letter.header(header::ID).to_owned());
    }
}

/// The headers of the redriven message: those that the message had, and its history.
pub(super) fn live_headers(dead_letter: &DeadLetter) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, values) in dead_letter.headers.iter() {
        let text: &str = name.as_ref();
        if !text.starts_with("Nats-") && !text.starts_with(header::DEAD_PREFIX) {
            values.iter().for_each(|value| headers.append(name.clone(), value.clone()));
        }
    }
    // The message needs a new deduplication key: within the duplicate window the broker would drop the old one. Every
    // try at this dead letter uses the same key, so that a try after an interrupted one adds nothing. The time is part
    // of the key, because a DEAD that was made anew gives out the same sequences again.
    let (id, place) =
        (dead_letter.header(header::ID), format!("{}@{}", dead_letter.sequence, dead_letter.died_at.as_micros()));
    headers.insert(header::MESSAGE_ID, format!("{id}/redrive/{place}"));
    headers.insert(header::REDRIVES, dead_letter.redrives().saturating_add(1).to_string());
    let attempts: u64 = dead_letter.header(header::DEAD_ATTEMPTS).parse().unwrap_or(0);
    headers.insert(header::ATTEMPTS_BEFORE, attempts.to_string());
    headers
}

/// A hash of the message that a dead letter was made of: subject, payload and headers, without its history. Messages
/// with one hash are copies of one message. A message without an id is known by its place, too.
pub(super) fn content(dead_letter: &DeadLetter, payload: &[u8]) -> [u8; 32] {
    const HISTORY: [&str; 3] = [header::MESSAGE_ID, header::REDRIVES, header::ATTEMPTS_BEFORE];
    let live = live_headers(dead_letter);
    let own = live.iter().map(|(name, values)| (AsRef::<str>::as_ref(name), values));
    let own: BTreeMap<&str, _> = own.filter(|(name, _)| !HISTORY.contains(name)).collect();
    let id = dead_letter.header(header::ID);
    let place = if id.is_empty() { dead_letter.header(header::DEAD_ORIGIN) } else { "" };
    let mut parts: Vec<&[u8]> = vec![dead_letter.header(header::DEAD_SUBJECT).as_bytes(), place.as_bytes(), payload];
    for (name, values) in own {
        parts.extend(values.iter().flat_map(|value| [name.as_bytes(), value.as_str().as_bytes()]));
    }
    let mut hash = Sha256::new();
    for part in parts {
        // With its length, so that no two lists of parts are the same bytes.
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::super::tests::dead_letter;
    use super::*;

    #[test]
    fn a_copy_has_the_messages_own_headers_and_its_history() {
        let dead_letter = dead_letter(&[
            ("Nats-Msg-Id", "normalize/RAW:42"),
            (header::ID, "github:1"),
            (header::GITHUB_SIGNATURE, "sha256=00"),
            (header::DEAD_SUBJECT, "raw.acme.github.push"),
            (header::DEAD_ATTEMPTS, "5"),
            (header::REDRIVES, "1"),
            (header::ATTEMPTS_BEFORE, "4"),
        ]);
        let headers = live_headers(&dead_letter);
        let mut found: Vec<String> = headers.iter().map(|(name, values)| format!("{name}: {}", values[0])).collect();
        found.sort();
        let expected = [
            "Headrace-Attempts-Before: 5",
            "Headrace-Id: github:1",
            "Headrace-Redrives: 2",
            "Nats-Msg-Id: github:1/redrive/7@1700000000123456",
            "X-Hub-Signature-256: sha256=00",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_one_message_was_is_known_by_all_but_its_history() {
        let of = |more: &[(&str, &str)]| {
            let own = [(header::ID, "github:1"), (header::DEAD_SUBJECT, "raw.acme.github.push"), ("X-Own", "1")];
            let more = more.iter().copied();
            let replaced = own.into_iter().filter(|(name, _)| more.clone().all(|(other, _)| other != *name));
            content(&dead_letter(&replaced.chain(more.clone()).collect::<Vec<_>>()), b"{}")
        };
        let plain = of(&[]);
        for same in [
            &[(header::DEAD_COMPONENT, "clickhouse-raw"), (header::DEAD_ORIGIN, "RAW:43")][..],
            &[(header::REDRIVES, "3"), (header::ATTEMPTS_BEFORE, "4"), (header::DEAD_ATTEMPTS, "9")],
            &[("Nats-Msg-Id", "normalize/RAW:42")],
        ] {
            assert_eq!(of(same), plain, "{same:?}");
        }
        for other in
            [(header::ID, "github:2"), (header::DEAD_SUBJECT, "raw.octo.github.push"), ("X-Own", "2"), ("X", "")]
        {
            assert_ne!(of(&[other]), plain, "{other:?}");
        }
        assert_ne!(content(&dead_letter(&[(header::ID, "github:1")]), b"{ }"), content(&dead_letter(&[]), b"{}"));
        let nameless = |origin| of(&[(header::ID, ""), (header::DEAD_ORIGIN, origin)]);
        assert_eq!(nameless("RAW:1"), nameless("RAW:1"));
        assert_ne!(nameless("RAW:1"), nameless("RAW:2"));
    }
}
