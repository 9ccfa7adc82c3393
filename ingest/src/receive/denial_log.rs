//! What the log tells of senders that are refused, and of events that could not be stored: enough to find the one with the
//! wrong secret or a broker that is away, and no more than a line now and then, whoever floods the gateway.
//!
//! Never anything of the body, nor of a signature or a token.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use axum::http::HeaderValue;
use headrace_runtime::fault::Fault;
use headrace_runtime::observe::recurring::{Line, Recurring};

/// At most one line of refused senders in this time: strangers decide how many there are.
const DENIED_WINDOW: Duration = Duration::from_secs(60);
/// At most one line of events that were not stored in this time.
const UNSTORED_WINDOW: Duration = Duration::from_secs(10);
/// Characters of a delivery id that are told; a GUID has 36.
const ID_CHARS_MAX: usize = 64;

/// What was refused or not stored.
pub(crate) struct DenialLog {
    denied: Recurring<(), Denied>,
    unstored: Recurring<(), Unstored>,
}

/// Requests that were refused.
#[derive(Debug)]
struct Denied {
    /// How many, by reason. Its size is bounded by the number of reasons.
    refused: BTreeMap<&'static str, u64>,
    last: Denial,
}

/// A request that was refused.
#[derive(Debug, PartialEq, Eq)]
struct Denial {
    source: &'static str,
    reason: &'static str,
    peer: Option<IpAddr>,
    delivery: String,
}

/// Events that the broker did not take.
#[derive(Debug)]
struct Unstored {
    count: u64,
    /// Of the last of them.
    fault: String,
    /// Of the last of them.
    id: String,
}

impl Default for DenialLog {
    fn default() -> Self {
        Self { denied: Recurring::new(DENIED_WINDOW), unstored: Recurring::new(UNSTORED_WINDOW) }
    }
}

impl DenialLog {
    /// Takes note of a request to `source` that was refused for `reason`. `name` is what its sender calls it.
    pub(crate) fn add(
        &self,
        source: &'static str,
        reason: &'static str,
        name: Option<&HeaderValue>,
        peer: Option<IpAddr>,
    ) {
        let delivery = name.map(|value| told(value.as_bytes())).unwrap_or_default();
        self.denied.note((), Denied::of(Denial { source, reason, peer, delivery }));
    }

    /// Takes note of the event `id`, which `fault` kept from being stored.
    pub(crate) fn unstored(&self, fault: &Fault, id: &str) {
        tracing::debug!(%fault, id, "event not stored");
        self.unstored.note((), Unstored { count: 1, fault: fault.to_string(), id: id.to_owned() });
    }

    /// Runs `serving` to its end. Meanwhile what no line has told yet is told at the end of its window, or with the end
    /// of `serving`.
    pub(crate) async fn beside<T>(&self, serving: impl Future<Output = T>) -> T {
        self.denied.beside(self.unstored.beside(serving)).await
    }
}

impl Denied {
    fn of(denial: Denial) -> Self {
        Self { refused: BTreeMap::from([(denial.reason, 1)]), last: denial }
    }
}

impl Line for Denied {
    fn add(&mut self, later: Self) {
        for (reason, count) in later.refused {
            *self.refused.entry(reason).or_default() += count;
        }
        self.last = later.last;
    }

    fn tell(self) {
        let Self { refused, last: Denial { source, reason, peer, delivery } } = self;
        let (count, reasons) = (refused.values().sum::<u64>(), by_reason(&refused));
        let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
        tracing::warn!(
            count,
            reasons,
            source,
            reason,
            peer,
            delivery,
            "requests without a valid signature or token were refused, the last of them with this reason, from this \
             address; is its sender's secret one of those configured here?"
        );
    }
}

impl Line for Unstored {
    fn add(&mut self, later: Self) {
        *self = Self { count: self.count + later.count, ..later };
    }

    fn tell(self) {
        let Self { count, fault, id } = self;
        if count == 1 {
            tracing::warn!(fault, id, "event not stored; the sender is asked to send it again");
        } else {
            tracing::warn!(
                count,
                fault,
                id,
                "events not stored, the last of them for this fault; their senders are asked to send them again"
            );
        }
    }
}

fn by_reason(refused: &BTreeMap<&'static str, u64>) -> String {
    refused.iter().map(|(reason, count)| format!("{reason}: {count}")).collect::<Vec<_>>().join(", ")
}

/// A sender's text as it may stand in a log: cut, and without control characters.
fn told(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().take(ID_CHARS_MAX).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(reason: &'static str, delivery: usize) -> Denial {
        Denial { source: "github", reason, peer: None, delivery: delivery.to_string() }
    }

    #[test]
    fn a_line_counts_by_reason_and_tells_the_last() {
        let mut denied = Denied::of(denial("signature_wrong", 0));
        for delivery in 1..1_000 {
            denied.add(Denied::of(denial("signature_wrong", delivery)));
        }
        denied.add(Denied::of(denial("signature_missing", 1_000)));
        assert_eq!(by_reason(&denied.refused), "signature_missing: 1, signature_wrong: 1000");
        assert_eq!(denied.last, denial("signature_missing", 1_000));
        let unstored = |id: &str| Unstored { count: 1, fault: format!("why {id}"), id: id.to_owned() };
        let mut all = unstored("1");
        all.add(unstored("2"));
        all.add(unstored("3"));
        assert_eq!((all.count, all.fault.as_str(), all.id.as_str()), (3, "why 3", "3"));
    }

    #[test]
    fn a_delivery_id_is_cut_and_escaped() {
        assert_eq!(told(b"72d3162e-cc78-11e3-81ab-4c9367dc0958"), "72d3162e-cc78-11e3-81ab-4c9367dc0958");
        assert_eq!(told("a\u{1b}[31m\tb\u{202e}".as_bytes()), "a\\u{1b}[31m\\tb\\u{202e}");
        assert_eq!(told(&[b'x'; 500]).len(), ID_CHARS_MAX);
        assert!(told(&[0xff; 500]).chars().count() <= ID_CHARS_MAX);
    }
}
