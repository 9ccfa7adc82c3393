//! What the log tells of signatures that are refused: enough to find a hook with the wrong secret, and no more than a
//! line a minute, whoever floods the gateway.
//!
//! Never anything of the body, nor of the signature.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::HeaderMap;
use headrace_schemas::header;
use tokio::time::Instant;

/// At most one line in this time.
const PERIOD: Duration = Duration::from_secs(60);
/// Characters of a delivery id that are told; a GUID has 36.
const ID_CHARS_MAX: usize = 64;

/// What was refused and not told yet. Its size is bounded by the number of reasons.
#[derive(Default)]
pub(super) struct DenialLog(Mutex<Untold>);

#[derive(Default)]
struct Untold {
    told_at: Option<Instant>,
    /// How many, by reason.
    refused: BTreeMap<&'static str, u64>,
}

impl DenialLog {
    /// Takes note of a delivery that was refused for `reason`, and tells of it and of those before it when it is time.
    pub(super) fn add(&self, reason: &'static str, headers: &HeaderMap, peer: Option<IpAddr>) {
        let Some(refused) = self.due(reason) else { return };
        let delivery = headers.get(header::GITHUB_DELIVERY).map(|value| told(value.as_bytes())).unwrap_or_default();
        let (count, reasons) = (refused.values().sum::<u64>(), by_reason(&refused));
        let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
        tracing::warn!(
            count,
            reasons,
            reason,
            peer,
            delivery,
            "deliveries with a bad signature were refused, the last of them with this reason, from this address; is the \
             secret at GitHub one of those configured here?"
        );
    }

    /// Counts one; what there is to tell, when it is time.
    fn due(&self, reason: &'static str) -> Option<BTreeMap<&'static str, u64>> {
        let mut untold = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *untold.refused.entry(reason).or_default() += 1;
        if untold.told_at.is_some_and(|at| at.elapsed() < PERIOD) {
            return None;
        }
        untold.told_at = Some(Instant::now());
        Some(std::mem::take(&mut untold.refused))
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
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_a_minute_tells_of_all_since_the_last() {
        let log = DenialLog::default();
        let due = |reason| log.due(reason).map(|refused| by_reason(&refused));
        assert_eq!(due("signature_wrong").as_deref(), Some("signature_wrong: 1"));
        for _ in 0..1_000 {
            assert_eq!((due("signature_wrong"), due("signature_missing")), (None, None));
            advance(Duration::from_millis(59)).await;
        }
        advance(Duration::from_secs(1)).await;
        assert_eq!(due("signature_missing").as_deref(), Some("signature_missing: 1001, signature_wrong: 1000"));
        assert_eq!(due("signature_wrong"), None);
    }

    #[test]
    fn a_delivery_id_is_cut_and_escaped() {
        assert_eq!(told(b"72d3162e-cc78-11e3-81ab-4c9367dc0958"), "72d3162e-cc78-11e3-81ab-4c9367dc0958");
        assert_eq!(told("a\u{1b}[31m\tb\u{202e}".as_bytes()), "a\\u{1b}[31m\\tb\\u{202e}");
        assert_eq!(told(&[b'x'; 500]).len(), ID_CHARS_MAX);
        assert!(told(&[0xff; 500]).chars().count() <= ID_CHARS_MAX);
    }
}
