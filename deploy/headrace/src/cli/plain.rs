//! Makes foreign text safe for a terminal. Text from outside must not move the cursor, change colours or turn the
//! direction of writing.

use std::borrow::Cow;
use std::fmt::Write as _;

/// `text` with every character that a terminal obeys written as `\u{…}`.
pub(crate) fn line(text: &str) -> Cow<'_, str> {
    escape(text, |_| false)
}

/// The same for a text of several lines: line breaks and tabs stay.
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    escape(text, |char| matches!(char, '\n' | '\t'))
}

fn escape(text: &str, keeps: impl Fn(char) -> bool) -> Cow<'_, str> {
    let obeyed = |char: char| (char.is_control() && !keeps(char)) || turns_direction(char);
    if !text.contains(obeyed) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 32);
    for char in text.chars() {
        if obeyed(char) {
            write!(out, "{}", char.escape_unicode()).expect("writing to a String cannot fail");
        } else {
            out.push(char);
        }
    }
    Cow::Owned(out)
}

/// The marks, embeddings, overrides and isolates of Unicode's bidirectional algorithm (UAX 9).
const fn turns_direction(char: char) -> bool {
    matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_written_out() {
        assert_eq!(line("plain é 😀"), "plain é 😀");
        assert_eq!(line("\u{1b}[31m\r\n\u{202e}x\u{9b}"), "\\u{1b}[31m\\u{d}\\u{a}\\u{202e}x\\u{9b}");
        assert_eq!(lines("a\n\tb\u{7}"), "a\n\tb\\u{7}");
    }
}
