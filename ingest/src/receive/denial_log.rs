//! What the log tells of senders that are refused: enough to find the one with the wrong secret, and no more than a line
//! a minute, whoever floods the gateway.
//!
//! Never anything of the body, nor of a signature or a token.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::HeaderValue;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// At most one line in this time.
const PERIOD: Duration = Duration::from_secs(60);
/// Characters of a delivery id that are told; a GUID has 36.
const ID_CHARS_MAX: usize = 64;

/// What was refused and not told yet. Its size is bounded by the number of reasons.
#[derive(Default)]
pub(crate) struct DenialLog {
    untold: Mutex<Untold>,
    /// Wakes who waits for something to tell.
    grew: Notify,
}

#[derive(Default)]
struct Untold {
    told_at: Option<Instant>,
    /// How many, by reason.
    refused: BTreeMap<&'static str, u64>,
    /// The last of them.
    last: Option<Denial>,
}

/// A request that was refused.
#[derive(Debug, PartialEq, Eq)]
struct Denial {
    source: &'static str,
    reason: &'static str,
    peer: Option<IpAddr>,
    delivery: String,
}

/// What one line tells.
#[derive(Debug)]
struct Summary {
    refused: BTreeMap<&'static str, u64>,
    last: Denial,
}

impl DenialLog {
    /// Takes note of a request to `source` that was refused for `reason`. `name` is what its sender calls it. Tells of it
    /// and of those before it when it is time.
    pub(crate) fn add(
        &self,
        source: &'static str,
        reason: &'static str,
        name: Option<&HeaderValue>,
        peer: Option<IpAddr>,
    ) {
        let delivery = name.map(|value| told(value.as_bytes())).unwrap_or_default();
        if let Some(summary) = self.note(Denial { source, reason, peer, delivery }) {
            summary.tell();
        }
    }

    /// Runs `serving` to its end. Meanwhile what no line has told yet is told at the end of its minute, or with the end
    /// of `serving`.
    pub(crate) async fn beside<T>(&self, serving: impl Future<Output = T>) -> T {
        let _rest = Rest(self);
        tokio::select! {
            served = serving => served,
            never = self.tell_in_time() => never,
        }
    }

    async fn tell_in_time<T>(&self) -> T {
        loop {
            self.next().await.tell();
        }
    }

    /// Waits until there is something to tell and a minute has passed since the last line.
    async fn next(&self) -> Summary {
        loop {
            let due_at = self.untold().due_at();
            match due_at {
                Some(due_at) => sleep_until(due_at).await,
                None => self.grew.notified().await,
            }
            if let Some(summary) = self.untold().take_due() {
                return summary;
            }
        }
    }

    /// Counts one; what there is to tell, when it is time.
    fn note(&self, denial: Denial) -> Option<Summary> {
        let mut untold = self.untold();
        *untold.refused.entry(denial.reason).or_default() += 1;
        untold.last = Some(denial);
        let summary = untold.take_due();
        self.grew.notify_one();
        summary
    }

    fn untold(&self) -> MutexGuard<'_, Untold> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Untold {
    /// When there is something to tell, the time from which it may be told.
    fn due_at(&self) -> Option<Instant> {
        self.last.as_ref().map(|_| self.told_at.map_or_else(Instant::now, |told_at| told_at + PERIOD))
    }

    fn take_due(&mut self) -> Option<Summary> {
        self.due_at().filter(|due_at| *due_at <= Instant::now()).and_then(|_| self.take())
    }

    fn take(&mut self) -> Option<Summary> {
        let last = self.last.take()?;
        self.told_at = Some(Instant::now());
        Some(Summary { refused: std::mem::take(&mut self.refused), last })
    }
}

impl Summary {
    fn tell(&self) {
        let Self { refused, last: Denial { source, reason, peer, delivery } } = self;
        let (count, reasons) = (refused.values().sum::<u64>(), by_reason(refused));
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

/// Tells the rest when it is dropped: also when the server is cut off.
struct Rest<'a>(&'a DenialLog);

impl Drop for Rest<'_> {
    fn drop(&mut self) {
        let rest = self.0.untold().take();
        if let Some(summary) = rest {
            summary.tell();
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
    use tokio::time::{advance, timeout};

    use super::*;

    fn denial(reason: &'static str, delivery: usize) -> Denial {
        Denial { source: "github", reason, peer: None, delivery: delivery.to_string() }
    }

    #[tokio::test(start_paused = true)]
    async fn one_line_a_minute_tells_of_all_since_the_last() {
        let log = DenialLog::default();
        let due = |reason| log.note(denial(reason, 0)).map(|summary| by_reason(&summary.refused));
        assert_eq!(due("signature_wrong").as_deref(), Some("signature_wrong: 1"));
        for _ in 0..1_000 {
            assert_eq!((due("signature_wrong"), due("signature_missing")), (None, None));
            advance(Duration::from_millis(59)).await;
        }
        advance(Duration::from_secs(1)).await;
        assert_eq!(due("signature_missing").as_deref(), Some("signature_missing: 1001, signature_wrong: 1000"));
        assert_eq!(due("signature_wrong"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_is_told_at_the_end_of_its_minute_though_nothing_more_comes() {
        let (log, began) = (DenialLog::default(), Instant::now());
        assert!(log.note(denial("signature_wrong", 1)).is_some(), "the first is told at once");
        for delivery in 2..5 {
            assert!(log.note(denial("signature_wrong", delivery)).is_none());
            advance(Duration::from_secs(10)).await;
        }
        let rest = log.next().await;
        assert_eq!(began.elapsed().as_secs(), PERIOD.as_secs());
        assert_eq!(
            (by_reason(&rest.refused).as_str(), rest.last),
            ("signature_wrong: 3", denial("signature_wrong", 4))
        );
        assert!(timeout(PERIOD * 10, log.next()).await.is_err(), "there is no more to tell");
        assert!(log.note(denial("signature_wrong", 5)).is_some(), "its minute is over");
    }

    #[tokio::test(start_paused = true)]
    async fn the_server_tells_in_time_and_leaves_nothing_untold() {
        let log = DenialLog::default();
        let is_told = || log.untold().last.is_none();
        let serving = async {
            assert!(
                log.note(denial("signature_wrong", 1)).is_some() && log.note(denial("signature_wrong", 2)).is_none()
            );
            tokio::time::sleep(PERIOD + Duration::from_millis(1)).await;
            assert!(is_told(), "at the end of its minute");
            assert!(log.note(denial("signature_wrong", 3)).is_none() && !is_told());
            "served"
        };
        assert_eq!(log.beside(serving).await, "served");
        assert!(is_told(), "at the end");
        assert!(log.note(denial("signature_wrong", 4)).is_none());
        let cut_off = timeout(Duration::from_millis(1), log.beside(std::future::pending::<()>())).await;
        assert!(cut_off.is_err() && is_told(), "when it is cut off");
    }

    #[test]
    fn a_delivery_id_is_cut_and_escaped() {
        assert_eq!(told(b"72d3162e-cc78-11e3-81ab-4c9367dc0958"), "72d3162e-cc78-11e3-81ab-4c9367dc0958");
        assert_eq!(told("a\u{1b}[31m\tb\u{202e}".as_bytes()), "a\\u{1b}[31m\\tb\\u{202e}");
        assert_eq!(told(&[b'x'; 500]).len(), ID_CHARS_MAX);
        assert!(told(&[0xff; 500]).chars().count() <= ID_CHARS_MAX);
    }
}
