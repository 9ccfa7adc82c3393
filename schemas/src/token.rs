//! Tokens: the parts of subjects and keys.
//!
//! A token is lower case and within `[a-z0-9_-]`. Any other byte becomes `_` and two hex digits, and an empty text
//! becomes `none`. A token must never be longer than [`BYTES_MAX`]: a longer one is cut, and ends in `-` and a hash of
//! the whole.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// Longest token, in bytes. NATS disconnects a client whose control line (subject, reply subject and sizes) is longer
/// than 4096 bytes. A tenant comes from the body, so without a bound one body could cut the connection for everybody.
/// Four tokens of this length leave most of the line free.
pub const BYTES_MAX: usize = 128;
/// Hex digits of the hash at the end of a cut token. Two long names share a token once in 2^64 cases.
const HASH_DIGITS: usize = 16;
/// The token of an empty text.
pub const EMPTY: &str = "none";

/// The token of `text`: lower case, `[a-z0-9_-]`, everything else escaped as `_` and two hex digits.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(BYTES_MAX));
    push(&mut out, text);
    out
}

/// Appends the token of `text` to `out`.
pub(crate) fn push(out: &mut String, text: &str) {
    if text.is_empty() {
        out.push_str(EMPTY);
    }
    let begin = out.len();
    for byte in text.bytes() {
        match byte.to_ascii_lowercase() {
            plain @ (b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-') => out.push(char::from(plain)),
            other => write!(out, "_{other:02x}").expect("writing to a String cannot fail"),
        }
        if out.len() - begin > BYTES_MAX {
            out.truncate(begin + BYTES_MAX - HASH_DIGITS - 1);
            out.push('-');
            // Hash the lower-case text, because letter case makes no difference here either.
            let hash = Sha256::digest(text.to_ascii_lowercase());
            hash[..HASH_DIGITS / 2]
                .iter()
                .for_each(|byte| write!(out, "{byte:02x}").expect("writing to a String cannot fail"));
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tokens_stay_within_the_alphabet() {
        for (text, want) in [
            ("Octo-Org", "octo-org"),
            ("pull_request", "pull_request"),
            ("a.b*c>d e", "a_2eb_2ac_3ed_20e"),
            ("", "none"),
            ("é", "_c3_a9"),
        ] {
            assert_eq!(escaped(text), want);
        }
    }

    #[test]
    fn a_long_name_is_cut_and_keeps_its_identity() {
        assert_eq!(escaped(&"a".repeat(128)), "a".repeat(128));
        let long = escaped(&"a".repeat(129));
        assert_eq!((long.len(), &long[..112]), (128, format!("{}-", "a".repeat(111)).as_str()));
        assert_eq!(escaped(&"A".repeat(129)), long);
        assert_ne!(escaped(&"a".repeat(130)), long);
        assert_eq!(escaped(&long), long);
    }

    /// Any text, including long ones.
    fn any_text() -> impl Strategy<Value = String> {
        prop_oneof!["\\PC{0,40}", "[a-zA-Z.*> \r\n\0\u{202e}]{0,200}", "[a-z.]{2000,5000}"]
    }

    proptest! {
        #[test]
        fn any_text_is_one_bounded_token(text in any_text()) {
            let token = escaped(&text);
            prop_assert!((1..=BYTES_MAX).contains(&token.len()));
            prop_assert!(token.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-')), "{}", token);
            prop_assert_eq!(escaped(&token), token);
        }
    }
}
