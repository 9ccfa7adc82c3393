//! W3C trace context: one trace id from the request to the row, carried in the header `traceparent`.

use std::fmt::Write as _;

/// A `traceparent` of version 00 (W3C Trace Context, section 3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceParent(String);

impl TraceParent {
    /// A new trace, sampled.
    #[must_use]
    pub fn generate() -> Self {
        let (trace, span): (u128, u64) = (rand::random(), rand::random());
        // All-zero ids are invalid; the lowest bit costs nothing.
        let (trace, span) = ((trace | 1).to_be_bytes(), (span | 1).to_be_bytes());
        Self(["00-", &hex::encode(trace), "-", &hex::encode(span), "-01"].concat())
    }

    /// Reads a received header; `None` when it is not a valid version 00 value.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let lengths = [2, 32, 16, 2];
        let valid = lengths.iter().all(|&length| {
            parts.next().is_some_and(|part| {
                part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            })
        }) && parts.next().is_none();
        let nonzero = |range: std::ops::Range<usize>| text[range].bytes().any(|byte| byte != b'0');
        (valid && text.starts_with("00") && nonzero(3..35) && nonzero(36..52)).then(|| Self(text.to_owned()))
    }

    /// The same trace with a new span, for the next hop.
    #[must_use]
    pub fn child(&self) -> Self {
        let mut text = self.0[..36].to_owned();
        write!(text, "{:016x}{}", rand::random::<u64>() | 1, &self.0[52..]).expect("writing to a String cannot fail");
        Self(text)
    }

    /// The trace id, 32 hex digits.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        &self.0[3..35]
    }

    /// The header's value.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_valid_headers_are_continued() {
        let example = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parsed = TraceParent::parse(example).unwrap();
        assert_eq!(parsed.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let child = parsed.child();
        assert_eq!(child.trace_id(), parsed.trace_id());
        assert_ne!(child, parsed);
        assert!(TraceParent::parse(child.as_str()).is_some());
        assert!(TraceParent::parse(TraceParent::generate().as_str()).is_some());
        for bad in ["", "00", "00-0-0-01", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", "é"] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
    }
}
