//! How deeply a JSON text is nested. Ask this before any parser reads it.
//!
//! The parser of bodies, sonic-rs, recurses once for each level that it skips, without a bound. A few thousand brackets
//! would crash the process that reads them, and crash it again at every redelivery. This module must never parse: it
//! looks only at bytes.

/// Deepest nesting of a body. GitHub's own parts are less than ten levels deep, and the parts that users write
/// (`client_payload`) no more than a hundred. A thread's stack of 2 MiB can take many times this.
pub const DEPTH_MAX: usize = 512;

/// Whether objects and arrays in `json` are nested at most [`DEPTH_MAX`] deep. For a text that is not JSON, the answer
/// may be either.
#[must_use]
pub fn is_shallow(json: &[u8]) -> bool {
    // Nearly every body has fewer opening brackets in all, and a vectorized search finds that out.
    memchr::memchr2_iter(b'{', b'[', json).nth(DEPTH_MAX).is_none() || within(json, DEPTH_MAX)
}

/// Whether at most `max` brackets outside of texts are open at any place.
fn within(json: &[u8], max: usize) -> bool {
    let mut bytes = json.iter();
    let mut depth = 0_usize;
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' if depth == max => return false,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => drop(bytes.next()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_and_not_number() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(is_shallow(nested(DEPTH_MAX).as_bytes()));
        assert!(!is_shallow(nested(DEPTH_MAX + 1).as_bytes()));
        assert!(!is_shallow("[{\"a\":".repeat(DEPTH_MAX).as_bytes()));
        assert!(is_shallow(format!("[{}0]", "[],{\"a\":[]},".repeat(100_000)).as_bytes()));
        assert!(is_shallow(format!("[\"\\\"{}\", \"\\\\\", 1]", "[{".repeat(100_000)).as_bytes()));
        assert!(is_shallow(b"]]]}}}\"\\") && is_shallow(b""));
    }
}
