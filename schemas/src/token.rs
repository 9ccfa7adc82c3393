//! Tokens: the parts of subjects and keys.
//!
//! A token is lower case and within `[a-z0-9_-]`. Any other byte becomes `_` and two hex digits, and an empty text
//! becomes `none`. A token must never be longer than [`BYTES_MAX`]: a longer one is cut, and ends in `-` and a hash of
//! the whole.
//!
//! [`escaped`] leaves every token as it is, so it may be applied again and again. Hence two texts may share a token:
//! `a.b` and `a_2eb` do. Two tenants must not, so their tokens are made by [`of_tenant`], once.

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

/// The token of the tenant `name`. No other name has it, except in another letter case. [`escaped`] leaves it as it is.
///
/// Make it where a name becomes a tenant, and nowhere else: the token of a token may be another.
///
/// It differs from [`escaped`] for three kinds of names. An `_` that would look like the beginning of an escape is
/// escaped itself: `a_2eb` becomes `a_5f2eb`. The name `none` becomes `_6eone`. A name whose token would fill
/// [`BYTES_MAX`] is cut, so that no other name has the form of a cut one.
#[must_use]
pub fn of_tenant(name: &str) -> String {
    // The second looks like what the first becomes, though no other `n` is escaped.
    for (taken, own) in [(EMPTY, "_6eone"), ("_6eone", "_5f6eone")] {
        if name.eq_ignore_ascii_case(taken) {
            return own.to_owned();
        }
    }
    if name.is_empty() {
        return EMPTY.to_owned();
    }
    let mut out = String::with_capacity(name.len().min(BYTES_MAX));
    for (at, byte) in name.bytes().enumerate() {
        if byte == b'_' && looks_like_escape(&name.as_bytes()[at + 1..]) {
            write_escape(&mut out, byte);
        } else {
            push_byte(&mut out, byte);
        }
        if out.len() >= BYTES_MAX {
            cut(&mut out, 0, name);
            break;
        }
    }
    out
}

/// Whether an `_` before `rest` could be read as the beginning of an escape: of an ASCII byte, of an `_`, or of the
/// first byte of another character. The later bytes of a character follow its first, so they need no care.
fn looks_like_escape(rest: &[u8]) -> bool {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let [Some(high), Some(low)] = [rest.first().and_then(digit), rest.get(1).and_then(digit)] else { return false };
    match u8::try_from(high * 16 + low) {
        Ok(b'_' | 0xc2..=0xf4) => true,
        Ok(byte) => byte.is_ascii() && !byte.is_ascii_alphanumeric() && byte != b'-',
        Err(_) => false,
    }
}

/// Appends the token of `text` to `out`.
pub(crate) fn push(out: &mut String, text: &str) {
    if text.is_empty() {
        out.push_str(EMPTY);
    }
    let begin = out.len();
    for byte in text.bytes() {
        push_byte(out, byte);
        if out.len() - begin > BYTES_MAX {
            return cut(out, begin, text);
        }
    }
}

fn push_byte(out: &mut String, byte: u8) {
    match byte.to_ascii_lowercase() {
        plain @ (b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-') => out.push(char::from(plain)),
        other => write_escape(out, other),
    }
}

fn write_escape(out: &mut String, byte: u8) {
    write!(out, "_{byte:02x}").expect("writing to a String cannot fail");
}

/// Cuts the token that begins at `begin`, and ends it with a hash of its whole `text`.
fn cut(out: &mut String, begin: usize, text: &str) {
    out.truncate(begin + BYTES_MAX - HASH_DIGITS - 1);
    out.push('-');
    // Hash the lower-case text, because letter case makes no difference here either.
    let hash = Sha256::digest(text.to_ascii_lowercase());
    for byte in &hash[..HASH_DIGITS / 2] {
        write!(out, "{byte:02x}").expect("writing to a String cannot fail");
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

    #[test]
    fn tenants_that_shared_a_token_have_tokens_of_their_own() {
        for (name, want) in [
            ("Octo-Org", "octo-org"),
            ("", "none"),
            ("none", "_6eone"),
            ("NONE", "_6eone"),
            ("_6eone", "_5f6eone"),
            ("_5f6eone", "_5f5f6eone"),
            ("none-at-all", "none-at-all"),
            ("a.b", "a_2eb"),
            ("a_2eb", "a_5f2eb"),
            ("a_2Eb", "a_5f2eb"),
            ("a_5f2eb", "a_5f5f2eb"),
            ("é", "_c3_a9"),
            ("_c3_a9", "_5fc3_a9"),
            ("a__2eb", "a__5f2eb"),
            // No byte is written so: a letter, a digit, `-`, the later bytes of a character alone.
            ("a_41b_6e_30_2d_a9", "a_41b_6e_30_2d_a9"),
            // GitHub's logins: letters, digits and `-`, and for a managed user one `_` before the enterprise's short code.
            ("octocat_acme", "octocat_acme"),
            ("Mona-Lisa_octo", "mona-lisa_octo"),
            ("mona_20th", "mona_5f20th"),
            ("mona_dev", "mona_5fdev"),
        ] {
            assert_eq!(of_tenant(name), want, "{name}");
        }
    }

    #[test]
    fn a_long_tenants_name_is_cut_before_it_could_equal_another() {
        assert_eq!(of_tenant(&"a".repeat(127)), "a".repeat(127));
        for name in ["a".repeat(128), "a".repeat(129), ".".repeat(43), format!("{}_2e", "a".repeat(123))] {
            let cut = of_tenant(&name);
            assert_eq!((cut.len(), escaped(&cut)), (BYTES_MAX, cut.clone()), "{name}");
            assert_eq!(of_tenant(&name.to_uppercase()), cut, "{name}");
            let again = of_tenant(&cut);
            assert!(again != cut && again.len() == BYTES_MAX, "{name}: {cut} is a name too");
        }
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

        #[test]
        fn a_tenants_token_is_one_that_stays_as_it_is(name in prop_oneof![any_text(), misleading()]) {
            let token = of_tenant(&name);
            prop_assert!((1..=BYTES_MAX).contains(&token.len()));
            prop_assert_eq!(&escaped(&token), &token);
            prop_assert_eq!(of_tenant(&name.to_ascii_uppercase()), token);
        }

        #[test]
        fn no_two_tenants_share_a_token(one in misleading(), other in misleading()) {
            prop_assert_eq!(of_tenant(&one) == of_tenant(&other), one.eq_ignore_ascii_case(&other), "{} {}", one, other);
        }

        /// The likeliest twin of a name is the name that looks like its token.
        #[test]
        fn no_tenant_has_the_token_of_what_its_name_looks_like(name in prop_oneof![any_text(), misleading()]) {
            for twin in [of_tenant(&name), escaped(&name)] {
                prop_assert_eq!(of_tenant(&twin) == of_tenant(&name), twin.eq_ignore_ascii_case(&name), "{} {}", name, twin);
            }
        }
    }

    /// Short names of few parts, many of which look like escapes, so that two of them often meet.
    fn misleading() -> impl Strategy<Value = String> {
        let part =
            prop::sample::select(vec!["_", "5f", "2e", ".", "c3", "a9", "é", "_a9", "6e", "none", "one", "a", "E2"]);
        prop::collection::vec(part, 0..5).prop_map(|parts| parts.concat())
    }
}
